"""Where rows live while they are trained, and whether they fit there: asked before any work is done.

| `--rows` | where |
|---|---|
| `ram` | in memory |
| `mmap` | in a mapped file, which may be larger than memory |
| `cuda` | on the GPU that the host computes on |
"""

from pathlib import Path

import torch

from engram_cli.errors import DeviceError, RecipeError
from engram_cli.model.row_optimizer import OPTIMIZERS
from engram_cli.recipe import TRAINED_TYPES, Recipe, RowsRecipe
from engram_cli.store.resources import free_memory, need_disk, need_memory, need_room
from engram_cli.table.layout import Layout

WHERE = {"ram": "rows in memory", "mmap": "rows mapped from disk", "cuda": "rows on the GPU"}
_OWNER_BYTES = 16  # a row takes while it is found whose it is
_SMALLER = "lower hash.size, hash.heads or rows.dim"


def check_resources(layout: Layout, recipe: Recipe, directory: Path, written: RowsRecipe | None = None) -> None:
    """Refuse, before any work, rows that fit not the disk of `directory`, or cannot be filled in memory; `written`: how they are
    stored in the end, beside those of training. Raises ResourceError."""
    row_bytes = recipe.rows.row_bytes + (written.row_bytes if written not in (None, recipe.rows) else 0)
    disk = layout.rows * (row_bytes + 4 * state_width(recipe))
    need_disk(directory, disk, f"a table of {layout.rows:,} rows x {row_bytes} bytes", _SMALLER)
    if recipe.rows.init == "counts":
        need_memory(filling_memory(layout), f"filling {layout.rows:,} rows", _SMALLER)


def filling_memory(layout: Layout) -> int:
    """Bytes of memory that filling rows from counts takes for the rows; what it takes for the grams follows from the text."""
    return layout.rows * _OWNER_BYTES


def rows_bytes(layout: Layout, recipe: Recipe) -> int:
    """Bytes of all rows with their optimizer state: what they take of the disk, and held in memory or on a GPU, of that."""
    return layout.rows * (recipe.rows.row_bytes + 4 * state_width(recipe))


def place_rows(wanted: str, layout: Layout, recipe: Recipe, device: torch.device) -> str:
    """Where rows shall live: ram, mmap or cuda, as wanted; auto is ram where they fit three quarters of the memory at hand.

    Raises RecipeError for another name, DeviceError for cuda where the host is not on a GPU, ResourceError where they do not fit.
    """
    if wanted not in ("auto", *WHERE):
        raise RecipeError(f"--rows is auto, {', '.join(WHERE)}, but it is {wanted!r}; choose one of them")
    size = rows_bytes(layout, recipe)
    if wanted == "auto":
        return "ram" if size <= free_memory() * 3 // 4 else "mmap"
    if wanted == "cuda":
        if recipe.rows.dtype not in TRAINED_TYPES:
            raise RecipeError(
                f"--rows cuda takes rows of {', '.join(TRAINED_TYPES)}, but they are {recipe.rows.dtype}; use --rows ram"
            )
        if device.type != "cuda":
            raise DeviceError("--rows cuda needs a host on a CUDA GPU, but it computes on the cpu; use --rows ram, or mmap")
        need_room(
            size, torch.cuda.mem_get_info(device)[0], f"--rows cuda with {layout.rows:,} rows", "GPU memory", "use --rows ram"
        )
    if wanted == "ram":
        need_memory(size, f"--rows ram with {layout.rows:,} rows", "use --rows mmap")
    return wanted


def state_width(recipe: Recipe) -> int:
    """Numbers that the recipe's row optimizer keeps for each row: none where rows stay as they are."""
    training = recipe.training
    return OPTIMIZERS[training.row_optimizer].width(recipe.rows.dim) if training.row_learning_rate else 0
