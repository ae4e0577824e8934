"""Parquet files that are greater than the memory there is."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from engram_cli.corpus.budget import Budget
from engram_cli.corpus.parquet import BLOCK, chunks, open_parquet
from engram_cli.corpus.parquet_pages import longest_row
from engram_cli.corpus.reader import Reader
from engram_cli.corpus.ready import ReadyReader, find_ready
from engram_cli.corpus.sources import find_sources
from engram_cli.corpus.tokenizer import load_tokenizer
from engram_cli.errors import CorpusError


class Counted(io.FileIO):
    """A file that counts the bytes read of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) or b""
        self.taken += len(data)
        return data


@pytest.fixture(scope="module")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_path)


def tokens(path: Path, tokenizer: Tokenizer, budget: Budget) -> int:
    sources = find_ready([path], token_field="ids").sources
    return sum(len(block.ids_T) for block in ReadyReader(sources, tokenizer, np.uint16, None, token_field="ids", budget=budget))


def test_a_row_group_is_not_read_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, BLOCK // 8), dtype=np.uint8)
    pq.write_table(
        pa.table({"data": [row.tobytes() for row in noise]}), tmp_path / "a.parquet", use_dictionary=False, write_batch_size=4
    )
    with Counted(tmp_path / "a.parquet") as file, open_parquet(file) as parquet:
        assert len(next(parquet.iter_batches(1))) == 1
        assert file.taken < 4 * BLOCK < noise.nbytes


@pytest.mark.parametrize("dictionary", [True, False])
def test_pages_of_ids_must_fit(tmp_path: Path, tokenizer: Tokenizer, dictionary: bool) -> None:
    ids = [list(range(10, 60))] * 400
    table = pa.table({"before": [{"a": 1, "b": 2}] * 400, "ids": pa.array(ids, pa.list_(pa.int32()))})
    options = {"compression": "none", "use_dictionary": dictionary}
    pq.write_table(table, tmp_path / "a.parquet", **options)
    with pytest.raises(
        CorpusError, match=r"one of .*a\.parquet takes \d+\.\d KiB; give --memory .* or more, or write it with smaller"
    ):
        tokens(tmp_path / "a.parquet", tokenizer, Budget(30_000, 16_000))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10, **options)
    assert tokens(tmp_path / "a.parquet", tokenizer, Budget(30_000, 16_000)) == 400 * 50


def test_rows_of_ids_must_fit_though_repetition_packs_them(tmp_path: Path, tokenizer: Tokenizer) -> None:
    pq.write_table(pa.table({"ids": pa.array([[9] * 5000] * 3, pa.list_(pa.int32()))}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"up to 4,166 of them, but .*a\.parquet has 5,000 in a row; give --memory .* or more"):
        tokens(tmp_path / "a.parquet", tokenizer, Budget(300_000, 200_000))
    assert tokens(tmp_path / "a.parquet", tokenizer, Budget(300_000, 240_000)) == 15_000


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_one_long_row_among_short_ones_must_fit(tmp_path: Path, tokenizer: Tokenizer, version: str, compression: str) -> None:
    ids = [[9] * 3, [], None] * 500 + [[9] * 30_000] + [[8]] * 500
    table = pa.table({"ids": pa.array(ids, pa.list_(pa.int32()))})
    pq.write_table(table, tmp_path / "a.parquet", compression=compression, data_page_version=version, data_page_size=2000)
    with pytest.raises(CorpusError, match=r"up to 20,833 of them, but .*a\.parquet has 30,000 in a row"):
        tokens(tmp_path / "a.parquet", tokenizer, Budget(2_000_000, 1_000_000))
    assert tokens(tmp_path / "a.parquet", tokenizer, Budget(2_000_000, 1_500_000)) == 500 * 3 + 30_000 + 500


@given(rows=st.lists(st.lists(st.integers(0, 2), max_size=40) | st.none(), min_size=1, max_size=60), page=st.integers(1, 300))
def test_the_longest_row_is_found_wherever_pages_end(rows: list[list[int] | None], page: int) -> None:
    file = io.BytesIO()
    table = pa.table({"ids": pa.array(rows, pa.list_(pa.int32()))})
    pq.write_table(table, file, data_page_size=page, write_batch_size=7, use_dictionary=False)
    with open_parquet(file) as parquet:
        assert longest_row(file, next(chunks(parquet, "ids"))[0]) == max(len(row or [0]) or 1 for row in rows)


@given(data=st.data(), compression=st.sampled_from(["none", "snappy"]), version=st.sampled_from(["1.0", "2.0"]))
def test_damaged_pages_are_refused_or_read(data: st.DataObject, compression: str, version: str) -> None:
    written = io.BytesIO()
    table = pa.table({"ids": pa.array([[1, 2, 3], [], [4] * 50] * 5, pa.list_(pa.int32()))})
    pq.write_table(table, written, compression=compression, data_page_version=version, data_page_size=100)
    damaged = bytearray(written.getvalue())
    with open_parquet(written) as parquet:
        chunk, _ = next(chunks(parquet, "ids"))
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(4, 4 + chunk.total_compressed_size - 1))] = data.draw(st.integers(0, 255))
        with suppress(pa.ArrowException, OSError):
            assert longest_row(io.BytesIO(damaged), chunk) >= 0


def test_a_page_that_is_larger_than_the_first_must_fit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(60_000).hex()
    pq.write_table(
        pa.table({"text": ["short"] * 4000 + [noise]}), tmp_path / "a.parquet", compression="none", data_page_size=1000, use_dictionary=False
    )
    with pytest.raises(CorpusError, match="a page of a Parquet file is held in memory whole"):
        list(Reader(find_sources([tmp_path / "a.parquet"]).sources, budget=Budget(120_000, 100_000)))


def test_pages_are_those_of_the_text_whatever_columns_precede_it(tmp_path: Path) -> None:
    texts = ["x" * 40_000, "y" * 40_000]
    pq.write_table(pa.table({"before": [{"a": 1, "b": 2}] * 2, "text": texts}), tmp_path / "a.parquet", compression="none")
    with pytest.raises(CorpusError, match="a page of a Parquet file is held in memory whole"):
        list(Reader(find_sources([tmp_path / "a.parquet"]).sources, budget=Budget(120_000, 100_000)))
