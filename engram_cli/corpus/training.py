"""Training a tokenizer on a sample of the corpus, in memory that is known before.

What the `tokenizers` library takes grows with the different words of a text: 130 to 160 bytes for a byte of them, and a word at least a
KiB, whether the text is a megabyte or a gigabyte. So it is given the texts whose digests are smallest: SAMPLE bytes of them at most,
and no more than have WORDS bytes of different words. Neither memory, threads nor the order of the corpus can be seen in the tokenizer,
and for English a larger sample is hardly better (docs/benchmarks/2026-11-24_memory.md).
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import heappop, heappush
from pathlib import Path
from threading import Event

import xxhash
from tokenizers import Tokenizer

from engram_cli.corpus.artifact import TOKENIZER
from engram_cli.corpus.checkpoint import write_whole
from engram_cli.corpus.reader import Reader
from engram_cli.corpus.tokenizer import train_tokenizer
from engram_cli.corpus.tokens import batches, is_held_out
from engram_cli.errors import ResourceError
from engram_cli.progress import ProgressLike
from engram_cli.store.resources import at_least, format_bytes, resident_memory

SAMPLE = 24 << 20  # bytes of text
WORDS = 7 << 18  # bytes of different words
_MEMORY = 160 * WORDS + SAMPLE + (48 << 20)  # bytes that training takes at most: the last is what batches, words and ids do
_ID = 512  # for each id of the vocabulary
_GROUP = 64  # texts given to the library at once
_WORD = re.compile(r" ?[^\W\d_]+| ?\d+| ?(?:[^\w\s]|_)+|\s+(?!\S)|\s")  # much as the tokenizer splits


class Sample:
    """The texts of the smallest digests of those that were added, SAMPLE bytes of them at most.

    Which they are does not depend on the order they came in: once one has been given up, none with a greater digest is taken.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[int, bytes]] = []  # a heap, the greatest digest first
        self.bytes = 0
        self.end = 1 << 128  # the digest from which on none is taken

    def add(self, text: str) -> None:
        """Take a text in: a document, or a piece of a long one. What is longer than WORDS is left out: it may be one word."""
        data = text.encode()
        digest = xxhash.xxh3_128_intdigest(data)
        if digest >= self.end or len(data) > WORDS:
            return
        heappush(self.kept, (-digest, data))
        self.bytes += len(data)
        while self.bytes > SAMPLE:
            self.end = -self.kept[0][0]
            while self.kept and -self.kept[0][0] >= self.end:
                self.bytes -= len(heappop(self.kept)[1])

    def texts(self) -> list[bytes]:
        """UTF-8 of those, by ascending digest, whose different words, with those of the texts before, have WORDS bytes at most."""
        words: set[str] = set()
        chosen, size = [], 0
        for _, data in sorted(self.kept, reverse=True):
            new = set(_WORD.findall(data.decode())) - words
            more = sum(len(word.encode()) for word in new)
            if size + more <= WORDS:
                words |= new
                size += more
                chosen.append(data)
        return chosen


def train(reader: Reader, vocab: int, held_out: float, memory: int, work: Path, progress: ProgressLike) -> tuple[Path, int]:
    """(tokenizer.json in the folder `work`, trained on a sample of the documents that are not held out; bytes of that sample).

    One that lies there, of a run that was killed, is left as it is. memory: bytes this process may take. Raises ResourceError where
    they do not suffice.
    """
    path, size = work / TOKENIZER, work / "trained_on"
    if not path.exists():
        least = resident_memory() + _MEMORY + vocab * _ID
        if memory < least:
            raise ResourceError(
                f"--memory must hold what training a tokenizer of {vocab:,} ids takes, but it is {format_bytes(memory)}; "
                f"give {at_least(least)} or more, or a --tokenizer"
            )
        texts = _sampled(reader, held_out, progress)
        found = format_bytes(sum(map(len, texts)))
        progress.advance(0, None, "bytes", f"merging the words of {found} of text")  # the library does not tell how far it is
        tokenizer = _trained(texts, vocab)
        progress.advance(reader.bytes, reader.bytes, "bytes", f"{found} of text")
        if tokenizer.get_vocab_size() < vocab:
            progress.warn(f"the corpus is too small for {vocab:,} ids: the trained tokenizer has {tokenizer.get_vocab_size():,}")
        write_whole(size, str(sum(map(len, texts))).encode())
        write_whole(path, tokenizer.to_str(pretty=True).encode())
    return path, int(size.read_text())


def _sampled(reader: Reader, held_out: float, progress: ProgressLike) -> list[bytes]:
    sample, size = Sample(), 0
    for batch in batches(reader):
        for document in batch:
            size += document.bytes
            if not is_held_out(document, held_out):
                sample.add(document.text)
        progress.advance(reader.done, reader.bytes, "bytes", also=[(size, "bytes of text")])
    return sample.texts()


def _trained(texts: Sequence[bytes], vocab: int) -> Tokenizer:
    """Trained in a thread of its own: in ours, the library would keep Ctrl-C waiting."""
    stopped = Event()

    def groups() -> Iterator[list[str]]:
        for begin in range(0, len(texts), _GROUP):
            if stopped.is_set():
                raise InterruptedError
            yield [text.decode() for text in texts[begin : begin + _GROUP]]

    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(train_tokenizer, groups(), vocab).result()
        finally:
            stopped.set()
