"""What reading a column of a Parquet file takes: it is unpacked by whole pages, and of their sizes their headers alone tell.

A column may have several leaves, each stored by itself; the columns read here, of texts or of lists of numbers, have one.
"""

from collections.abc import Iterator
from itertools import repeat
from typing import IO, TYPE_CHECKING

from engram_cli.corpus.budget import Budget
from engram_cli.errors import CorpusError
from engram_cli.store.resources import format_bytes

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BLOCK = 1 << 20  # bytes unpacked at once, where rows are not larger
_HEADER, _I32 = 24, 0x15  # bytes of a page's header that are looked at; what precedes a number in it, and the next field


def open_parquet(file: IO[bytes]) -> "pq.ParquetFile":
    """A Parquet file that is read page by page: as pyarrow has it, a row group's column is first read whole. Raises pa.ArrowException."""
    import pyarrow.parquet as pq  # a tenth of a second, which what reads no such files need not wait

    return pq.ParquetFile(file, buffer_size=BLOCK, pre_buffer=False)


def check_pages(parquet: "pq.ParquetFile", file: IO[bytes], column: str, budget: Budget, name: str) -> None:
    """Raise CorpusError where the pages of a column are too large to be held. file: what `parquet` reads; name: as the user knows it."""
    largest = max(map(_page_bytes, repeat(file), _first_pages(parquet, column)), default=0)
    if largest > budget.page:
        raise CorpusError(
            f"a page of a Parquet file is held in memory whole, up to {format_bytes(budget.page)} of it, but one of {name} "
            f"takes {format_bytes(largest)}; give --memory {budget.to_unpack(largest)} or more, or write it with smaller pages"
        )


def row_bytes(parquet: "pq.ParquetFile", column: str) -> int:
    """Bytes of a row, unpacked, where they are most on the average: a row may be a whole book."""
    return max((chunk.total_uncompressed_size // max(1, rows) for chunk, rows in _chunks(parquet, column)), default=0)


def row_values(parquet: "pq.ParquetFile", column: str) -> int:
    """Numbers in a row of lists, where they are most on the average: bytes do not tell, since repeated numbers take none."""
    return max((chunk.num_values // max(1, rows) for chunk, rows in _chunks(parquet, column)), default=0)


def _chunks(parquet: "pq.ParquetFile", column: str) -> Iterator[tuple["pq.ColumnChunkMetaData", int]]:
    """(what is told of the column, rows) of each row group."""
    at = _leaf(parquet, column)
    for number in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(number)
        yield group.column(at), group.num_rows


def _leaf(parquet: "pq.ParquetFile", column: str) -> int:
    """Number of the column's first leaf among those of all columns."""
    paths = (parquet.schema.column(number).path for number in range(len(parquet.schema)))
    return next(number for number, path in enumerate(paths) if path == column or path.startswith(f"{column}."))


def _first_pages(parquet: "pq.ParquetFile", column: str) -> Iterator[int]:
    """Where the first page of each kind lies in each row group: writers make the others as large."""
    for chunk, _ in _chunks(parquet, column):
        yield chunk.data_page_offset
        if chunk.has_dictionary_page:
            yield chunk.dictionary_page_offset


def _page_bytes(file: IO[bytes], offset: int) -> int:
    """Bytes of the page at `offset`, unpacked and packed: the second and the third number of its header, a Thrift structure."""
    file.seek(offset)
    header, numbers = iter(file.read(_HEADER)), list[int]()
    while len(numbers) < 3 and next(header, None) == _I32:
        value = shift = 0
        for byte in header:
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        numbers.append(value >> 1)  # zigzag, of what is not negative
    return sum(numbers[1:])
