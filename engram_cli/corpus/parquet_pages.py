"""The pages of a column of a Parquet file: what their headers say, and how long the rows of lists are whose values they hold.

pyarrow tells neither before it unpacks them, and then it is too late for memory. A header is a Thrift structure in the compact
protocol, of which only the numbers are taken. Whether a value begins a row is its repetition level, one bit for lists that are not
nested, packed as runs of equal ones or as groups of eight (github.com/apache/parquet-format: Encodings.md).
"""

import io
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_UNPACKED, _PACKED, _VALUES, _LEVELS = 2, 3, 1, 6  # fields of headers: bytes, bytes, values, bytes of the levels of a page of form 2
_FORMS = (5, 8)  # fields of the headers of data pages of form 1 and 2
_WHOLE, _BINARY, _STRUCT = (4, 5, 6), 8, 12  # kinds of fields
_SIZES = {1: 0, 2: 0, 3: 1, 7: 8}  # of others, and the bytes they take: true, false, a byte, a float


class Page(NamedTuple):
    """begin: where its data lie in the file, of so many bytes packed and unpacked; header: of a data page, by field; form: 1 or 2."""

    begin: int
    packed: int
    unpacked: int
    header: dict[int, Any] | None
    form: int


def pages(file: IO[bytes], chunk: "pq.ColumnChunkMetaData") -> Iterator[Page]:
    """All pages of a column of a row group. Raises pa.ArrowInvalid where a header is none."""
    at, values = chunk.data_page_offset, 0
    if chunk.has_dictionary_page:
        at = min(at, chunk.dictionary_page_offset)
    while values < chunk.num_values:
        file.seek(at)
        fields = _struct(file)
        if not {_UNPACKED, _PACKED} <= fields.keys():
            raise pa.ArrowInvalid(f"no page begins at byte {at:,}")
        form, header = next(((form, fields[field]) for form, field in enumerate(_FORMS, 1) if field in fields), (0, None))
        page = Page(file.tell(), fields[_PACKED], fields[_UNPACKED], header, form)
        yield page
        at, values = page.begin + page.packed, values + (header[_VALUES] if header else 0)


def longest_row(file: IO[bytes], chunk: "pq.ColumnChunkMetaData") -> int:
    """Values of the longest row of a column of lists, of one row group. Raises pa.ArrowException where it cannot be told."""
    longest = row = 0  # row: values so far of the one that a page ends in
    for page in pages(file, chunk):
        if page.header is not None:
            values = page.header[_VALUES]
            begins = _begins(_levels(file, page, chunk.compression), values)
            lengths = np.diff(np.concatenate([[-row], begins, [values]]))
            longest, row = max(longest, int(lengths.max())), int(lengths[-1])
    return longest


def _levels(file: IO[bytes], page: Page, compression: str) -> bytes:
    """The packed repetition levels of a data page."""
    assert page.header is not None
    file.seek(page.begin)
    if page.form == 2:
        return file.read(page.header[_LEVELS])
    data = file.read(page.packed)
    if compression != "UNCOMPRESSED":
        data = pa.Codec(compression.lower().replace("lz4", "lz4_raw")).decompress(data, page.unpacked, asbytes=True)
    return data[4 : 4 + int.from_bytes(data[:4], "little")]


def _begins(levels: bytes, values: int) -> npt.NDArray[np.int64]:
    """Which of the values of a page begin a row: those of level 0."""
    found, known, data = [np.empty(0, np.int64)], 0, io.BytesIO(levels)
    while known < values:
        head = _varint(data)
        size = head >> 1
        if head & 1:  # so many groups of eight
            bits = np.unpackbits(np.frombuffer(data.read(size), np.uint8), bitorder="little")
            found.append(known + np.flatnonzero(bits == 0))
            known += 8 * size
        else:  # so many equal ones
            if not _byte(data):
                found.append(np.arange(known, known + size))
            known += size
    begins_R = np.concatenate(found)
    return begins_R[begins_R < values]


def _struct(file: IO[bytes]) -> dict[int, Any]:
    """The numbers and structures of a Thrift structure, by field."""
    fields: dict[int, Any] = {}
    field = 0
    while head := _byte(file):
        field = field + (head >> 4) if head >> 4 else _signed(file)
        kind = head & 15
        if kind in _WHOLE:
            fields[field] = _signed(file)
        elif kind == _STRUCT:
            fields[field] = _struct(file)
        elif kind == _BINARY:
            file.read(_varint(file))
        elif kind in _SIZES:
            file.read(_SIZES[kind])
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
    return value | byte << shift


def _byte(file: IO[bytes]) -> int:
    data = file.read(1)
    if not data:
        raise pa.ArrowInvalid("a page is cut short")
    return data[0]
