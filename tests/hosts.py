"""Tiny hosts as Hugging Face models lie on disk: random weights, made in a moment, with a tokenizer of the tests."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

transformers.logging.disable_progress_bar()  # on stderr, whose lines tests count

LAYERS, WIDTH = 3, 16
KINDS = ("llama", "gpt2", "gemma2")


def write_host(out: Path, tokenizer: Path, kind: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """Write a random model of `kind` (llama, gpt2, gemma2, bert) with a tokenizer at `out`, and return its path."""
    vocab = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "max_position_embeddings": 64}
    sizes |= {"vocab_size": vocab, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0} | changes
    if kind not in ("gpt2", "bert"):
        sizes = {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8} | sizes
    if kind == "gemma2":  # sliding windows in every second layer, logits capped
        sizes = {"sliding_window": 5, "query_pre_attn_scalar": 8} | sizes
    config = transformers.AutoConfig.for_model(kind, **sizes)
    torch.manual_seed(seed)
    make = transformers.AutoModelForMaskedLM if kind == "bert" else transformers.AutoModelForCausalLM
    make.from_config(config).save_pretrained(out)
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    return out


CHAT_TEMPLATE = """{% if messages[-1].role != 'user' %}{{ raise_exception('the last\\nword is yours') }}{% endif %}
{%- for message in messages %}{{ message.role + ': ' + message.content | trim + eos_token }}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"""


def teach_to_chat(path: Path, ends: int | list[int] | None = None) -> Path:
    """Give the host at `path` a chat template, and `ends` as what ends its answers besides the token that ends documents."""
    (path / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
    return path
