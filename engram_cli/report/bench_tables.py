"""What `bench` found, as tables: losses and costs by arm, every run, and the curves; and the verdicts in words."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engram_cli.report.report import column, table

CONTROLS = ("plain+statistics", "plain+last", "plain")  # the fairest first
_CURVES = [
    column("arm", pa.string(), "text"),
    column("seed", pa.int64()),
    column("tokens", pa.int64(), "tokens"),
    column("seconds", pa.float64(), "seconds"),
    column("loss", pa.float64(), "nats"),
    column("bits_per_byte", pa.float64(), "bits"),
]
_LOSSES = [
    column("arm", pa.string(), "text"),
    column("seeds", pa.int64()),
    column("loss", pa.float64(), "nats"),
    column("spread", pa.float64(), "nats"),
    column("bits_per_byte", pa.float64(), "bits"),
    column("loss_mixed_with_counts", pa.float64(), "nats"),
    column("loss_at_equal_tokens", pa.float64(), "nats"),
    column("tokens", pa.int64(), "tokens"),
    column("seconds", pa.float64(), "seconds"),
    column("preparation", pa.float64(), "seconds"),
]
_COSTS = [
    column("arm", pa.string(), "text"),
    column("parameters_stored", pa.int64(), "parameters"),
    column("read_per_token", pa.int64(), "parameters"),
    column("peak_memory", pa.int64(), "bytes"),
    column("training_speed", pa.float64(), "tokens/s"),
    column("decode_speed", pa.float64(), "tokens/s"),
    column("decode_memory_off", pa.float64(), "tokens/s"),
]
_RUNS = [
    column("arm", pa.string(), "text"),
    column("seed", pa.int64()),
    column("loss", pa.float64(), "nats"),
    column("loss_mixed_with_counts", pa.float64(), "nats"),
    column("tokens", pa.int64(), "tokens"),
    column("seconds", pa.float64(), "seconds"),
    column("training_speed", pa.float64(), "tokens/s"),
]


@dataclass(frozen=True)
class Run:
    """One arm with one seed: held-out loss alone and mixed with counts (nats), what it took, and its curve of (tokens, seconds with
    preparation, loss); costs: a record of the costs table."""

    arm: str
    seed: int
    loss: float
    mixed: float
    tokens: int
    seconds: float
    preparation: float
    curve: Sequence[tuple[int, float, float]]
    costs: Mapping[str, Any]


def bench_tables(runs: Sequence[Run], bits_per_nat: float) -> dict[str, pa.Table]:
    """The tables losses, costs, runs and curves; `bits_per_nat` turns nats per token into bits per byte of the held-out text."""
    arms = by_arm(runs).items()
    equal = equal_tokens(runs)
    losses = [_loss_record(arm, items, bits_per_nat, equal) for arm, items in arms]
    return {
        "losses": table(_LOSSES, losses, title="Held-out loss"),
        "costs": table(_COSTS, [_cost_record(arm, items) for arm, items in arms], title="Costs"),
        "runs": table(_RUNS, [_run_record(run) for run in runs], title="Runs", limit=0),
        "curves": table(_CURVES, list(_curve_records(runs, bits_per_nat)), title="Curves", limit=0),
    }


def by_arm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    return {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}


def equal_tokens(runs: Sequence[Run]) -> int:
    """The training tokens that every trained run has reached; a host that is left as it is has none."""
    return min((run.tokens for run in runs if run.arm != "counts" and run.tokens), default=0)


def _loss_record(arm: str, runs: Sequence[Run], bits: float, equal_tokens: int) -> dict[str, Any]:
    losses = [run.loss for run in runs]
    loss = statistics.fmean(losses)
    return {
        "arm": arm,
        "seeds": len(runs),
        "loss": loss,
        "spread": max(losses) - min(losses) if len(runs) > 1 else None,
        "bits_per_byte": loss * bits,
        "loss_mixed_with_counts": None if arm == "counts" else mean(runs, "mixed"),
        "loss_at_equal_tokens": None if arm == "counts" else _at_tokens(runs, equal_tokens),
        "tokens": round(mean(runs, "tokens")),
        "seconds": mean(runs, "seconds"),
        "preparation": mean(runs, "preparation"),
    }


def _at_tokens(runs: Sequence[Run], tokens: int) -> float | None:
    """The mean loss on the curve's text at so many tokens, between the two nearest evaluations; None where that is before the first
    evaluation of a run."""
    if any(tokens < run.curve[0][0] for run in runs):
        return None
    return statistics.fmean(np.interp(tokens, [p[0] for p in run.curve], [p[2] for p in run.curve]) for run in runs)


def _cost_record(arm: str, runs: Sequence[Run]) -> dict[str, Any]:
    means = ("training_speed", "decode_speed", "decode_memory_off")
    record = {"arm": arm, **runs[0].costs}
    for name in means:
        values = [run.costs[name] for run in runs if run.costs.get(name) is not None]
        record[name] = statistics.fmean(values) if values else None
    record["peak_memory"] = max((run.costs["peak_memory"] for run in runs if run.costs["peak_memory"]), default=None)
    return record


def _run_record(run: Run) -> dict[str, Any]:
    return {
        **{name: getattr(run, name) for name in ("arm", "seed", "loss", "tokens", "seconds")},
        "loss_mixed_with_counts": None if run.arm == "counts" else run.mixed,
        "training_speed": run.costs["training_speed"],
    }


def _curve_records(runs: Sequence[Run], bits: float) -> Iterator[dict[str, Any]]:
    for run in runs:
        for tokens, seconds, loss in run.curve:
            point = {"tokens": tokens, "seconds": seconds, "loss": loss, "bits_per_byte": loss * bits}
            yield {"arm": run.arm, "seed": run.seed, **point}


def verdicts(runs: Sequence[Run]) -> list[str]:
    """One sentence per opponent of engram, the same words whoever wins."""
    arms = by_arm(runs)
    if "engram" not in arms:
        return []
    engram = mean(arms["engram"], "loss")
    opponents = {arm: mean(items, "loss") for arm, items in arms.items() if arm != "engram"}
    controls = [arm for arm in CONTROLS if arm in arms]
    if controls:
        opponents[f"{controls[0]} mixed half and half with counts"] = mean(arms[controls[0]], "mixed")
    return [_verdict(engram, loss, name) for name, loss in opponents.items()]


def _verdict(engram: float, loss: float, name: str) -> str:
    word = "better" if engram < loss else "worse"
    return f"engram is {abs(engram - loss):.3f} nats {word} than {name} ({engram:.3f} against {loss:.3f})"


def mean(runs: Sequence[Run], name: str) -> float:
    return statistics.fmean(getattr(run, name) for run in runs)
