"""What a conversion costs: the loss of a table with a host of its own, on held-out text, before and after."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engram_cli.corpus.artifact import NGrams
from engram_cli.errors import ArtifactError
from engram_cli.report.convert_plan import Plan
from engram_cli.report.convert_source import Source

if TYPE_CHECKING:
    from engram_cli.model.quantise import LossGate
    from engram_cli.model.table import Table


@dataclass(frozen=True)
class Losses:
    """Nats a token on the held-out documents of the n-grams at `text`; own: whether the table was built from those; facts: what its
    manifest then says of it."""

    before: float
    after: float
    text: Path
    own: bool
    facts: Mapping[str, float]


@dataclass(frozen=True)
class Measure:
    """A table, the text it is measured on, and what its loss may rise by."""

    table: "Table"
    ngrams: NGrams
    gate: "LossGate"

    def losses(self, directory: Path, plan: Plan) -> Losses:
        """Before, and with what was written in `directory`. Raises LossError where the gate does not hold."""
        from engram_cli.model.quantise import loss_facts

        before = self.gate.loss(self.table.rows)
        after = self.gate.loss({layer.number: plan.rows(directory, layer) for layer in plan.layers})
        self.gate.must_hold(before, after, plan.layers[0].type.name, "give another --dtype or more --max-loss")
        own = self.table.artifact.manifest.inputs.get("ngrams") == self.ngrams.artifact.digest
        facts = loss_facts(after, self.gate.held_out.tokens_per_byte) | {"held_out_loss_before_rounding": round(before, 6)}
        return Losses(before, after, self.ngrams.artifact.path, own, facts if own else {})


def open_measure(source: Source, ngrams: NGrams, max_loss: float | None, host: str | Path | None = None) -> Measure:
    """host: where a foreign host lies, None for where it was.

    Raises ArtifactError where the table has no host, or another tokenizer than the n-grams; HostError as `open_table` does.
    """
    from engram_cli.model.data import Windowed  # torch takes two seconds and 200 MiB: only who measures a loss pays
    from engram_cli.model.quantise import LossGate, measured_text
    from engram_cli.model.table import HOST_FILE, open_table

    path = source.stored.path
    if source.stored.form != "engram" or HOST_FILE not in source.files:
        raise ArtifactError(f"a loss is that of a host with its table, but {path} has no host; leave out --ngrams and --max-loss")
    table = open_table(path, "cpu", host)
    if table.tokenizer.get_vocab() != ngrams.tokenizer.get_vocab():
        raise ArtifactError(
            f"the host of {path} reads other tokens than {ngrams.artifact.path} holds: their tokenizers differ; give n-grams that "
            "were extracted with the tokenizer.json of the table"
        )
    text = Windowed(ngrams.stream(held_out=True), table.canonical_V, table.layout)
    held_out = measured_text(text, table.recipe)
    return Measure(table, ngrams, LossGate(table.host, table.layout.layers, held_out, max_loss))
