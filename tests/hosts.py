"""Tiny hosts as Hugging Face models lie on disk: random weights, made in a moment, with a tokenizer of the tests."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
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


def write_gguf(out: Path, host: Path) -> Path:
    """Write the Llama at `host` as the GGUF file `out`, as llama.cpp stores one, and return that path."""
    model = transformers.AutoModelForCausalLM.from_pretrained(host)
    config, tokenizer = model.config, json.loads((host / "tokenizer.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if heads := {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2]):
            tensor = tensor.view(heads, 2, -1, tensor.shape[-1]).transpose(1, 2).reshape(tensor.shape)  # pairs lie side by side
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
