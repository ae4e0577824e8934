"""A host's directory, as Hugging Face models lie on disk: `config.json`, safetensors and a tokenizer, or a GGUF file.

Only files of this machine are read and no code out of them is run. What is wrong with them is one line, whatever transformers
raises. transformers is an extra and takes seconds to import, so nothing here is imported before a host is asked for.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from tokenizers import Tokenizer

from engram_cli.corpus.tokenizer import load_tokenizer, vocab_size, vocabulary_digest
from engram_cli.errors import HostError
from engram_cli.model.chat_template import ChatTemplate
from engram_cli.recipe import OUR_HOST, HostRecipe, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLES, _SAMPLE = 64, 1 << 14  # stretches of a weight file that its digest takes in, and their bytes
_CONTEXT = 2048  # of models that set no limit to it


@dataclass(frozen=True)
class HostDirectory:
    """A host that was found and understood, its weights not yet read. path: the directory, or the GGUF file."""

    path: Path
    digest: str
    config: Any
    tokenizer: Tokenizer

    @property
    def layers(self) -> int:
        layers: int = self.config.get_text_config().num_hidden_layers
        return layers

    @property
    def width(self) -> int:
        width: int = self.config.get_text_config().hidden_size
        return width

    @property
    def context(self) -> int:
        """Tokens that it sees."""
        context: int = getattr(self.config.get_text_config(), "max_position_embeddings", _CONTEXT)
        return context

    @property
    def vocab(self) -> int:
        """Raw ids of its tokenizer."""
        return vocab_size(self.tokenizer)

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The model in f32, in evaluation mode. Raises HostError where its weights cannot be read or are not all there."""
        import transformers

        def read() -> Any:
            return transformers.AutoModelForCausalLM.from_pretrained(
                **_source(self.path), dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )

        model, loading = _quietly(self.path, "its weights", read)
        if missing := sorted(loading["missing_keys"]):
            raise HostError(f"a host has all its weights, but {self.path} lacks {len(missing)} of them, such as {missing[0]}")
        if (found := len(model.get_output_embeddings().weight)) < self.vocab:
            raise HostError(f"a host predicts all ids of its tokenizer, but {self.path} has {self.vocab} and predicts {found}")
        return model.eval()

    def chat_template(self, tokenizer: Tokenizer) -> ChatTemplate | None:
        """How it was taught to chat, None where its files do not say; written in ids by `tokenizer`, which has the same ones but
        may split text as no GGUF file can tell. Raises HostError where the files cannot be read."""
        import transformers

        if not _tells_of_chat(self.path):
            return None
        reader = _quietly(self.path, "its chat template", lambda: transformers.AutoTokenizer.from_pretrained(**_source(self.path)))
        if not reader.chat_template:
            return None
        told = self.model.generation_config.eos_token_id  # a number, several, or none
        ends = {*(told if isinstance(told, list) else [told]), reader.eos_token_id} - {None}
        return ChatTemplate(reader, tokenizer, frozenset(ends))

    @property
    def output_VD(self) -> torch.Tensor:
        """What the last states are multiplied with to predict each id of the tokenizer."""
        output: torch.Tensor = self.model.get_output_embeddings().weight[: self.vocab]
        return output

    def check_tokenizer(self, tokenizer: Tokenizer, of: Path) -> None:
        """Refuse ids that mean something else to the host than to the corpus at `of`. Raises HostError."""
        found, wanted = (vocabulary_digest(t) for t in (tokenizer, self.tokenizer))
        if found != wanted:
            saved = ", which transformers writes (AutoTokenizer.from_pretrained with gguf_file, save_pretrained)"
            raise HostError(
                f"a host reads the ids of its own tokenizer (vocabulary {wanted}), but {of} has another's ({found}); "
                f"run engram extract with --tokenizer and the host's tokenizer.json{saved if self.path.is_file() else ''}"
            )

    def complete(self, recipe: Recipe) -> Recipe:
        """`recipe` with this host in it. Raises HostError where it names a layer that the host lacks, or tells of another host."""
        told = recipe.host
        if max(recipe.hash.host_layers) > self.layers:
            raise HostError(
                f"memories go into layers that the host has, but {self.path} has {self.layers} (0 to {self.layers - 1}, and "
                f"{self.layers}, its output) and the recipe names {max(recipe.hash.host_layers)}; change hash.layers"
            )
        if told.foreign:
            for key, found in (("width", self.width), ("layers", self.layers), ("branches", 1)):
                if getattr(told, key) not in (found, getattr(HostRecipe, key)):
                    raise HostError(f"the recipe is for a host with {key} {getattr(told, key)}, but {self.path} has {found}")
        name = told.name if told.foreign else self.path.stem
        if name == OUR_HOST:
            raise HostError(f"{OUR_HOST} is the name of the host that is trained here; give the directory {self.path} another")
        if told.context > self.context:
            raise HostError(
                f"{self.path} sees {self.context} tokens, but the recipe trains on stretches of {told.context}; lower host.context"
            )
        host = HostRecipe(name=name, width=self.width, layers=self.layers, context=told.context)
        return replace(recipe, host=host)


