"""What a checkpoint is: the figures of its table, and that its tokenizer is the one it was made with."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engram_cli.corpus.canonical import token_map
from engram_cli.errors import ArtifactError
from engram_cli.report.report import Measure
from engram_cli.report.stored import check_tokenizer, inspect_checkpoint
from engram_cli.table.formats import TOKEN_MAP_DIGEST, open_stored_table
from tests.checkpoints import write_deepseek, write_demo, write_qwen
from tests.hostile.test_checkpoints import other_map


@pytest.fixture(scope="module")
def canonical(tokenizer_path: Path) -> int:
    return token_map(Tokenizer.from_file(str(tokenizer_path))).canonical_vocab


def test_a_deepseek_checkpoint(tokenizer_path: Path, canonical: int, tmp_path: Path) -> None:
    report = inspect_checkpoint(write_deepseek(tmp_path / "checkpoint", canonical, tokenizer_path))
    rows = sum(report.tables["layers"]["rows"].to_pylist())
    folded = token_map(Tokenizer.from_file(str(tokenizer_path)))
    shown = (
        "layout of files",
        "hash family",
        "layers",
        "orders",
        "row type",
        "ids hashed",
        "number of ids",
        "raw ids",
        "token map",
    )
    assert [report.facts[label] for label in shown] == [
        "DeepSeek-V4.1", "deepseek-v4.1", "1, 14", "2, 3, 4", "fp8-block", "canonical ids", canonical, 320, folded.digest,
    ]  # fmt: skip
    assert report.facts["size"] == Measure(rows * 66, "bytes")
    assert report.facts["bytes read per token"] == Measure(2 * 6 * 66, "bytes")
    orders = report.tables["orders"].to_pylist()
    assert [(record["layer"], record["order"]) for record in orders] == [(1, 2), (1, 3), (1, 4), (14, 2), (14, 3), (14, 4)]
    assert orders[0]["first_prime"] == 53
    heads = report.tables["heads"].to_pylist()
    assert sum(head["prime"] for head in heads) == rows
    assert (heads[7]["layer"], heads[7]["order"], heads[7]["head"], heads[7]["first_row"]) == (14, 2, 1, heads[6]["prime"])
    assert report.tables["tensors"]["file"].to_pylist()[0] == "model-00001-of-00003.safetensors"
    assert any("records how many canonical ids there are, not which" in note for note in report.notes)


def test_a_qwen_checkpoint(tokenizer_path: Path, tmp_path: Path) -> None:
    report = inspect_checkpoint(write_qwen(tmp_path / "checkpoint", tokenizer_path))
    assert [report.facts[label] for label in ("hash family", "layers", "ids hashed", "number of ids", "row type")] == [
        "qwen-ple", "1", "raw ids", 320, "fp8-scalar",
    ]  # fmt: skip
    assert "token map" not in report.facts, "raw ids are hashed"
    assert not report.notes


def test_the_state_of_the_demo(tokenizer_path: Path, canonical: int, tmp_path: Path) -> None:
    report = inspect_checkpoint(write_demo(tmp_path / "checkpoint", tokenizer_path))
    assert (report.facts["hash family"], report.facts["number of ids"]) == ("demo", canonical)


def test_a_map_that_is_recorded_is_compared(tokenizer_path: Path, canonical: int, tmp_path: Path) -> None:
    digest = token_map(Tokenizer.from_file(str(tokenizer_path))).digest
    path = write_deepseek(tmp_path / "checkpoint", canonical, tokenizer_path, **{TOKEN_MAP_DIGEST: digest})
    report = inspect_checkpoint(path)
    assert report.facts["token map recorded"] == digest
    assert not report.notes
    other_map(path / "tokenizer.json")
    with pytest.raises(
        ArtifactError, match=f"made with the token map {digest}, but .*of as many canonical ids .{canonical}.: every row"
    ):
        inspect_checkpoint(path)


def test_without_a_tokenizer_nothing_is_said_of_it(canonical: int, tmp_path: Path) -> None:
    path = write_deepseek(tmp_path / "checkpoint", canonical)
    assert check_tokenizer(open_stored_table(path)) is None
    report = inspect_checkpoint(path)
    assert report.facts["tokenizer"] == "none beside it"
    assert any("could not be checked" in note for note in report.notes)


def test_our_own_tables_are_held_to_their_tokenizer_too(table_path: Path) -> None:
    folded = check_tokenizer(open_stored_table(table_path))
    assert folded is not None
    assert folded.digest == open_stored_table(table_path).token_map_digest
