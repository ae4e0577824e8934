"""Documents out of sources, one at a time, whatever the corpus's size and theirs.

A text file is one document, or several where a separator is given; a JSONL line and a Parquet row are one each. Documents that are
blank are passed over and counted. A document is known by the digest of its text: neither its place in the corpus nor the file it
came from decides whether it is held out. A long one comes in pieces, where the tokenizer allows it to be cut (cutting.py); a text
file that memory cannot hold is read twice for that, once for its digest.
"""

import codecs
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NoReturn

import pyarrow as pa
import xxhash

from engram_cli.corpus.budget import AMPLE, Budget
from engram_cli.corpus.cutting import PIECE, cut
from engram_cli.corpus.parquet import BLOCK, check_pages, open_parquet, row_bytes
from engram_cli.corpus.files import Files, Source
from engram_cli.corpus.sources import Again, Bytes, seekable
from engram_cli.errors import CorpusError
from engram_cli.store.resources import format_bytes

_BOM = b"\xef\xbb\xbf"
_PARQUET_ROWS = 512  # of a batch
_TEXT = 1 << 26  # bytes of a text file that are held to be read once only


@dataclass(frozen=True, slots=True)
class Document:
    """A document, or a piece of a long one: pieces follow each other, and encoded one by one they give the ids of the whole.

    text; bytes: of its UTF-8; digest: xxh3_128 of the whole document's UTF-8; source: number of the source it came from; first,
    last: whether the document begins and ends with this piece.
    """

    text: str
    bytes: int
    digest: int
    source: int
    first: bool = True
    last: bool = True


@dataclass(frozen=True, slots=True)
class _Long:
    """A text file's document that memory does not hold. begin, end: where its bytes lie in the (decompressed) source; digest."""

    begin: int
    end: int
    digest: int
    again: Again


