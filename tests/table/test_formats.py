"""Tables where they lie: each layout is found, gives the rows that its bytes mean, and hashes as its family does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engram_cli.errors import ArtifactError
from engram_cli.store.shards import open_shards
from engram_cli.store.tensors import map_tensor
from engram_cli.table.formats import TOKEN_MAP_DIGEST, is_checkpoint, open_stored_table
from engram_cli.table.layout import plan_layout
from tests.checkpoints import (
    DEEPSEEK,
    QWEN,
    deepseek_specs,
    fill_constants,
    qwen_specs,
    write_checkpoint,
    write_deepseek,
    write_demo,
    write_qwen,
)
from tests.tables import whole

CANONICAL = np.arange(200, dtype=np.uint32)


def bytes_of(path: Path, name: str) -> torch.Tensor:
    stored = open_shards(path)[name]
    return torch.from_numpy(np.array(map_tensor(stored.path, stored.spec)))


def test_deepseek_rows_are_what_torch_makes_of_their_bytes(tmp_path: Path) -> None:
    stored = open_stored_table(write_deepseek(tmp_path / "checkpoint", 200))
    assert (stored.form, stored.family.name, stored.vocab, stored.pad) == ("deepseek-v4.1", "deepseek-v4.1", 200, 2)
    assert [layer.layout.layer for layer in stored.layers] == [1, 14]
    for layer in stored.layers:
        name = f"layers.{layer.layout.layer}.engram.embed"
        numbers = bytes_of(stored.path, f"{name}.weight").view(torch.float8_e4m3fn).float()
        scales = bytes_of(stored.path, f"{name}.scale").view(torch.float8_e8m0fnu).float()
        expected = (numbers.unflatten(1, (2, 32)) * scales[..., None]).flatten(1).numpy()
        assert np.array_equal(whole(layer.rows), expected)
        ids = np.random.default_rng(0).integers(0, layer.layout.rows, (5, 6))
        assert np.array_equal(layer.rows.take(ids), expected[ids])
        assert (layer.rows.type.name, layer.rows.bytes_per_row, layer.bytes_per_token) == ("fp8-block", 66, 6 * 66)
        assert list(layer.tensors) == [
            f"layers.{layer.layout.layer}.engram.{part}"
            for part in ("embed.weight", "embed.scale", "wkv.weight", "wkv.scale", "q_weight", "k_weight")
        ]


def test_qwen_rows_are_the_stretches_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    stored = open_stored_table(write_qwen(tmp_path / "checkpoint"))
    assert (stored.form, stored.family.name, stored.vocab, stored.pad) == ("qwen-ple", "qwen-ple", 320, 0)
    (layer,) = stored.layers
    prefix = "model.language_model.layers.1.ple.ple_embedding.ngram_embedding.shard_"
    parts = [bytes_of(stored.path, f"{prefix}{part}.weight").view(torch.float8_e4m3fn).float() / 2 for part in range(5)]
    expected = torch.cat(parts).numpy()
    assert layer.layout.layer == 1, "1-based in the config, 0-based here and in the names"
    assert layer.rows.count == layer.layout.rows == len(expected)
    assert np.array_equal(whole(layer.rows), expected)
    ids = np.random.default_rng(0).integers(0, len(expected), 50)
    assert np.array_equal(layer.rows.take(ids), expected[ids])


def test_the_state_of_the_demo(tmp_path: Path) -> None:
    stored = open_stored_table(write_demo(tmp_path / "checkpoint"))
    assert (stored.form, stored.family.name, stored.vocab) == ("demo", "demo", None)
    for layer in stored.layers:
        expected = bytes_of(stored.path, f"layers.{layer.layout.layer}.engram.multi_head_embedding.embedding.weight").numpy()
        assert np.array_equal(whole(layer.rows), expected)
        assert layer.layout.multipliers_N == (), "not known before the tokenizer is"
    layout = stored.layout(CANONICAL)
    assert [layer.rows for layer in layout.layers] == [layer.rows.count for layer in stored.layers]
    assert all(layer.multipliers_N for layer in layout.layers)


def test_our_artifacts_are_opened_alike(table_path: Path) -> None:
    stored = open_stored_table(table_path)
    assert (stored.form, stored.family.name) == ("engram", "demo")
    assert stored.token_map_digest is not None
    assert [layer.layout.layer for layer in stored.layers] == [0, 2]
    canonical_V = np.arange(stored.vocab or 0, dtype=np.uint32)
    assert stored.layout(canonical_V).layers == tuple(layer.layout for layer in stored.layers)


def test_the_layout_is_that_of_the_family(tmp_path: Path) -> None:
    stored = open_stored_table(write_deepseek(tmp_path / "checkpoint", 200))
    assert not isinstance(stored.planned, type(None))
    layout = stored.layout(CANONICAL)
    assert layout == plan_layout(stored.planned.hash, 200, 2)  # type: ignore[union-attr]
    assert layout.layers == tuple(layer.layout for layer in stored.layers)
    with pytest.raises(ArtifactError, match="hashes 200 canonical ids, but its tokenizer has 150: every row would be read for the"):
        stored.layout(CANONICAL[:150])


def test_published_sizes_open_without_being_read(tmp_path: Path) -> None:
    """Sparse, and so large that they are not read by mistake."""
    deepseek = write_checkpoint(tmp_path / "deepseek", DEEPSEEK, deepseek_specs(DEEPSEEK))
    qwen = write_checkpoint(tmp_path / "qwen", QWEN, qwen_specs(QWEN))
    fill_constants(qwen, QWEN)
    for path, rows, size in ((deepseek, [384_006_168, 384_016_682], 264 * 768_022_850), (qwen, [320_001_536], 160 * 320_001_536)):
        stored = open_stored_table(path)
        assert [layer.rows.count for layer in stored.layers] == rows
        assert sum(layer.bytes for layer in stored.layers) == size
        last = stored.layers[-1].rows
        assert last.take(np.array([0, last.count - 1])).shape == (2, last.dim)


def test_a_digest_of_the_token_map_is_read_where_one_is_recorded(tmp_path: Path) -> None:
    assert open_stored_table(write_deepseek(tmp_path / "one", 200)).token_map_digest is None
    path = write_deepseek(tmp_path / "two", 200, **{TOKEN_MAP_DIGEST: "00" * 16})
    assert open_stored_table(path).token_map_digest == "00" * 16


def test_rows_are_read_where_other_shards_are_not_there(tmp_path: Path) -> None:
    path = write_deepseek(tmp_path / "checkpoint", 200)
    (path / "model-00003-of-00003.safetensors").unlink()
    stored = open_stored_table(path)
    assert stored.missing == ("model-00003-of-00003.safetensors",)
    assert whole(stored.layers[0].rows).any()


def test_what_is_taken_for_a_checkpoint(tmp_path: Path, table_path: Path) -> None:
    assert not is_checkpoint(table_path)
    assert not is_checkpoint(tmp_path)
    assert not is_checkpoint(tmp_path / "nowhere")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).touch()
        assert is_checkpoint(tmp_path / name[0])
