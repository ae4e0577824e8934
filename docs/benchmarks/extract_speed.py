"""How much longer `engram extract` takes than bare encoding: both, and the `tokenizers` library, in turns in one run.

    python docs/benchmarks/extract_speed.py TOKENIZER.json CORPUS... [--orders 3] [--threads 2] [--rounds 3] [--share 8]

Bare encoding is the encoder that `extract` chooses, on the same texts, in memory already, in batches of the same size on as many
threads. `tokenizers.encode_batch` gets every share-th document. What is printed is the median of the rounds, wall and CPU seconds;
the ids of all three are compared.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engram_cli.corpus import tokens
from engram_cli.corpus.encoder import Encoder, choose_encoder
from engram_cli.corpus.extract import extract
from engram_cli.corpus.reader import Document, Reader
from engram_cli.corpus.sources import find_sources
from engram_cli.corpus.tokenizer import find_end, load_tokenizer, vocab_size
from engram_cli.store.artifact import Artifact
from engram_cli.store.schema import tokens_schema


def read(corpus: Sequence[str]) -> list[list[Document]]:
    """The documents of a corpus, each once, in the batches that `extract` makes."""
    documents = {document.digest: document for document in Reader(find_sources(corpus).sources)}
    return list(tokens.batches(documents.values()))


def encode(encoder: Encoder, batches: Sequence[Sequence[Document]], threads: int) -> Any:
    texts = [[document.text for document in batch] for batch in batches]
    with ThreadPoolExecutor(min(threads, encoder.calls)) as pool:
        return [encoded.ids_T for encoded in pool.map(encoder.encode, texts)]


def timed(times: list[tuple[float, float]], call: Callable[[], Any]) -> Any:
    """What `call` returns; its wall and CPU seconds are appended to `times`."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return result


def ids_of(artifact: Artifact) -> Any:
    return artifact.table(tokens.TOKENS)["token"].to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=int, default=8)
    given = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(given.threads)

    tokenizer = load_tokenizer(given.tokenizer)
    batches = read(given.corpus)
    dtype = tokens_schema(vocab_size(tokenizer)).field("token").type.to_pandas_dtype()
    sample = [document.text for document in batches[0]]
    encoder = choose_encoder(tokenizer, sample, dtype, find_end(tokenizer), given.threads)
    size = sum(document.bytes for batch in batches for document in batch)
    few = [document.text for batch in batches for document in batch][:: given.share]
    settings = {"tokenizer": given.tokenizer, "held_out": 0.0, "orders": given.orders, "threads": given.threads}

    times: dict[str, list[tuple[float, float]]] = {"bare encoding": [], "extract": [], "encode_batch": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        extract(given.corpus, Path(folder) / "compiled", **settings)
        for number in range(given.rounds):
            bare = timed(times["bare encoding"], lambda: encode(encoder, batches, given.threads))
            out = Path(folder) / str(number)
            whole = timed(times["extract"], partial(extract, given.corpus, out, **settings))
        library = timed(times["encode_batch"], lambda: tokenizer.encode_batch(few, add_special_tokens=False))
        assert np.array_equal(np.concatenate(bare), ids_of(whole)), "the ids differ"
        one_by_one = np.concatenate(encode(encoder, [[Document(text, 0, 0, 0)] for text in few], 1))
        closing = [] if find_end(tokenizer) is None else [find_end(tokenizer)]
        assert np.array_equal(np.concatenate([encoding.ids + closing for encoding in library]), one_by_one), "the ids differ"

    read_M, size_M, share = sum(map(len, bare)) / 1e6, size / 1e6, sum(len(text.encode()) for text in few) / size
    print(f"{size_M:.0f} MB, {read_M:.1f} M tokens, encoded by {encoder.name}, orders 1 to {given.orders}, {given.threads} threads")
    median = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    median["encode_batch"] = [seconds / share for seconds in median["encode_batch"]]
    for name, (wall, cpu) in median.items():
        print(f"{name:14s} {wall:6.2f} s wall {cpu:6.2f} s CPU {read_M / wall:6.2f} M tokens/s {size_M / wall:6.1f} MB/s")
    bare_wall, whole_wall, library_wall = (median[name][0] for name in ("bare encoding", "extract", "encode_batch"))
    bound = median["extract"][1] / given.threads / bare_wall
    print(f"extract takes {whole_wall / bare_wall:.2f} of bare encoding ({bound:.2f} if no core were ever idle)")
    print(f"extract is {library_wall / whole_wall:.2f} times as fast as tokenizers.encode_batch alone")


if __name__ == "__main__":
    main()
