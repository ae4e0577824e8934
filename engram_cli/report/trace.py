"""What a conversation looked up, how far the gates opened, and what it took."""

import pyarrow as pa

from engram_cli.model.carrier import MIXTURE
from engram_cli.model.generate import Usage
from engram_cli.model.session import Session
from engram_cli.report.report import Measure, Report, Scalar, column, table

_BEFORE = "⊢"  # stands for the pad: before the document's first token
_VISIBLE = str.maketrans({"\n": "⏎", "\r": "␍", "\t": "⇥"})


def trace(session: Session) -> Report:
    """The look-ups of the last turn, one record for each token that the host read: the gram that ends there for each order, as it
    was written (the token map may fold other spellings into it), the gate of each layer (the mean of its branches) and of the
    mixture, and the token that followed."""
    decoder, layers = session.decoder, session.table.layout.layers
    orders = sorted({order for layer in layers for order in layer.orders})
    first, answer, stop = session.turn
    fields = [column(name, pa.string(), "text") for name in ("part", "token", *(f"{order}-gram" for order in orders))]
    fields += [column(f"gate_{place}", pa.float64(), "share") for place in decoder.gates]
    fields.append(column("next", pa.string(), "text"))
    records: list[dict[str, str | float | None]] = []
    for at in range(first, min(stop, *map(len, decoder.gates.values()))):
        record: dict[str, str | float | None] = {"part": "text" if at < answer else "answer", "token": _text(session, at, at + 1)}
        record |= {f"{order}-gram": _text(session, at + 1 - order, at + 1) for order in orders}
        record |= {f"gate_{place}": gates[at] for place, gates in decoder.gates.items()}
        records.append(record | {"next": _text(session, at + 1, at + 2) if at + 1 < stop else None})
    usage = session.last_usage
    facts: dict[str, Scalar | Measure] = {
        "rows read": Measure(usage.rows, "rows"),
        "bytes of rows read": Measure(usage.bytes, "bytes"),
    }
    for place, gates in decoder.gates.items():
        opened = [gate for gate in gates[first:stop] if gate is not None]
        name = f"mean gate of {'the mixture' if place == MIXTURE else f'layer {place}'}"
        facts[name] = Measure(sum(opened) / len(opened) if opened else None, "share")
    return Report(
        about="trace",
        title="What the last turn looked up" if records else "No turn yet, so nothing was looked up",
        facts=facts,
        tables={"lookups": table(fields, records, title="token by token; a gate is 0 % shut and 100 % open")},
        notes=_notes(records, decoder.memory, MIXTURE in decoder.gates),
    )


def stats(session: Session) -> Report:
    """Tokens, tokens per second, rows and bytes of the last turn and of the session."""
    decoder = session.decoder
    fields = [
        column("of", pa.string(), "text"),
        column("prefill_tokens", pa.int64(), "tokens"),
        column("prefill_rate", pa.float64(), "tokens/s"),
        column("decoded_tokens", pa.int64(), "tokens"),
        column("decode_rate", pa.float64(), "tokens/s"),
        column("rows_read", pa.int64(), "rows"),
        column("bytes_read", pa.int64(), "bytes"),
    ]
    records = [_usage_record("the last turn", session.last_usage), _usage_record("the session", session.usage)]
    facts: dict[str, Scalar | Measure] = {
        "memory": "on" if decoder.memory else "off",
        "device": str(session.table.host.device),
        "context": f"{len(decoder.ids) - decoder.first} of {session.table.host.context} tokens",
        "rows per token": sum(layer.heads for layer in session.table.layout.layers),
        "bytes of rows per token": Measure(session.table.bytes_per_token, "bytes"),
    }
    return Report("stats", "What the conversation took", facts, {"usage": table(fields, records, title="speed and look-ups")})


def _usage_record(of: str, usage: Usage) -> dict[str, str | float | None]:
    return {
        "of": of,
        "prefill_tokens": usage.prefill_tokens,
        "prefill_rate": usage.prefill_tokens / usage.prefill_seconds if usage.prefill_seconds else None,
        "decoded_tokens": usage.decode_tokens,
        "decode_rate": usage.decode_tokens / usage.decode_seconds if usage.decode_seconds else None,
        "rows_read": usage.rows,
        "bytes_read": usage.bytes,
    }


def _text(session: Session, start: int, stop: int) -> str:
    """The document's ids from `start` to `stop` as text: ⊢ for each before its beginning, ⏎ for a line break."""
    ids = session.decoder.ids[max(0, start) : stop]
    text: str = session.table.tokenizer.decode(ids, skip_special_tokens=False)
    return _BEFORE * max(0, -start) + text.translate(_VISIBLE)


def _notes(records: list[dict[str, str | float | None]], memory: bool, mixes: bool) -> list[str]:
    if records and not memory:
        return ["Memory is off: nothing is looked up and the gates stay shut; /memory on switches it on."]
    if records and mixes:
        return ["The gate of the mixture is how much what the rows say weighs in what comes next, beside what the host says."]
    return []