def open_host(path: str | Path) -> HostDirectory:
    """Find out what lies at `path`: a directory with config.json, a GGUF file, or a directory with just one of those.

    Raises HostError where it is none, no causal language model or one that keeps a state beside keys and values, and where
    transformers is not installed.
    """
    path = _locate(Path(path))
    if find_spec("transformers") is None or (path.suffix == ".gguf" and find_spec("gguf") is None):
        raise HostError(f'a host such as {path} is read by transformers, which is not installed; pip install "engram-tables[hf]"')
    import transformers

    transformers.logging.set_verbosity_error()
    source = _source(path)
    config = _quietly(path, "its config", lambda: transformers.AutoConfig.from_pretrained(**source))
    kind: Any = transformers.AutoModelForCausalLM._model_mapping.get(type(config), None)
    names = config.architectures or []  # of GGUF files it is not known, but nothing else is read out of them
    if kind is None or (path.is_dir() and kind.__name__ not in names):
        found = ", ".join(names) or config.model_type
        raise HostError(f"a host is a causal language model, but {path} is a {found}; give another")
    if kind._is_stateful:
        raise HostError(f"a host keeps keys and values of each token, but a {kind.__name__} keeps one state; give a transformer")
    if path.is_dir():  # as it is: transformers adds tokens that it misses
        tokenizer = load_tokenizer(path / "tokenizer.json")
    else:
        tokenizer = _quietly(path, "its tokenizer", lambda: transformers.AutoTokenizer.from_pretrained(**source).backend_tokenizer)
    return HostDirectory(path, _digest(path), config, tokenizer)


def _locate(path: Path) -> Path:
    """The directory, or the GGUF file, absolute."""
    path = path.absolute()
    if (path / "config.json").is_file() or (path.suffix == ".gguf" and path.is_file()):
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        raise HostError(
            f"a host is a directory with config.json or with one GGUF file, but {path} "
            + (f"has no config.json and {len(found)} of those" if path.is_dir() else "is no directory")
            + "; name another, or the file"
        )
    return found[0]


def _tells_of_chat(path: Path) -> bool:
    """Whether a chat template may lie there; of a GGUF file only its tokenizer tells."""
    config = path / "tokenizer_config.json"
    return (
        path.is_file()
        or (path / "chat_template.jinja").is_file()
        or (config.is_file() and b'"chat_template"' in config.read_bytes())
    )


def _source(path: Path) -> dict[str, Any]:
    """What every from_pretrained of transformers is told: these files, no others, and no code."""
    offline = {"local_files_only": True, "trust_remote_code": False}
    if path.is_file():
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, **offline}
    return {"pretrained_model_name_or_path": str(path), **offline}


def _quietly(path: Path, what: str, read: Callable[[], Any]) -> Any:
    """`read()` without progress bars; HostError instead of the many errors that it can raise."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return read()
    except Exception as error:
        detail = " ".join(str(error).split())
        raise HostError(
            f"{path} is a host where transformers can read it, but {what} cannot be ({type(error).__name__}: {detail[:300]}); "
            "get it anew"
        ) from None


def _digest(path: Path) -> str:
    """xxh3_128 (hex) over the names and sizes of config and weight files, and over 64 stretches of each: not all of hundreds of
    gigabytes is read, but a host with other weights differs in every stretch."""
    state = xxhash.xxh3_128()
    for file in [path] if path.is_file() else sorted([path / "config.json", *path.glob("*.safetensors")]):
        size = file.stat().st_size
        state.update(f"{file.name if file != path else 'gguf'}\n{size}\n".encode())
        state.update(b"".join(_stretches(file, size)))
    return state.hexdigest()


def _stretches(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        for number in range(_SAMPLES):
            opened.seek(max(0, size - _SAMPLE) * number // (_SAMPLES - 1))
            yield opened.read(_SAMPLE)
