"""The columns of every Arrow file in an artifact, and the versions they belong to."""

import pyarrow as pa

# n-gram artifact ------------------------------------------------------------------------------------------------------
DOCUMENTS = pa.schema(
    [
        ("offset", pa.uint64()),  # first token in tokens.arrow
        ("length", pa.uint64()),  # tokens, the closing end token (if the tokenizer has one) included
        ("bytes", pa.uint64()),  # bytes of its UTF-8 text
        ("held_out", pa.bool_()),  # kept out of the counts and of training
        ("source", pa.dictionary(pa.int32(), pa.string())),  # the file it came from, as named on the command line
        ("digest", pa.string()),  # xxh3_128 of its UTF-8 text, hex
    ]
)
TOKEN_MAP = pa.schema(
    [
        ("canonical", pa.uint32()),  # row i: the canonical id of raw token id i
        ("text", pa.string()),  # the key that raw id i was folded by: equal keys share a canonical id (not folded: its own text)
    ]
)
SPECTRUM = pa.schema(
    [
        ("order", pa.int32()),
        ("count", pa.uint64()),  # occurrences of a gram, ascending within its order
        ("grams", pa.uint64()),  # how many grams of that order occur so often
    ]
)
WINDOWS = pa.schema(
    [
        ("length", pa.int32()),  # tokens of the window: the orders from 2, and 16
        ("one_in", pa.uint64()),  # of the windows of that length one in so many is here, chosen by its canonical hash
        ("canonical", pa.uint64()),  # hash of its canonical ids
        ("raw", pa.uint64()),  # hash of its raw ids
        ("count", pa.uint64()),  # occurrences in the training documents
        ("held_out", pa.uint64()),  # occurrences in the held-out documents
    ]
)


def tokens_schema(vocab: int) -> pa.Schema:
    """tokens.arrow: raw token ids, document after document; u16 where `vocab` ids fit, else u32."""
    return pa.schema([("token", pa.uint16() if vocab <= 1 << 16 else pa.uint32())])


def ngrams_schema(order: int, bits: int) -> pa.Schema:
    """ngrams-N.arrow, sorted by gram: `bits` per canonical id, oldest id in the highest bits; where a gram takes more than 64 bits,
    `gram` holds those above its low 64, and `gram_low` these."""
    low = [("gram_low", pa.uint64())] if order * bits > 64 else []
    return pa.schema([("gram", pa.uint64()), *low, ("count", pa.uint64())], metadata={"order": str(order), "bits": str(bits)})


# table artifact -------------------------------------------------------------------------------------------------------
LAYOUT = pa.schema(
    [
        ("layer", pa.int32()),
        ("order", pa.int32()),
        ("head", pa.int32()),  # within its order
        ("prime", pa.int64()),  # = rows of the head
        ("offset", pa.int64()),  # first row of the head in its layer's matrix
    ]
)
TRAINING = pa.schema(
    [
        ("step", pa.int64()),
        ("tokens", pa.int64()),  # training tokens seen so far
        ("seconds", pa.float64()),  # of training, evaluation not counted; null in a run by tokens
        ("loss", pa.float64()),  # of the batch, nats per token
        ("held_out_loss", pa.float64()),  # nats per token, null between evaluations
        ("rows_touched", pa.int64()),  # distinct rows the batch read
    ]
)
