"""A small table artifact, written in a moment: random weights and random rows, a tokenizer trained on a few sentences."""

from pathlib import Path

import numpy as np
import torch

from engram_cli.corpus.canonical import token_map
from engram_cli.corpus.tokenizer import find_end, find_pad, train_tokenizer
from engram_cli.model.host import initialise
from engram_cli.model.table import make_host, save_weights
from engram_cli.recipe import parse_recipe
from engram_cli.store.artifact import write_artifact
from engram_cli.table.formats.engram import LAYOUT_FILE
from engram_cli.table.layout import plan_layout
from engram_cli.table.rows import Rows, rows_file

RECIPE = """
name = "tiny"
[hash]
orders = [2, 3]
heads = 2
size = 50
layers = [0, 2]
[rows]
dim = 4
[host]
width = 16
layers = 3
heads = 2
feed_forward = 32
context = 32
"""
# whose rows at the output make a distribution of their own, and are heard within
SPEAKING = RECIPE.replace("layers = [0, 2]", "layers = [0, 3]") + "[memory]\nmixture = true\nheard = [0, 1]\n"
# whose memory has all its parts, so that all that a cache holds is there, and one whose host has two branches besides
ALL_PARTS = RECIPE + '[memory]\nconvolution = "random"\nbiases = true\n'
BRANCHED = ALL_PARTS.replace("[host]", "[host]\nbranches = 2")
TEXTS = (
    "The capital of France is Paris, and the river Seine flows through the city.",
    "The capital of Italy is Rome; the capital of Spain is Madrid.\n\nCafé crème, naïve façade, 東京 and Ελλάδα 🙂.",
)


def write_table(out: Path, recipe_text: str = RECIPE, *, texts: tuple[str, ...] = TEXTS, vocab: int = 320, seed: int = 0) -> Path:
    """Write a table artifact at `out` and return its path. Equal arguments give equal bytes."""
    recipe = parse_recipe(recipe_text)
    tokenizer = train_tokenizer([texts], vocab)
    folded = token_map(tokenizer)
    raw_pad, end = find_pad(tokenizer), find_end(tokenizer)
    layout = plan_layout(recipe.hash, folded.canonical_vocab, int(folded.canonical_V[raw_pad]))
    host = make_host(recipe, len(folded.canonical_V), layout)
    generator = torch.Generator().manual_seed(seed)
    initialise(host, generator)
    for name, parameter in host.named_parameters():
        if name.startswith("mixture.") or "_connections." in name:  # which would weigh both sides, or all branches, the same
            parameter.data.normal_(generator=generator)
    random = np.random.default_rng(seed)
    with write_artifact(out, "table") as draft:
        for layer in layout.layers:
            rows = Rows.create(draft.path / rows_file(layer.layer), layer.rows, recipe.rows.dim, recipe.rows.dtype)
            rows.put(np.arange(layer.rows), random.standard_normal((layer.rows, recipe.rows.dim), dtype=np.float32))
            rows.flush()
        save_weights(host, draft.path)
        draft.table(LAYOUT_FILE, layout.to_arrow())
        draft.table("token_map.arrow", folded.to_arrow())
        tokenizer.save(str(draft.path / "tokenizer.json"))
        draft.recipe = recipe_text
        draft.facts = {
            "name": recipe.name,
            "parameters": {
                "host": sum(parameter.numel() for _, parameter in host.host_parameters()),
                "memory": sum(parameter.numel() for parameter in host.memories.parameters()),
                "rows": layout.rows * recipe.rows.dim,
            },
            "layers": list(recipe.hash.layers),
            "dim": recipe.rows.dim,
            "dtype": recipe.rows.dtype,
            "tokens": 0,
            "held_out_loss": None,
            "token_map_digest": folded.digest,
            "canonical_vocab": folded.canonical_vocab,
            "pad": raw_pad,
            "end": end,
        }
    return out


def whole(rows: Rows) -> np.ndarray:
    """All rows as f32 [R, E]."""
    return rows.read(0, rows.count)
