"""How fast rows are filled from counts, in all and by stage.

    python docs/benchmarks/fill_speed.py NGRAMS FOLDER             2 orders x 4 heads x 48 numbers
    python docs/benchmarks/fill_speed.py NGRAMS FOLDER RECIPE      what a recipe says

Twice, since the first time loads kernels; the rows are removed again. Of each stage the seconds of a core are told, which other
work on the machine changes less than those that go by. Filling is all but token vectors and what is learnt of order 1; by the
clock it is all but the latter, since vectors are made while grams are counted.
"""

import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from engram_cli.corpus import count_model
from engram_cli.corpus.artifact import open_ngrams
from engram_cli.model import rows_from_counts, start
from engram_cli.model.data import layout_for
from engram_cli.recipe import HashRecipe, Recipe, RowsRecipe, load_recipe
from engram_cli.store.resources import format_bytes

ALONE, IN_THREADS = time.process_time, time.thread_time
STAGES = {  # none within another
    "token vectors": (start, "token_vectors", IN_THREADS),
    "order 1 learnt": (rows_from_counts.Counted, "learn", ALONE),
    "counting": (rows_from_counts.Counted, "__init__", IN_THREADS),
    "sorted, in threads of its own": (count_model, "lengthen", IN_THREADS),
    "ratios": (rows_from_counts, "log_ratios", IN_THREADS),
    "whose rows": (rows_from_counts._Filling, "__init__", ALONE),
    "solved": (rows_from_counts._Filling, "solve", IN_THREADS),
    "fitted": (rows_from_counts._Filling, "fit", IN_THREADS),
    "said": (rows_from_counts._Filling, "say", IN_THREADS),
    "written": (rows_from_counts._Filling, "write", IN_THREADS),
}
NOT_FILLING = ("token vectors", "order 1 learnt")


class Stages:
    """By name the seconds of a core, computed, and those that went by, passed."""

    def __init__(self) -> None:
        self.computed, self.passed = defaultdict[str, float](float), defaultdict[str, float](float)
        for stage, (owner, name, clock) in STAGES.items():
            setattr(owner, name, self._measured(getattr(owner, name), stage, clock))

    def _measured(self, function: Callable[..., Any], stage: str, clock: Callable[[], float]) -> Callable[..., Any]:
        @wraps(function)
        def inner(*args: Any) -> Any:
            began, computed = time.perf_counter(), clock()
            try:
                return function(*args)
            finally:
                self.computed[stage] += clock() - computed
                self.passed[stage] += time.perf_counter() - began

        return inner

    def clear(self) -> None:
        self.computed.clear()
        self.passed.clear()


def main(ngrams_path: str, folder: Path, recipe_path: str | None = None) -> None:
    ngrams = open_ngrams(ngrams_path)
    recipe = Recipe(hash=HashRecipe(heads=4, size=(500_000, 1_000_000)), rows=RowsRecipe(dim=48, init="counts"))
    if recipe_path is not None:
        recipe = load_recipe(recipe_path)
    layout = layout_for(recipe.hash, ngrams)
    training, _ = start.streams(ngrams, layout)
    tokens, stages = len(training.stream.tokens_T), Stages()
    for turn in ("kernels loaded", "again"):
        stages.clear()
        directory = folder / "filled"
        directory.mkdir(parents=True)
        began, computed = time.perf_counter(), time.process_time()
        start.Start.make(training, ngrams.vocab, recipe, layout, directory)
        passed = time.perf_counter() - began - stages.passed["order 1 learnt"]
        computed = time.process_time() - computed
        filling = computed - sum(stages.computed[stage] for stage in NOT_FILLING)
        shutil.rmtree(directory)
        size = format_bytes(layout.rows * recipe.rows.row_bytes)
        print(f"{turn}: {layout.rows:,} rows, {size}, from {tokens:,} tokens in {passed:.1f} s ({filling:.1f} of a core)", end=": ")
        print(f"{tokens / passed:,.0f} tokens/s, {tokens / filling:,.0f} by a core")
        print("  " + ", ".join(f"{stage} {stages.computed[stage]:.2f}" for stage in STAGES), end="")
        print(f", the rest {computed - sum(stages.computed.values()):.2f}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
