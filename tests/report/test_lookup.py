"""Looking into a table by text, gram and row: the same rows and grams as the hash gives when asked by hand."""

from pathlib import Path

import numpy as np
import pytest

from engram_cli.corpus.artifact import NGrams, open_ngrams
from engram_cli.corpus.canonical import token_map
from engram_cli.errors import ArtifactError, RecipeError, TokenizerError
from engram_cli.report.lookup import Lookup, look_up_gram, look_up_text, open_lookup
from engram_cli.report.report import Measure
from engram_cli.report.row import look_at_row
from engram_cli.table.formats import open_stored_table
from engram_cli.table.hashing import row_ids
from engram_cli.table.stored import StoredTable
from tests.checkpoints import write_deepseek, write_qwen
from tests.corpora import write_ngrams


@pytest.fixture(scope="module")
def ngrams(tmp_path_factory: pytest.TempPathFactory) -> NGrams:
    """Counts of the orders that the V4.1 layout hashes."""
    return open_ngrams(write_ngrams(tmp_path_factory.mktemp("lookup") / "ngrams", documents=80, orders=4))


@pytest.fixture(scope="module")
def stored(ngrams: NGrams, tmp_path_factory: pytest.TempPathFactory) -> StoredTable:
    """A checkpoint whose tokenizer and pad are those of the n-grams."""
    path, tokenizer = tmp_path_factory.mktemp("lookup") / "checkpoint", ngrams.artifact.file("tokenizer.json")
    return open_stored_table(write_deepseek(path, ngrams.canonical_vocab, tokenizer, engram_pad_token_id=ngrams.pad))


@pytest.fixture(scope="module")
def lookup(stored: StoredTable, ngrams: NGrams) -> Lookup:
    return open_lookup(stored, ngrams)


