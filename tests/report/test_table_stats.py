"""What all rows of a table hold: the same figures as numpy has them from the decoded rows."""

import json
from pathlib import Path

import numpy as np
import pytest

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ArtifactError
from engram_cli.report import table_stats
from engram_cli.report.report import Measure, write_report
from engram_cli.report.table_stats import table_statistics
from engram_cli.table.formats import open_stored_table
from engram_cli.table.layout import LayerLayout
from engram_cli.table.row_types import ROW_TYPES
from engram_cli.table.rows import Rows
from engram_cli.table.stored import StoredLayer
from tests.checkpoints import fill_constants, write_deepseek, write_qwen

PRIMES, DIM = (101, 103, 107), 64


@pytest.mark.parametrize("row_type", ROW_TYPES)
def test_weights_are_those_of_the_decoded_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_type: str) -> None:
    monkeypatch.setattr(table_stats, "_STRETCH", 1000)
    random = np.random.default_rng(0)
    values_RE = random.standard_normal((sum(PRIMES), DIM)).astype(np.float32) * np.exp2(random.integers(-8, 8, (sum(PRIMES), 1)))
    values_RE[7] = values_RE[200] = 0
    values_RE[9, 3] = values_RE[120, 60] = values_RE[120, 61] = np.nan
    values_RE[220, 5] = -np.inf
    values_RE[230, 0] = 1e-6
    rows = Rows.create(tmp_path / "rows.safetensors", sum(PRIMES), DIM, row_type)
    if row_type == "fp8-scalar":
        rows.scales = np.array([0.5], np.float32)
    rows.put(slice(0, sum(PRIMES)), values_RE.astype(np.float32))
    layout = LayerLayout(0, (2, 2, 3), PRIMES, (1, 3, 5))
    found = table_stats.weigh(StoredLayer(layout, rows, {}))
    numbers_RE, scales = rows.read_stored(0, rows.count)
    decoded_RE = rows.read(0, rows.count).astype(np.float64)
    for weight, first, prime in zip(found, layout.offsets_H, PRIMES, strict=True):
        head_RE = decoded_RE[first : first + prime]
        bytes_RE = numbers_RE[first : first + prime].view(np.uint8)
        saturated = int((bytes_RE & 0x7F == 0x7E).sum()) if rows.type.numbers == "F8_E4M3" else 0
        expected = [int((head_RE == 0).all(axis=1).sum()), int(np.isnan(head_RE).sum()), int(np.isinf(head_RE).sum()), saturated]
        assert weight.counts.tolist() == expected
        norms = np.linalg.norm(head_RE, axis=1)
        norms = norms[np.isfinite(norms)]
        assert weight.norms == pytest.approx([norms.sum(), norms.max(), norms.min()], rel=1e-6)
        assert weight.squares.sum() == len(norms)
        histogram = np.bincount(np.where(norms > 0, np.frexp(norms**2)[1] + 1022, 0), minlength=2048)
        assert np.abs(weight.squares - histogram).sum() <= 2, "but for what lies on an edge"
        if row_type == "fp8-block":
            assert np.array_equal(weight.scales, np.bincount(scales[first : first + prime].ravel(), minlength=256))
        elif row_type == "int8-row":
            assert weight.scales.sum() == prime
        else:
            assert not weight.scales.any()


def test_any_bytes_of_e4m3_and_any_scales(tmp_path: Path) -> None:
    """All 256 numbers under all 256 scales: f64 holds every square, and NaN wherever it stands leaves the row out."""
    random = np.random.default_rng(1)
    rows = Rows.create(tmp_path / "rows.safetensors", 4096, 64, "fp8-block")
    numbers_RE = random.permuted(np.tile(np.arange(256, dtype=np.uint8), 1024)).reshape(4096, 64)
    numbers_RE[::2] &= 0x77  # half of the rows without NaN
    scales_RB = random.permuted(np.tile(np.arange(256, dtype=np.uint8), 32)).reshape(4096, 2)
    rows.write_stored(0, numbers_RE, scales_RB)
    (weight,) = table_stats.weigh(StoredLayer(LayerLayout(0, (2,), (4096,), (1, 3)), rows, {}))
    values_RE = ROW_TYPES["fp8-scalar"].decode(numbers_RE, np.ones(1, np.float32)).astype(np.float64)
    factors_RB = np.where(scales_RB < 255, np.exp2(scales_RB - 127.0), np.nan)
    norms = np.linalg.norm(values_RE * factors_RB.repeat(32, axis=1), axis=1)
    norms = norms[~np.isnan(norms)]
    assert len(norms) > 1900
    assert weight.norms == pytest.approx([norms.sum(), norms.max(), norms.min()], rel=1e-6)
    assert weight.squares.sum() == len(norms)
    assert weight.counts.tolist() == [0, int(np.isnan(values_RE).sum()), 0, int((numbers_RE & 0x7F == 0x7E).sum())]
    assert np.array_equal(weight.scales, np.full(256, 32))


