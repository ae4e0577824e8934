"""An open table: rows laid end to end as the hash names them, and parts that do not fit each other refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engram_cli.errors import ArtifactError, DeviceError
from engram_cli.model.host import initialise
from engram_cli.model.table import make_host, open_table, pick_device, save_weights
from engram_cli.recipe import parse_recipe
from engram_cli.store.artifact import write_artifact
from engram_cli.store.tensors import map_tensor, read_tensor_specs, write_tensors
from tests.tables import RECIPE, write_table


def test_the_device_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, found in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto").type == found
        assert pick_device("cpu").type == "cpu"
    assert pick_device("cuda").type == "cuda"


def test_a_device_that_is_none_or_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="--device is auto, cpu or cuda, but it is 'tpu'"):
        pick_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"needs a CUDA GPU, but torch .* finds none; use --device cpu"):
        pick_device("cuda")


def test_rows_are_looked_up_head_by_head(table_path: Path) -> None:
    table = open_table(table_path, "cpu")
    ids = np.arange(20) % 7
    windows_BTN = table.layout.windows(ids, np.arange(20))[None]
    memory = table.look_up(windows_BTN)
    assert set(memory) == set(table.rows) == {0, 2}
    for layer in table.layout.layers:
        assert memory[layer.layer].shape == (1, 20, 16)
        ids_TH = layer.row_ids(windows_BTN[0])
        for head in range(layer.heads):
            expected = table.rows[layer.layer].take(ids_TH[:, head])
            assert np.array_equal(memory[layer.layer][0, :, head * 4 : head * 4 + 4], expected)
    assert table.bytes_per_token == 2 * 4 * 4 * 4  # layers, heads, numbers, bytes


def test_an_open_table_is_ready_and_leaves_its_files_alone(table_path: Path) -> None:
    table = open_table(table_path, "cpu")
    assert not table.host.training
    assert table.host.device.type == "cpu"
    assert (table.layout.max_order, table.layout.pad) == (3, int(table.canonical_V[table.artifact.manifest.facts["pad"]]))
    assert table.tokenizer.id_to_token(table.end) == "<|endoftext|>"
    with pytest.raises(ValueError, match="read-only"):
        table.rows[0].put(np.array([0]), np.zeros((1, 4), np.float32))


def test_saved_weights_are_the_hosts(tmp_path: Path) -> None:
    host = make_host(parse_recipe(RECIPE), 50, None)
    initialise(host, torch.Generator().manual_seed(0))
    save_weights(host, tmp_path)
    assert read_tensor_specs(tmp_path / "memory.safetensors") == {}
    specs = read_tensor_specs(tmp_path / "host.safetensors")
    assert list(specs) == sorted(name for name, _ in host.host_parameters())
    for name, parameter in host.host_parameters():
        assert np.array_equal(map_tensor(tmp_path / "host.safetensors", specs[name]), parameter.detach())


# parts that do not fit each other -------------------------------------------------------------------------------------
def reshape_rows(folder: Path) -> None:
    write_tensors(folder / "rows-02.safetensors", {"rows": ("F32", np.zeros((7, 4), np.float32))})


def rename_weight(folder: Path) -> None:
    path = folder / "host.safetensors"
    tensors = {name: ("F32", np.array(map_tensor(path, spec))) for name, spec in read_tensor_specs(path).items()}
    tensors["other"] = tensors.pop("final_norm.weight")
    write_tensors(path, tensors)


@pytest.mark.parametrize(
    ("spoil", "refusal"),
    [
        (reshape_rows, r"rows-02.safetensors must hold \d+ x 4 rows by the layout, but holds 7 x 4"),
        (rename_weight, r"the weights in .* do not fit its recipe \(.*final_norm.weight.*\); build the table again"),
    ],
    ids=["rows", "weights"],
)
def test_parts_that_do_not_fit_each_other_are_refused(tmp_path: Path, spoil: Callable[[Path], None], refusal: str) -> None:
    made = write_table(tmp_path / "made")
    manifest = json.loads((made / "manifest.json").read_text())
    with write_artifact(tmp_path / "spoilt", "table") as draft:  # with digests that are right
        for name in manifest["files"]:
            (draft.path / name).write_bytes((made / name).read_bytes())
        spoil(draft.path)
        draft.recipe, draft.facts = manifest["recipe"], manifest["facts"]
    with pytest.raises(ArtifactError, match=refusal):
        open_table(tmp_path / "spoilt", "cpu")


def test_what_is_no_table_is_refused(ngrams_path: Path, table_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"needs an artifact of kind table, but .* is of kind ngrams"):
        open_table(ngrams_path)

    def none(*arguments: Any) -> bool:
        return False

    monkeypatch.setattr(torch.cuda, "is_available", none)
    with pytest.raises(DeviceError):
        open_table(table_path, "cuda")