def _counted(lookup: Lookup, ngrams: NGrams, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(canonical ids, counts, rows of the first layer's heads of that order) of all grams, by the definition of the hash."""
    grams_G, counts_G = ngrams.counts(order)
    windows_GN, layer = ngrams.unpack(grams_G, order), lookup.layout.layers[0]
    heads = layer.heads_of(order)
    parts = layer.multipliers_NH[:order, heads], np.array(layer.primes_H[heads]), np.array(layer.offsets_H[heads])
    return windows_GN, np.asarray(counts_G), row_ids(windows_GN, *parts)


def test_a_text_names_the_rows_of_its_windows(lookup: Lookup, ngrams: NGrams) -> None:
    report = look_up_text(lookup, "The capital of")
    raw = lookup.tokenizer.encode("The capital of").ids
    grams, rows = (report.tables[name].to_pylist() for name in ("grams", "rows"))
    assert [(record["position"], record["order"]) for record in grams] == [(at, n) for at in range(len(raw)) for n in (2, 3, 4)]
    assert grams[0]["gram"].startswith("⊢")
    assert not grams[3]["gram"].startswith("⊢")
    windows_TN = lookup.layout.windows(lookup.canonical_V[raw], np.arange(len(raw)))
    for layer in lookup.layout.layers:
        named = [record["row"] for record in rows if record["layer"] == layer.layer]
        assert named == layer.row_ids(windows_TN).ravel().tolist()
        assert [record[f"rows_layer_{layer.layer}"] for record in grams] == [
            " ".join(map(str, named[at : at + 2])) for at in range(0, len(named), 2)
        ]
    held = {layer.layout.layer: layer.rows for layer in lookup.stored.layers}
    for record in rows[:20]:
        values_E = held[record["layer"]].read(record["row"], 1)[0]
        assert record["norm"] == pytest.approx(float(np.linalg.norm(values_E)), rel=1e-6)
        assert record["first_numbers"] == " ".join(f"{value:.4g}" for value in values_E[:4])
    assert grams[-1]["count"] == ngrams.count(windows_TN[-1, ::-1].tolist())


def test_the_grams_of_a_row_are_those_the_hash_puts_there(lookup: Lookup, stored: StoredTable, ngrams: NGrams) -> None:
    windows_GN, counts_G, rows_GH = _counted(lookup, ngrams, 3)
    row = int(np.bincount(rows_GH[:, 1]).argmax())
    inside = np.flatnonzero(rows_GH[:, 1] == row)
    report = look_at_row(stored, f"1:{row}", ngrams)
    assert report.facts["grams that live in it"] == Measure(len(inside), "grams")
    assert report.facts["occurrences"] == Measure(int(counts_G[inside].sum()), "tokens")
    assert (report.facts["order"], report.facts["head"]) == (3, 1)
    grams = report.tables["grams"].to_pylist()
    expected = sorted((-int(counts_G[at]), windows_GN[at, ::-1].tolist()) for at in inside)
    assert [(record["gram"], record["count"]) for record in grams] == [(ngrams.text(ids), -count) for count, ids in expected]
    assert sum(record["share"] for record in grams) == pytest.approx(1)


def test_the_numbers_of_a_row_are_its_bits_times_its_scales(stored: StoredTable) -> None:
    report = look_at_row(stored, "14:1_0")
    rows = stored.layers[1].rows
    numbers, scales = rows.read_stored(10, 1)
    records = report.tables["numbers"].to_pylist()
    assert [record["value"] for record in records] == rows.read(10, 1)[0].tolist()
    assert [record["stored"] for record in records] == [f"{byte:02x}" for byte in numbers[0]]
    assert [record["scale"] for record in records[::32]] == (2.0 ** (scales[0].astype(float) - 127)).tolist()
    assert "grams" not in report.tables


def test_a_gram_and_what_shares_its_rows(lookup: Lookup, ngrams: NGrams) -> None:
    windows_GN, counts_G, rows_GH = _counted(lookup, ngrams, 2)
    tokens_T = ngrams.stream(held_out=False).tokens_T.tolist()
    texts = [lookup.tokenizer.decode(tokens_T[at : at + 2]) for at in range(20)]
    text = next(text for at, text in enumerate(texts) if lookup.tokenizer.encode(text).ids == tokens_T[at : at + 2])
    report = look_up_gram(lookup, text)
    wanted = lookup.canonical_V[lookup.tokenizer.encode(text).ids].tolist()
    at = int(np.flatnonzero((windows_GN[:, ::-1] == wanted).all(axis=1))[0])
    assert report.facts["occurrences in the n-grams"] == Measure(int(counts_G[at]), "tokens")
    records = report.tables["rows"].to_pylist()
    assert len(records) == 2 * 2, "layers times heads of the order"
    for head in (0, 1):
        assert records[head]["row"] == rows_GH[at, head]
        inside = rows_GH[:, head] == rows_GH[at, head]
        assert (records[head]["grams"], records[head]["occurrences"]) == (int(inside.sum()), int(counts_G[inside].sum()))
        assert (records[head]["others"] == "none") == (inside.sum() == 1)


def test_raw_ids_are_looked_up_too(tokenizer_path: Path, tmp_path: Path) -> None:
    lookup = open_lookup(open_stored_table(write_qwen(tmp_path / "qwen", tokenizer_path)))
    rows = look_up_text(lookup, "The the").tables["rows"].to_pylist()
    raw = np.array(lookup.tokenizer.encode("The the").ids)
    layer = lookup.layout.layers[0]
    assert [record["row"] for record in rows] == layer.row_ids(lookup.layout.windows(raw, np.arange(len(raw)))).ravel().tolist()


def test_our_own_tables_are_looked_into_too(table_path: Path) -> None:
    assert look_up_text(open_lookup(open_stored_table(table_path)), "Paris").tables["grams"].num_rows


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("1", "LAYER:ROW"),
        ("1:-1", "LAYER:ROW"),
        ("1:x", "LAYER:ROW"),
        ("2:0", "rows in layers 1, 14, but --row asks for layer 2"),
        ("1:99999999", "counted from 0, but --row asks for 99999999"),
    ],
)
def test_rows_that_are_not_there(stored: StoredTable, place: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        look_at_row(stored, place)


def test_texts_that_cannot_be_looked_up(lookup: Lookup) -> None:
    for text, message in (("", "has none; give some text"), ("\ud800", "is not")):
        with pytest.raises(TokenizerError, match=message):
            look_up_text(lookup, text)
    for text in ("a", "one two three four five six"):
        with pytest.raises(RecipeError, match="has 2 or 3 or 4 tokens, but"):
            look_up_gram(lookup, text)


def test_letters_the_tokenizer_does_not_have(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    for unknown in (None, "[UNK]"):
        tokenizer = Tokenizer(models.BPE({"[UNK]": 0, "a": 1, "b": 2, "ab": 3}, [("a", "b")], unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        folded = token_map(tokenizer)
        path = write_deepseek(tmp_path / str(unknown), folded.canonical_vocab, tmp_path / "tokenizer.json")
        lookup = open_lookup(open_stored_table(path))
        assert look_up_text(lookup, "ab a").tables["grams"].num_rows == 2 * 3
        with pytest.raises(TokenizerError, match="but 'x' in 'ab x' has none"):
            look_up_text(lookup, "ab x")


def test_n_grams_of_another_map_are_refused(table_path: Path, stored: StoredTable, ngrams: NGrams, raw_ngrams: NGrams) -> None:
    counted, own = (each.artifact.manifest.facts["token_map_digest"] for each in (raw_ngrams, ngrams))
    with pytest.raises(ArtifactError, match=f"{own} and .* has {counted}: every row would be read for the wrong gram"):
        look_at_row(stored, "1:0", raw_ngrams)
    with pytest.raises(ArtifactError, match="one token map"):
        open_lookup(open_stored_table(table_path), ngrams)


def test_without_a_tokenizer_rows_can_be_seen_but_not_named(ngrams: NGrams, tmp_path: Path) -> None:
    stored = open_stored_table(write_deepseek(tmp_path / "bare", ngrams.canonical_vocab))
    assert look_at_row(stored, "1:0").facts["head"] == 0
    with pytest.raises(ArtifactError, match=r"none lies beside the table of .*; put its tokenizer.json there"):
        open_lookup(stored)
