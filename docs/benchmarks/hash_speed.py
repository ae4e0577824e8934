"""How fast tokens become rows, one thread: the compiled hash beside numpy and torch, on the tokens of an n-gram artifact.

    python docs/benchmarks/hash_speed.py demo/ngrams

Each way hashes the same blocks of 16,384 tokens, in turns; the best of the rounds counts; all rows are compared first. *compiled*
is `LayerLayout.row_ids` from windows, *from tokens* the same with folding raw ids and cutting windows before it; *numpy* is the
definition, `hashing.row_ids`, and *torch* the same code on tensors.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engram_cli.corpus.artifact import open_ngrams
from engram_cli.recipe import load_recipe
from engram_cli.table.hashing import row_ids
from engram_cli.table.layout import Layout, plan_layout

BLOCK, MOST, ROUNDS = 1 << 14, 1 << 20, 5
RECIPES = ("demo", "engram-27b", "deepseek-v4.1-flash", "qwen-ple")


def main(path: str) -> None:
    torch.set_num_threads(1)
    ngrams = open_ngrams(path)
    stream = ngrams.stream(held_out=False)
    tokens_T, position_T = stream.tokens_T[:MOST], stream.position_T[:MOST]
    blocks = [slice(first, first + BLOCK) for first in range(0, len(tokens_T) - BLOCK + 1, BLOCK)]
    print(f"{len(blocks) * BLOCK:,} tokens; ns a token of one thread, one layer\n")
    print("| recipe | heads | compiled | M tokens/s | from tokens | numpy | torch |\n|---|---|---|---|---|---|---|")
    for name in RECIPES:
        recipe = load_recipe(Path(__file__).parents[2] / f"tables/{name}.toml")
        layout = plan_layout(recipe.hash, ngrams.canonical_vocab, ngrams.canonical_pad)
        layer = layout.layers[0]
        windows = [layout.windows(ngrams.canonical_V[tokens_T[block]], position_T[block]) for block in blocks]
        tensors = [torch.from_numpy(window_TN) for window_TN in windows]
        constants = (layer.multipliers_NH, np.array(layer.primes_H), np.array(layer.offsets_H))
        for window_TN, tensor_TN in zip(windows, tensors, strict=True):
            rows_TH = row_ids(window_TN, *constants)
            assert np.array_equal(layer.row_ids(window_TN), rows_TH)
            assert np.array_equal(layer.row_ids(tensor_TN).numpy(), rows_TH)

        def of_tokens(block: slice, layout: Layout = layout) -> Any:
            return layout.layers[0].row_ids(layout.windows(ngrams.canonical_V[tokens_T[block]], position_T[block]))

        def by_numpy(window_TN: Any, constants: Any = constants) -> Any:
            return row_ids(window_TN, *constants)

        ways = (
            partial(each, layer.row_ids, windows),
            partial(each, of_tokens, blocks),
            partial(each, by_numpy, windows),
            partial(each, layer.row_ids, tensors),
        )
        nanoseconds = [best / (len(blocks) * BLOCK) * 1e9 for best in best_of(ways)]
        compiled, whole, numpys, torchs = nanoseconds
        print(f"| {name} | {layer.heads} | {compiled:.1f} | {1e3 / compiled:.0f} | {whole:.1f} | {numpys:.0f} | {torchs:.0f} |")


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
    for item in items:
        function(item)


def best_of(ways: Sequence[Callable[[], object]]) -> list[float]:
    """CPU seconds of each, the best of some rounds in turns."""
    rounds: list[list[float]] = []
    for _ in range(ROUNDS):
        rounds.append([])
        for way in ways:
            begin = time.process_time()
            way()
            rounds[-1].append(time.process_time() - begin)
    return [min(seconds) for seconds in zip(*rounds, strict=True)]


if __name__ == "__main__":
    main(sys.argv[1])
