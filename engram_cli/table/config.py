"""The hash of a released checkpoint, found in its config.json: which family, which layers, how many rows.

    found = hash_of_config(json.loads(text), "config.json")     # None where the model has no such memory
    layout = found.layout(canonical_V)

Key names and defaults are those of `transformers` (deepseek_v41, qwen4_exp) and vLLM. A config with half of the keys is refused:
a guessed number would read every row for the wrong gram.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engram_cli.errors import ArtifactError, RecipeError
from engram_cli.recipe import HashRecipe
from engram_cli.table.hashing import FAMILIES, Family
from engram_cli.table.layout import Layout, plan_layout

Config = Mapping[str, Any]
_MOST = 1 << 62
_MOST_ORDER, _MOST_HEADS, _MOST_DIM, _MOST_IDS = 6, 1024, 1 << 20, 1 << 32  # where a config asks for more, it is damaged
_PADS = ("engram_pad_token_id", "engram_pad_id")  # both occur
_QWEN_DEFAULTS = {
    "ngram_size": 3,
    "heads_per_ngram": 8,
    "ngram_vocab_size_base": 20_000_000,
    "make_ngram_vocab_size_divisible_by": 128,
    "seed": 1234,
}


@dataclass(frozen=True)
class FoundHash:
    """What a config says of its table.

    hash: as a recipe says it; dim: numbers per row; vocab: ids that are hashed, None where they are as many as the tokenizer has;
    pad: raw id in slots of which a window sees nothing; rows: of each layer's matrix, where the config declares them.
    """

    hash: HashRecipe
    dim: int
    vocab: int | None
    pad: int
    rows: tuple[int, ...] | None

    @property
    def family(self) -> Family:
        return FAMILIES[self.hash.family]

    def layout(self, canonical_V: npt.NDArray[np.uint32]) -> Layout:
        """The layout; `canonical_V` is the token map, used where the family hashes canonical ids.

        Raises ArtifactError where the map has no such pad.
        """
        if not self.family.canonical:
            assert self.vocab is not None, "raw ids are counted by the config"
            return plan_layout(self.hash, self.vocab, self.pad)
        if self.pad >= len(canonical_V):
            raise ArtifactError(
                f"the pad must be a token, but the config names {self.pad} and the tokenizer has {len(canonical_V)}; they do "
                "not belong together"
            )
        return plan_layout(self.hash, self.vocab or int(np.max(canonical_V)) + 1, int(canonical_V[self.pad]))


def hash_of_config(config: Config, source: str) -> FoundHash | None:
    """What `config`, or its `text_config`, says of a table; None where it names no layers that have one.

    source: names the file in messages. Raises ArtifactError where a key is missing or is not what it must be.
    """
    keys = _Keys(text_config(config), source)
    for names_layers, read in (("engram_layer_ids", _deepseek), ("ple_layer_ids", _qwen), ("n_head_per_ngram", _demo)):
        if keys.config.get(names_layers):
            found = read(keys)
            try:
                found.hash.check()
            except RecipeError as error:
                raise ArtifactError(f"{source} asks for a hash that cannot be ({error})") from None
            return found
    return None


def text_config(config: Config) -> Config:
    """What a config says of its language model: of a model that sees, too, that is a part of it."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, Mapping) else config


