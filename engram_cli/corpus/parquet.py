"""What reading a column of a Parquet file takes: it is unpacked by whole pages, and rows by as many as are asked for.

A column may have several leaves, each stored by itself; the columns read here, of texts or of lists of numbers, have one.
"""

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from engram_cli.corpus.budget import Budget
from engram_cli.corpus.parquet_pages import pages
from engram_cli.errors import CorpusError
from engram_cli.store.resources import format_bytes

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BLOCK = 1 << 20  # bytes unpacked at once, where rows are not larger


def open_parquet(file: IO[bytes]) -> "pq.ParquetFile":
    """A Parquet file that is read page by page: as pyarrow has it, a row group's column is first read whole. Raises pa.ArrowException."""
    import pyarrow.parquet as pq  # a tenth of a second, which what reads no such files need not wait

    return pq.ParquetFile(file, buffer_size=BLOCK, pre_buffer=False)


def check_pages(parquet: "pq.ParquetFile", file: IO[bytes], column: str, budget: Budget, name: str) -> None:
    """Raise CorpusError where the pages of a column are too large to be held. file: what `parquet` reads; name: as the user knows it."""
    found = (page for chunk, _ in chunks(parquet, column) for page in pages(file, chunk))
    largest = max((page.packed + page.unpacked for page in found), default=0)
    if largest > budget.page:
        raise CorpusError(
            f"a page of a Parquet file is held in memory whole, up to {format_bytes(budget.page)} of it, but one of {name} "
            f"takes {format_bytes(largest)}; give --memory {budget.to_unpack(largest)} or more, or write it with smaller pages"
        )


def row_bytes(parquet: "pq.ParquetFile", column: str) -> int:
    """Bytes of a row, unpacked, where they are most on the average: a row may be a whole book."""
    return max((chunk.total_uncompressed_size // max(1, rows) for chunk, rows in chunks(parquet, column)), default=0)


def chunks(parquet: "pq.ParquetFile", column: str) -> Iterator[tuple["pq.ColumnChunkMetaData", int]]:
    """(what is told of the column, rows) of each row group."""
    at = _leaf(parquet, column)
    for number in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(number)
        yield group.column(at), group.num_rows


def _leaf(parquet: "pq.ParquetFile", column: str) -> int:
    """Number of the column's first leaf among those of all columns."""
    paths = (parquet.schema.column(number).path for number in range(len(parquet.schema)))
    return next(number for number, path in enumerate(paths) if path == column or path.startswith(f"{column}."))
