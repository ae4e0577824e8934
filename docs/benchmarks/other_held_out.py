"""Leave out the documents of a corpus that `engram extract --held-out SHARE` keeps out, so that a larger share keeps out others.

    python docs/benchmarks/other_held_out.py CORPUS.jsonl.zst SHARE OUT.jsonl

What was chosen by one held-out text is then measured on another, which has no document in common with it.
"""

import json
import sys

import xxhash
import zstandard


def main(corpus: str, share: float, out: str) -> None:
    first = int(share * (1 << 128))  # as corpus/tokens.py is_held_out
    with zstandard.open(corpus, "rt", encoding="utf-8", newline="\n") as lines, open(out, "w", encoding="utf-8") as kept:
        for line in lines:
            if xxhash.xxh3_128_intdigest(json.loads(line)["text"].encode()) >= first:
                kept.write(line)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
