"""A small corpus made of facts and templates, the same every time, and what is counted from it."""

import json
import random
from pathlib import Path

from engram_cli.corpus.extract import extract

_PLACES = (
    "France Paris Seine",
    "Italy Rome Tiber",
    "Austria Vienna Danube",
    "Poland Warsaw Vistula",
    "Portugal Lisbon Tagus",
    "Egypt Cairo Nile",
    "England London Thames",
    "Iraq Baghdad Tigris",
)
_SENTENCES = (
    "The capital of {0} is {1}.",
    "{1} is the capital and largest city of {0}.",
    "The river {2} flows through {1}, the capital of {0}.",
    "Many people visit {1} every year, and most of them come to see the {2}.",
    "In {0} the winters are mild; in {1} they are {3}.",
    "Café {1} serves {3} crème brûlée.",
)
_WORDS = ("cold", "long", "warm", "short", "wet", "dry", "grey", "bright")


def make_documents(count: int, seed: int = 0) -> list[str]:
    """`count` distinct documents of 4 to 12 sentences each."""
    chance = random.Random(seed)
    documents = []
    for number in range(count):
        lines = [
            chance.choice(_SENTENCES).format(*chance.choice(_PLACES).split(), chance.choice(_WORDS))
            for _ in range(chance.randint(4, 12))
        ]
        documents.append(f"Note {number}. " + " ".join(lines))
    return documents


def write_jsonl(path: Path, documents: list[str], field: str = "text") -> Path:
    """Write documents as JSONL and return the path."""
    path.write_text("".join(json.dumps({"title": f"note {n}", field: text}) + "\n" for n, text in enumerate(documents)), "utf-8")
    return path


def write_ngrams(
    out: Path, *, documents: int = 240, vocab: int = 384, orders: int = 3, held_out: float = 0.1, canonical: bool = True
) -> Path:
    """Extract a small n-gram artifact at `out` and return its path: some 20,000 tokens with the defaults."""
    corpus = write_jsonl(out.with_suffix(".jsonl"), make_documents(documents))
    extract([corpus], out, train_vocab=vocab, orders=orders, held_out=held_out, canonical=canonical)
    return out