def test_rows_that_are_not_made_of_whole_blocks(tmp_path: Path) -> None:
    rows = Rows.create(tmp_path / "rows.safetensors", 3, 40, "fp8-scalar")
    rows.scales = np.array([2.0], np.float32)
    rows.write_stored(0, np.array([[0] * 40, [0xFE] + [0] * 39, [0x7F] * 40], np.uint8), None)
    (weight,) = table_stats.weigh(StoredLayer(LayerLayout(0, (2,), (3,), (1, 3)), rows, {}))
    assert weight.counts.tolist() == [1, 40, 0, 1]
    assert weight.norms.tolist() == [896, 896, 0]


def test_very_large_and_very_small_numbers_have_norms(tmp_path: Path) -> None:
    rows = Rows.create(tmp_path / "rows.safetensors", 2, 4, "f32")
    rows.put(np.arange(2), np.array([[3e30, 4e30, 0, 0], [3e-30, -4e-30, 0, 0]], np.float32))
    (weight,) = table_stats.weigh(StoredLayer(LayerLayout(0, (2,), (2,), (1, 3)), rows, {}))
    assert weight.counts.tolist() == [0, 0, 0, 0]
    assert weight.norms[1:] == pytest.approx([5e30, 5e-30])


def test_a_checkpoint_is_read_whole(ngrams: NGrams, tmp_path: Path) -> None:
    stored = open_stored_table(write_deepseek(tmp_path / "checkpoint", ngrams.canonical_vocab))
    report = table_statistics(stored)
    heads = report.tables["heads"].to_pylist()
    assert [record["rows"] for record in heads] == [prime for layer in stored.layers for prime in layer.layout.primes_H]
    assert report.facts["bytes read"] == Measure(sum(layer.bytes for layer in stored.layers), "bytes")
    assert sum(report.tables["norms"]["rows"].to_pylist()) == sum(record["rows"] for record in heads)
    assert sum(report.tables["scales"]["scales"].to_pylist()) == 2 * sum(record["rows"] for record in heads)
    assert any("all zero" in note for note in report.notes)
    saved = write_report(tmp_path / "report", report, inputs={})
    assert "table.png" in saved.manifest.files


def test_rows_that_no_gram_names(raw_ngrams: NGrams, tmp_path: Path) -> None:
    tokenizer = raw_ngrams.artifact.file("tokenizer.json")
    path = write_qwen(tmp_path / "qwen", tokenizer, vocab_size=raw_ngrams.vocab, eos_token_id=raw_ngrams.pad)
    fill_constants(path, json.loads((path / "config.json").read_text()))
    stored = open_stored_table(path)
    report = table_statistics(stored, raw_ngrams)
    (layer,) = stored.layout(np.arange(raw_ngrams.vocab, dtype=np.uint32)).layers
    for head, record in enumerate(report.tables["heads"].to_pylist()):
        order = layer.orders_H[head]
        windows_GN = raw_ngrams.unpack(raw_ngrams.counts(order)[0], order)
        named = np.unique(layer.row_ids(windows_GN, slice(head, head + 1)))
        assert record["never_touched"] == record["rows"] - len(named)
    assert not any("Without --ngrams" in note for note in report.notes)
    assert any("fill a matrix up" in note for note in report.notes)


def test_a_file_that_is_cut_meanwhile_is_an_error(ngrams: NGrams, tmp_path: Path) -> None:
    path = write_deepseek(tmp_path / "checkpoint", ngrams.canonical_vocab)
    stored = open_stored_table(path)
    shard = stored.layers[0].rows.numbers.tensors[0].path
    with shard.open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(ArtifactError, match="something cut it while it was read"):
        table_statistics(stored)
