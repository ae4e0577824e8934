"""A cluster gives the bytes of one process, and what it loses costs only the tasks that were lost.

Two nodes on this machine, on loopback. A task that kills its worker, or waits until its node is removed, does so the first time only.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from engram_cli.corpus import engine, engine_ray
from engram_cli.corpus.engine import Stretch
from engram_cli.corpus.engine_ray import RETRIES, RayEngine, connect
from engram_cli.corpus.extract import extract
from engram_cli.errors import ClusterError, EngramError, RecipeError, ResourceError
from tests.corpora import make_documents, write_jsonl

LIMIT = 300  # seconds for a test: a cluster that hangs fails


@pytest.fixture(autouse=True)
def _limit() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and another node of one core each; this process is connected to it."""
    with pytest.MonkeyPatch.context() as patch:
        settings = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
        settings |= {"RAY_AUTH_TOKEN": "of-the-tests" * 4, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        for name, value in settings.items():
            patch.setenv(name, value)
        pytest.importorskip("ray", reason="`make install` has it")
        from ray.cluster_utils import Cluster

        # A removed node is missed after ten seconds; a busy machine may answer as late as that and stay.
        health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 10}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": health, "include_dashboard": False})
        made.add_node(num_cpus=1)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", make_documents(150))


@pytest.fixture
def extracted(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, bytes]]:
    """Extracts the corpus in many small stretches; the bytes of all files but the manifest, which tells the time."""
    monkeypatch.setattr(engine, "count_tokens", partial(engine.count_tokens, stretch=500))

    def run(name: str, **options: Any) -> dict[str, bytes]:
        extract([corpus], tmp_path / name, train_vocab=384, memory=1 << 40, **options)
        return {file.name: file.read_bytes() for file in (tmp_path / name).iterdir() if file.name != "manifest.json"}

    return run


def once(marker: Path, happening: Callable[[], None], chosen: Callable[[Any], bool]) -> Callable[..., Any]:
    """Counting in which something happens to the first task that is chosen; sent to workers by value."""
    count, create = engine_ray._count, os.O_CREAT | os.O_EXCL

    def counting(stretch: Any, *shared: Any) -> Any:
        if chosen(stretch):
            try:
                os.close(os.open(marker, create))
            except FileExistsError:
                pass
            else:
                happening()
        return count(stretch, *shared)

    return counting


def test_the_bytes_are_those_of_one_process(cluster: Any, extracted: Callable[..., dict[str, bytes]]) -> None:
    assert extracted("ray", engine="ray", address=cluster.address) == extracted("local")


def test_a_killed_worker_costs_its_task(
    cluster: Any, extracted: Callable[..., dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        os.kill(os.getpid(), 9)

    monkeypatch.setattr(engine_ray, "_count", once(tmp_path / "killed", die, lambda stretch: stretch.begin == 2500))
    assert extracted("ray", engine="ray", address=cluster.address) == extracted("local")
    assert (tmp_path / "killed").exists()


def test_a_removed_node_costs_its_tasks(
    cluster: Any, extracted: Callable[..., dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    marker, doomed, submit = tmp_path / "waits", next(iter(cluster.worker_nodes)), RayEngine.submit

    def chosen(stretch: Any) -> bool:
        return stretch.begin == 2500  # type: ignore[no-any-return]

    def send(engine: RayEngine, call: Callable[..., Any], part: Any, *shared: Any) -> Any:
        """To the node that will go, while there is one, and not to where there happens to be room."""
        if isinstance(part, Stretch) and chosen(part):
            there = NodeAffinitySchedulingStrategy(doomed.node_id, soft=True)
            engine = copy(engine)
            engine.task = engine.ray.remote(max_retries=RETRIES, scheduling_strategy=there)(engine_ray._task)
        return submit(engine, call, part, *shared)

    def remove() -> None:
        while not marker.exists():
            time.sleep(0.05)
        cluster.remove_node(doomed, allow_graceful=False)

    monkeypatch.setattr(RayEngine, "submit", send)
    monkeypatch.setattr(engine_ray, "_count", once(marker, partial(time.sleep, LIMIT), chosen))
    removing = Thread(target=remove, daemon=True)
    removing.start()
    whole = extracted("ray", engine="ray", address=cluster.address)
    removing.join()
    cluster.add_node(num_cpus=1)  # for the tests after this one
    assert whole == extracted("local")


def test_what_fails_for_good_is_told_in_one_line(cluster: Any, tmp_path: Path) -> None:
    def missing(part: int) -> None:
        (tmp_path / "nowhere").open()

    def wrong(part: int) -> None:
        raise ValueError(f"part {part}")

    def told(part: int) -> None:
        raise RecipeError("our own")

    cases: list[tuple[Callable[[int], None], type[EngramError], str]] = [
        (missing, ClusterError, "every node sees them, but .* does not see .*nowhere"),
        (wrong, ClusterError, r"one did not \(ValueError: part 7\)"),
        (told, RecipeError, "^our own$"),
    ]
    with connect(cluster.address, None) as used:
        for call, error, said in cases:
            with pytest.raises(error, match=said) as raised:
                list(used.in_order(call, [7]))
            assert "\n" not in str(raised.value)
        with pytest.raises(ClusterError, match="all nodes have one engram"):
            used.result(used.task.remote("0.0", len, ""))


def test_too_little_memory_is_told_with_who_shares_it(cluster: Any, tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ResourceError, match=r"--memory must hold .* \(for each process: 2 of a machine share --memory\)$"):
        extract([corpus], tmp_path / "out", train_vocab=384, memory=64 << 20, engine="ray", address=cluster.address)


def test_an_address_without_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: Path) -> None:
    pytest.importorskip("ray", reason="`make install` has it")
    monkeypatch.setattr(engine_ray, "PATIENCE", 3)
    with pytest.raises(ClusterError, match="nothing at 127.0.0.1:1 answered"):
        extract([corpus], tmp_path / "out", train_vocab=384, engine="ray", address="127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_options_that_do_not_fit_are_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(RecipeError, match="give --engine ray too"):
        extract([corpus], tmp_path / "out", train_vocab=384, address="127.0.0.1:1")
    with pytest.raises(RecipeError, match="one of local, ray, but it is 'dask'"):
        extract([corpus], tmp_path / "out", train_vocab=384, engine="dask")


def test_a_missing_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r'pip install "engram-tables\[ray\]"'), connect(None, None):
        pass


def test_a_cluster_of_its_own_is_started_and_stopped(corpus: Path, tmp_path: Path) -> None:
    """By the command line in a process of its own, on loopback, and quietly."""
    pytest.importorskip("ray", reason="`make install` has it")
    command = [sys.executable, "-m", "engram_cli", "extract", str(corpus), "--train-tokenizer", "384", "--engine", "ray"]
    command += ["--threads", "1", "--memory", "2GiB", "--out", str(tmp_path / "out"), "--json"]
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-the-tests" * 4}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=os.environ | secret, check=False)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(("[", "engram: ")) for line in done.stderr.splitlines()), done.stderr
    assert (tmp_path / "out/manifest.json").exists()