class Reader:
    """The documents of `sources`, in order; may be read again from the start.

    text_field: key of a JSONL line or column of a Parquet file that holds the text; encoding_errors: "strict", "replace" or
    "ignore" for bytes that are not UTF-8; document_separator: splits text files into documents; budget: how much may be held; cuts:
    whether long documents may be cut.
    `bytes` on disk in all, `done` of them read; `blank` documents and `empty` sources (their numbers) passed over so far.
    Reading raises CorpusError for what cannot be read as asked.
    """

    def __init__(
        self,
        sources: Files,
        *,
        text_field: str = "text",
        encoding_errors: str = "strict",
        document_separator: str | None = None,
        budget: Budget = AMPLE,
        cuts: bool = False,
    ) -> None:
        self.sources = sources
        self.budget = budget
        self.cuts = cuts
        self.text_field = text_field
        self.errors = encoding_errors
        self.separator = document_separator.encode() if document_separator else None
        self.bytes = sources.bytes
        self.done = self.blank = 0
        self.empty = array("q")

    def __iter__(self) -> Iterator[Document]:
        self.done, self.blank, self.empty = 0, 0, array("q")
        formats = {"text": self._text, "jsonl": self._jsonl, "parquet": self._parquet}
        for number, source in enumerate(self.sources):
            before, stream, documents = self.done, Bytes(source), 0
            for text in formats[source.format](stream):
                self.done = before + stream.done
                if not text or (isinstance(text, str) and text.isspace()):
                    self.blank += 1
                    continue
                documents += 1
                yield from self._whole(text, number) if isinstance(text, str) else self._long(text, number)
            self.done = before + source.bytes
            if not documents:
                self.empty.append(number)

    def _whole(self, text: str, number: int) -> Iterator[Document]:
        """A document that is held, in pieces where it is long."""
        try:
            data = text.encode("utf-8", self.errors)
        except UnicodeEncodeError as error:  # JSON can escape half a surrogate pair, which no UTF-8 can hold
            raise CorpusError(
                f"text is Unicode, but a document of {self.sources[number].name} holds half a surrogate pair "
                f"(\\u{ord(text[error.start]):04x}); mend it, or give --encoding-errors replace"
            ) from None
        size, digest = len(data), xxhash.xxh3_128_intdigest(data)
        text = text if self.errors == "strict" else data.decode()
        if len(text) < 2 * PIECE:
            yield Document(text, size, digest, number)
            return
        del data
        yield from self._pieces([text], digest, number)

    def _long(self, found: _Long, number: int) -> Iterator[Document]:
        if not self.cuts and found.end - found.begin > self.budget.uncut:
            self._refuse_uncut(number, found.end - found.begin)
        decoder = _Decoder(self.sources[number], found.begin, self.errors)
        texts = (decoder.text(block, last=False) for block in found.again.read(found.begin, found.end))
        yield from self._pieces(texts, found.digest, number)

    def _pieces(self, texts: Iterable[str], digest: int, number: int) -> Iterator[Document]:
        """The pieces of a long document, of which `texts` are the parts."""
        try:
            pieces = cut(texts, PIECE, self.budget.uncut) if self.cuts else iter(["".join(texts)])
            piece, first = next(pieces), True
            for following in pieces:
                yield Document(piece, len(piece.encode()), digest, number, first, last=False)
                piece, first = following, False
        except OverflowError as error:
            self._refuse_uncut(number, int(str(error)))
        if len(piece) > self.budget.uncut:
            self._refuse_uncut(number, len(piece))
        yield Document(piece, len(piece.encode()), digest, number, first)

    def _refuse_uncut(self, number: int, length: int) -> NoReturn:
        raise CorpusError(
            f"a text is encoded whole unless it has spaces between letters and a tokenizer that splits by them, but a document of "
            f"{self.sources[number].name} has {length:,} characters or more without; give --memory {self.budget.to_encode(length)} or more, or "
            "split it with --document-separator"
        )

    def _text(self, stream: Bytes) -> Iterator[str | _Long]:
        parts, again = pieces(stream, self.separator, min(_TEXT, self.budget.held)), None
        for offset, part, whole in parts:
            decoder = _Decoder(stream.source, offset, self.errors)
            if whole:
                yield decoder.text(part)
                continue
            state, blank, end = xxhash.xxh3_128(), True, offset
            for _, part, last in chain([(offset, part, whole)], parts):
                text = decoder.text(part, last)
                state.update(text.encode())
                blank, end = blank and not text.strip(), end + len(part)
                if last:
                    break
            again = again or Again(stream.source)
            yield "" if blank else _Long(offset, end, state.intdigest(), again)

    def _jsonl(self, stream: Bytes) -> Iterator[str]:
        lines = pieces(stream, b"\n", self.budget.held)
        for number, (offset, line, whole) in enumerate(lines, 1):
            where = f"{stream.source.name}:{number}"
            if not whole:
                self._refuse_held(f"the JSONL line {where}", len(line) + _left(lines))
            text = _Decoder(stream.source, offset, self.errors).text(line)
            if not text or text.isspace():
                continue
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"a JSONL line is a JSON object, but {where} is not JSON ({error}); mend the line") from None
            yield self._field(record, where)

    def _refuse_held(self, what: str, size: int) -> NoReturn:
        raise CorpusError(
            f"a line or value is held in memory whole, up to {format_bytes(self.budget.held)} of it, but {what} has "
            f"{format_bytes(size)}; give --memory {self.budget.to_hold(size)} or more, or make it a text file, which needs no memory"
        )

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
            with seekable(stream) as file, open_parquet(file) as parquet:
                self._check_column(parquet.schema_arrow, name)
                check_pages(parquet, file, self.text_field, self.budget, name)
                rows, read = parquet.metadata.num_rows, 0
                at_once = max(1, min(_PARQUET_ROWS, BLOCK // max(1, row_bytes(parquet, self.text_field))))
                for batch in parquet.iter_batches(at_once, columns=[self.text_field]):
                    for text in batch.column(0):
                        yield self._value(text.as_py() or "", name)
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

    def _value(self, text: str, name: str) -> str:
        if len(text) > self.budget.held:
            self._refuse_held(f"a document of {name}", len(text))
        return text


class _Decoder:
    """Text out of the bytes of a document. offset: where it begins in the (decompressed) source."""

    def __init__(self, source: Source, offset: int, errors: str) -> None:
        self.source = source
        self.offset = offset
        self.errors = errors
        self.rest = b""  # of a character that is not whole yet

    def text(self, data: bytes, last: bool = True) -> str:
        """The text of the bytes that follow; `last`: none come after. Raises CorpusError where they are no text."""
        data = self.rest + data if self.rest else data
        nul = data.find(b"\0")
        if nul >= 0:
            raise CorpusError(
                f"text has no NUL bytes, but {self.source.name} has one at byte {self.offset + nul}: it is binary or UTF-16; "
                "convert it to UTF-8 or leave it out"
            )
        if self.offset == 0 and data.startswith(_BOM):
            data, self.offset = data[len(_BOM) :], len(_BOM)
        try:
            text, used = codecs.utf_8_decode(data, self.errors, last)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"text is UTF-8, but {self.source.name} has 0x{data[error.start]:02x} at byte {self.offset + error.start} "
                f"({error.reason}); convert it, or give --encoding-errors replace"
            ) from None
        self.rest, self.offset = data[used:], self.offset + used
        return text


def _left(parts: Iterator[tuple[int, bytes, bool]]) -> int:
    """Bytes that are left of a piece."""
    size = 0
    for _, part, last in parts:
        size += len(part)
        if last:
            break
    return size


def pieces(blocks: Bytes | Iterator[bytes], separator: bytes | None, most: int = 1 << 60) -> Iterator[tuple[int, bytes, bool]]:
    """(offset, piece, True) of what blocks of bytes hold between separators, or all of it where there is no separator.

    A piece longer than `most` bytes comes in several, of which the last alone has True.
    """
    buffer = bytearray()
    offset = searched = 0  # bytes before the buffer; bytes of the buffer known to hold no separator
    begun = False  # whether the piece at the buffer's begin has come in part
    for block in blocks:
        buffer += block
        begin = 0
        while separator is not None and (end := buffer.find(separator, max(begin, searched))) >= 0:
            yield offset + begin, bytes(memoryview(buffer)[begin:end]), True
            begun, begin = False, end + len(separator)
        del buffer[:begin]
        offset += begin
        searched = len(buffer) if separator is None else max(0, len(buffer) - len(separator) + 1)
        if begun or len(buffer) > most:
            yield offset, bytes(memoryview(buffer)[:searched]), False
            del buffer[:searched]
            offset, searched, begun = offset + searched, 0, True
    if buffer or begun:
        yield offset, bytes(buffer), True
