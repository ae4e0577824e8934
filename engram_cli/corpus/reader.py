"""Documents out of sources, one at a time, whatever the corpus's size.

A text file is one document, or several where a separator is given; a JSONL line and a Parquet row are one each. Documents that are
blank are passed over and counted. A document is known by the digest of its text: neither its place in the corpus nor the file it
came from decides whether it is held out.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from engram_cli.corpus.sources import Bytes, Source, seekable
from engram_cli.errors import CorpusError

_BOM = b"\xef\xbb\xbf"
_PARQUET_ROWS = 512  # of a batch: a row may be a whole book


@dataclass(frozen=True, slots=True)
class Document:
    """text; bytes: of its UTF-8; digest: xxh3_128 of its UTF-8; source: number of the source it came from."""

    text: str
    bytes: int
    digest: int
    source: int


class Reader:
    """The documents of `sources`, in order; may be read again from the start.

    text_field: key of a JSONL line or column of a Parquet file that holds the text; encoding_errors: "strict", "replace" or
    "ignore" for bytes that are not UTF-8; document_separator: splits text files into documents.
    `bytes` on disk in all, `done` of them read; `blank` documents and `empty` sources passed over so far.
    Reading raises CorpusError for what cannot be read as asked.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        text_field: str = "text",
        encoding_errors: str = "strict",
        document_separator: str | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self.text_field = text_field
        self.errors = encoding_errors
        self.separator = document_separator.encode() if document_separator else None
        self.bytes = sum(source.bytes for source in sources)
        self.done = self.blank = 0
        self.empty: list[str] = []

    def __iter__(self) -> Iterator[Document]:
        self.done, self.blank, self.empty = 0, 0, []
        formats = {"text": self._text, "jsonl": self._jsonl, "parquet": self._parquet}
        for number, source in enumerate(self.sources):
            before, stream, documents = self.done, Bytes(source), 0
            for text in formats[source.format](stream):
                self.done = before + stream.done
                if not text or text.isspace():
                    self.blank += 1
                    continue
                documents += 1
                yield self._document(text, number)
            self.done = before + source.bytes
            if not documents:
                self.empty.append(source.name)

    def _document(self, text: str, number: int) -> Document:
        try:
            data = text.encode("utf-8", self.errors)
        except UnicodeEncodeError as error:  # JSON can escape half a surrogate pair, which no UTF-8 can hold
            raise CorpusError(
                f"text is Unicode, but a document of {self.sources[number].name} holds half a surrogate pair "
                f"(\\u{ord(text[error.start]):04x}); mend it, or give --encoding-errors replace"
            ) from None
        whole = text if self.errors == "strict" else data.decode()
        return Document(whole, len(data), xxhash.xxh3_128_intdigest(data), number)

    def _text(self, stream: Bytes) -> Iterator[str]:
        for offset, piece in pieces(stream, self.separator):
            yield self._decode(piece, offset, stream.source)

    def _jsonl(self, stream: Bytes) -> Iterator[str]:
        for number, (offset, line) in enumerate(pieces(stream, b"\n"), 1):
            text = self._decode(line, offset, stream.source)
            if not text or text.isspace():
                continue
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise CorpusError(
                    f"a JSONL line is a JSON object, but {stream.source.name}:{number} is not JSON ({error}); mend the line"
                ) from None
            yield self._field(record, f"{stream.source.name}:{number}")

    def _field(self, record: object, where: str) -> str:
        if not isinstance(record, dict):
            found = type(record).__name__
            raise CorpusError(
                f"a JSONL line is an object with a field {self.text_field!r}, but {where} is a {found}; mend the line"
            )
        text = record.get(self.text_field, record)
        if text is record:
            raise CorpusError(
                f"a JSONL line has the field {self.text_field!r}, but {where} has only {', '.join(map(repr, record)) or 'none'}; "
                "choose one with --text-field"
            )
        if text is not None and not isinstance(text, str):
            raise CorpusError(
                f"the field {self.text_field!r} holds a text, but at {where} it is a {type(text).__name__}; "
                "choose another with --text-field"
            )
        return text or ""

    def _parquet(self, stream: Bytes) -> Iterator[str]:
        name = stream.source.name
        try:
            with seekable(stream) as file, pq.ParquetFile(file) as parquet:
                self._check_column(parquet.schema_arrow, name)
                rows, read = parquet.metadata.num_rows, 0
                for batch in parquet.iter_batches(_PARQUET_ROWS, columns=[self.text_field]):
                    yield from (text or "" for text in batch.column(0).to_pylist())
                    read += batch.num_rows
                    stream.done = stream.source.bytes * read // rows
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(f"a .parquet file is Parquet, but {name} cannot be read as such ({error}); leave it out") from None

    def _check_column(self, schema: pa.Schema, name: str) -> None:
        if schema.get_field_index(self.text_field) < 0:
            raise CorpusError(
                f"a Parquet file has the column {self.text_field!r}, but {name} has only "
                f"{', '.join(map(repr, schema.names)) or 'none'}; choose one with --text-field"
            )
        type = schema.field(self.text_field).type
        type = type.value_type if pa.types.is_dictionary(type) else type
        if not (pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)):
            raise CorpusError(
                f"the column {self.text_field!r} holds text, but in {name} it is {type}; choose another with --text-field"
            )

    def _decode(self, data: bytes, offset: int, source: Source) -> str:
        """`data` as text; `offset`: where it begins in the (decompressed) source."""
        nul = data.find(b"\0")
        if nul >= 0:
            raise CorpusError(
                f"text has no NUL bytes, but {source.name} has one at byte {offset + nul}: it is binary or UTF-16; "
                "convert it to UTF-8 or leave it out"
            )
        if offset == 0 and data.startswith(_BOM):
            data, offset = data[len(_BOM) :], len(_BOM)
        try:
            return data.decode("utf-8", self.errors)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"text is UTF-8, but {source.name} has 0x{data[error.start]:02x} at byte {offset + error.start} ({error.reason}); "
                "convert it, or give --encoding-errors replace"
            ) from None


def pieces(blocks: Bytes | Iterator[bytes], separator: bytes | None) -> Iterator[tuple[int, bytes]]:
    """(offset, piece) of what blocks of bytes hold between separators, or all of it where there is no separator."""
    buffer = bytearray()
    offset = searched = 0  # bytes before the buffer; bytes of the buffer known to hold no separator
    for block in blocks:
        buffer += block
        if separator is None:
            continue
        begin = 0
        while (end := buffer.find(separator, max(begin, searched))) >= 0:
            yield offset + begin, bytes(buffer[begin:end])
            begin = end + len(separator)
        del buffer[:begin]
        offset += begin
        searched = max(0, len(buffer) - len(separator) + 1)
    if buffer:
        yield offset, bytes(buffer)
