"""The pages of a column of a Parquet file: what their headers say, and how long the rows of lists are whose values they hold.

pyarrow tells neither before it unpacks them, and then it is too late for memory. A header is a Thrift structure in the compact
protocol, of which only the numbers are taken. Whether a value begins a row is its repetition level, one bit for lists that are not
nested, packed as runs of equal ones or as groups of eight (github.com/apache/parquet-format: Encodings.md).
"""

import io
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_UNPACKED, _PACKED, _VALUES, _LEVELS = 2, 3, 1, 6  # fields of headers: bytes, bytes, values, bytes of the levels of a page of form 2
_FORMS = {1: 5, 2: 8}  # fields of the headers of data pages of either form
_WHOLE, _BINARY, _STRUCT = (4, 5, 6), 8, 12  # kinds of fields
_SIZES = {1: 0, 2: 0, 3: 1, 7: 8}  # of others, and the bytes they take: true, false, a byte, a float
_DEEP = 4  # structures within one another
_GROUPS = 1 << 16  # of eight levels, unpacked at once


class Page(NamedTuple):
    """begin: where its data lie in the file, of so many bytes packed and unpacked; form: 1 or 2 where they are values, else 0; values:
    how many; levels: bytes of those of a page of form 2."""

    begin: int
    packed: int
    unpacked: int
    form: int = 0
    values: int = 0
    levels: int = 0


def pages(file: IO[bytes], chunk: "pq.ColumnChunkMetaData") -> Iterator[Page]:
    """All pages of a column of a row group. Raises pa.ArrowInvalid where a header is none."""
    at, values = chunk.data_page_offset, 0
    at = min(at, chunk.dictionary_page_offset or at)  # some writers say 0 where there is none
    while values < chunk.num_values:
        file.seek(at)
        page = _page(file)
        yield page
        at, values = page.begin + page.packed, values + page.values


def longest_row(file: IO[bytes], chunk: "pq.ColumnChunkMetaData") -> int:
    """Values of the longest row of a column of lists, of one row group. Raises pa.ArrowException or OSError where it cannot be told."""
    longest = row = 0  # row: values so far of the one that a page ends in
    for page in pages(file, chunk):
        if page.form:
            longest, row = _rows(_levels(file, page, chunk.compression), page.values, longest, row)
    return max(longest, row)


def _page(file: IO[bytes]) -> Page:
    """The page whose header comes next in the file."""
    fields = _struct(file)
    form = next((form for form, field in _FORMS.items() if field in fields), 0)
    page = Page(file.tell(), _number(fields, _PACKED), _number(fields, _UNPACKED), form)
    if not form:
        return page
    header = fields[_FORMS[form]]
    if not isinstance(header, dict):
        raise pa.ArrowInvalid("a page's header is none")
    return page._replace(values=_number(header, _VALUES), levels=_number(header, _LEVELS) if form == 2 else 0)


def _levels(file: IO[bytes], page: Page, compression: str) -> bytes:
    """The packed repetition levels of a data page."""
    file.seek(page.begin)
    if page.form == 2:
        return file.read(page.levels)
    data = file.read(page.packed)
    if compression != "UNCOMPRESSED":
        codec = pa.Codec("lz4_raw" if compression == "LZ4" else compression.lower())
        data = codec.decompress(data, page.unpacked, asbytes=True)
    return data[4 : 4 + int.from_bytes(data[:4], "little")]


def _rows(levels: bytes, values: int, longest: int, row: int) -> tuple[int, int]:
    """(values of the longest row that has ended by the end of a page; of the row that it ends in), from what they were before. A
    value of level 0 begins a row."""
    data = io.BytesIO(levels)
    while values > 0:
        head = _varint(data)
        size = head >> 1
        if head & 1:  # so many groups of eight
            for begin in range(0, size, _GROUPS):
                packed = np.frombuffer(data.read(min(_GROUPS, size - begin)), np.uint8)
                if not len(packed):
                    raise pa.ArrowInvalid("a page is cut short")
                bits = np.unpackbits(packed, bitorder="little")[:values]
                begins = np.flatnonzero(bits == 0)
                if len(begins):
                    longest = max(longest, row + int(begins[0]), int(np.diff(begins).max(initial=0)))
                    row = -int(begins[-1])
                row, values = row + len(bits), values - len(bits)
            continue
        size = min(size, values)
        if _byte(data):  # so many equal ones
            row += size
        elif size:
            longest, row = max(longest, row, 1 if size > 1 else 0), 1
        values -= size
    return longest, row


def _number(fields: dict[int, Any], field: int) -> int:
    """A number of a structure. Raises pa.ArrowInvalid where it is not there, or below 0."""
    value = fields.get(field)
    if not isinstance(value, int) or value < 0:
        raise pa.ArrowInvalid("a page's header is none")
    return value


def _struct(file: IO[bytes], deep: int = _DEEP) -> dict[int, Any]:
    """The numbers and structures of a Thrift structure, by field."""
    if not deep:
        raise pa.ArrowInvalid("a page's header is none")
    fields: dict[int, Any] = {}
    field = 0
    while head := _byte(file):
        field = field + (head >> 4) if head >> 4 else _signed(file)
        kind = head & 15
        if kind in _WHOLE:
            fields[field] = _signed(file)
        elif kind == _STRUCT:
            fields[field] = _struct(file, deep - 1)
        elif kind == _BINARY:
            size = _varint(file)
            file.seek(size, io.SEEK_CUR)
        elif kind in _SIZES:
            file.seek(_SIZES[kind], io.SEEK_CUR)
        else:
            raise pa.ArrowInvalid(f"a page's header has a field of kind {kind}")
    return fields


def _signed(file: IO[bytes]) -> int:
    value = _varint(file)
    return value >> 1 ^ -(value & 1)


def _varint(file: IO[bytes]) -> int:
    """A number in groups of seven bits, the lowest first."""
    value = shift = 0
    while (byte := _byte(file)) > 127:
        value |= (byte & 127) << shift
        shift += 7
        if shift > 28:
            raise pa.ArrowInvalid("a page's header has a number of more than 32 bits")
    return value | byte << shift


def _byte(file: IO[bytes]) -> int:
    data = file.read(1)
    if not data:
        raise pa.ArrowInvalid("a page is cut short")
    return data[0]
