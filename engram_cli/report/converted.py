"""What a conversion did, as a report: layer by layer the new type, what rounding took, and what is kept beside the table."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from engram_cli.report.convert_loss import Losses
from engram_cli.report.convert_plan import Plan
from engram_cli.report.convert_source import KEPT, Source
from engram_cli.report.report import Measure, Report, Scalar, column, table
from engram_cli.report.stored import FORMS
from engram_cli.table.convert import RoundingError

LAYERS = [
    column("layer", pa.int32()),
    column("rows", pa.int64(), "rows"),
    column("dim", pa.int32()),
    column("dtype_before", pa.string(), "text"),
    column("dtype", pa.string(), "text"),
    column("bytes", pa.int64(), "bytes"),
    column("relative_rms_error", pa.float64()),
    column("worst_row", pa.int64()),
    column("worst_row_error", pa.float64()),
    column("saturated", pa.int64(), "numbers"),
    column("not_finite", pa.int64(), "numbers"),
]


def conversion_report(
    source: Source, plan: Plan, out: Path, errors: Mapping[int, RoundingError], losses: Losses | None = None
) -> Report:
    """The report of a finished conversion; `losses`, where they were measured."""
    records = [
        {
            "layer": layer.number,
            "rows": layer.source.rows.count,
            "dim": layer.source.rows.dim,
            "dtype_before": layer.source.rows.type.name,
            "dtype": layer.type.name,
            "bytes": layer.bytes,
            "relative_rms_error": (error := errors[layer.number]).relative,
            "worst_row": error.worst_row if error.worst else None,
            "worst_row_error": error.worst,
            "saturated": error.saturated,
            "not_finite": error.not_finite,
        }
        for layer in plan.layers
    ]
    whole = RoundingError()
    for error in errors.values():
        whole.add(error)
    facts: dict[str, Scalar | Measure] = {
        "from": f"{source.stored.path} ({FORMS[source.stored.form]})",
        "to": f"{out} ({FORMS[plan.form]})",
        "hash family": source.stored.family.name,
        "rows": Measure(sum(layer.source.rows.count for layer in plan.layers), "rows"),
        "size": Measure(plan.bytes, "bytes"),
        "relative RMS error": whole.relative,
        "saturated": Measure(whole.saturated, "numbers"),
        "token map": source.token_map.digest if source.token_map else "not known: no tokenizer lies beside it",
    }
    if losses is not None:
        facts["held-out loss before"] = Measure(losses.before, "nats")
        facts["held-out loss after"] = Measure(losses.after, "nats")
        facts["measured on"] = f"{losses.text}, {'of which' if losses.own else 'not those of which'} the table was built"
    done = "rows changed by rounding" if whole.squared or whole.saturated else "every row as it was"
    tables = {"layers": table(LAYERS, records, title="Layers")}
    return Report("convert", f"{out}: {FORMS[plan.form]}, {done}", facts, tables, tuple(_notes(source, plan, whole)))


def _notes(source: Source, plan: Plan, error: RoundingError) -> Iterator[str]:
    """What is kept beside the table, what stays, and what a reader must not miss."""
    if plan.config is not None and source.files:
        yield (
            "A checkpoint in this layout has no place for the host's weights, our form of the memory and the training log: they "
            f"are kept in `{KEPT}/` as they are, and `--to engram` puts them back."
        )
    if plan.config is None and source.keeps_config:
        rest = f" and {len(source.rest)} other tensors of the memory" if source.rest else ""
        yield f"Of the checkpoint, the config{rest} are kept in `checkpoint/`."
    if plan.config is None and "host.safetensors" not in source.files:
        yield "There is no host: this table can be looked into, and not be spoken to."
    if source.others:
        yield f"{source.others:,} other tensors of the model are no part of the table, and stay where they are."
    if plan.config is not None and plan.form == "deepseek-v4.1" and plan.layers[0].type.name != "fp8-block":
        yield "Published tables of this layout are fp8-block: engram reads others too, serving engines may not."
    if error.not_finite:
        yield f"{error.not_finite:,} numbers are NaN or infinite, before any rounding: see `engram inspect --stats`."