@dataclass(frozen=True)
class _Keys:
    config: Config
    source: str

    def whole(self, key: str, default: int | None = None, least: int = 0, most: int = _MOST) -> int:
        value = self.config.get(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self._error(key, f"a whole number, {least} or more" + (f", at most {most}" if most < _MOST else ""))
        return value

    def list(self, key: str) -> tuple[int, ...]:
        values = self.config.get(key)
        if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
            raise self._error(key, "a list of whole numbers")
        return tuple(values)

    def _error(self, key: str, rule: str) -> ArtifactError:
        found = f"it is {self.config[key]!r}" if key in self.config else "there is none"
        return ArtifactError(f"`{key}` of {self.source} must be {rule}, but {found}; get the checkpoint's config again")


def _deepseek(keys: _Keys) -> FoundHash:
    layers, rows = keys.list("engram_layer_ids"), keys.list("engram_num_embeddings")
    if len(rows) != len(layers):
        raise ArtifactError(
            f"`engram_num_embeddings` of {keys.source} must have a number for each of `engram_layer_ids`, but there "
            f"are {len(rows)} for {len(layers)}; get the checkpoint's config again"
        )
    orders = tuple(range(2, keys.whole("engram_max_ngram_size", most=_MOST_ORDER) + 1))
    heads, size = keys.whole("engram_n_heads", most=_MOST_HEADS), keys.whole("engram_vocab_size")
    recipe = HashRecipe(orders, heads, (size,), layers, family="deepseek-v4.1")
    pads = {keys.whole(key) for key in _PADS if key in keys.config} or {keys.whole(_PADS[0])}
    if len(pads) > 1:
        raise ArtifactError(
            f"`{_PADS[0]}` and `{_PADS[1]}` of {keys.source} are two names of one number, but they are {keys.config[_PADS[0]]} and "
            f"{keys.config[_PADS[1]]}; leave out the wrong one"
        )
    dim = keys.whole("engram_head_dim", least=1, most=_MOST_DIM)
    vocab, (pad,) = keys.whole("engram_compressed_vocab_size", least=2, most=_MOST_IDS), pads
    return FoundHash(recipe, dim, vocab, pad, rows)


def _qwen(keys: _Keys) -> FoundHash:
    bounds = {"ngram_size": _MOST_ORDER, "heads_per_ngram": _MOST_HEADS}
    numbers = (keys.whole(key, default, most=bounds.get(key, _MOST)) for key, default in _QWEN_DEFAULTS.items())
    orders, heads, size, multiple, seed = numbers
    recipe = HashRecipe(
        orders=tuple(range(2, orders + 1)),
        heads=heads,
        size=(size,),
        layers=tuple(sorted(set(keys.list("ple_layer_ids")))),
        seed=seed,
        family="qwen-ple",
        multiple=multiple,
    )
    width = keys.whole("ple_embed_dim", keys.config.get("hidden_size"), least=1, most=_MOST_DIM)
    all_heads = heads * len(recipe.orders)
    if not all_heads or width % all_heads:
        raise ArtifactError(
            f"`ple_embed_dim` of {keys.source} must be a multiple of its {all_heads} heads, but it is {width}; get the "
            "checkpoint's config again"
        )
    ends = keys.config.get("eos_token_id")  # a list where several tokens end a text; the first is the one that is hashed
    end = _Keys({"eos_token_id": ends[0]}, keys.source) if isinstance(ends, list) and ends else keys
    vocab = keys.whole("vocab_size", least=2, most=_MOST_IDS)
    return FoundHash(recipe, width // all_heads, vocab, end.whole("eos_token_id", most=vocab - 1), None)


def _demo(keys: _Keys) -> FoundHash:
    """The demo's EngramConfig, as `dataclasses.asdict` gives it."""
    orders, heads = (
        tuple(range(2, keys.whole("max_ngram_size", most=_MOST_ORDER) + 1)),
        keys.whole("n_head_per_ngram", least=1, most=_MOST_HEADS),
    )
    width = keys.whole("n_embed_per_ngram", least=1, most=_MOST_DIM)
    if width % heads:
        raise ArtifactError(
            f"`n_embed_per_ngram` of {keys.source} must be a multiple of its {heads} heads, but it is {width}; save it again"
        )
    recipe = HashRecipe(orders, heads, keys.list("engram_vocab_size"), keys.list("layer_ids"), keys.whole("seed", 0))
    return FoundHash(recipe, width // heads, None, keys.whole("pad_id"), None)
