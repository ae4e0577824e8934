"""`plan`: for a budget of memory, which table to build; for a recipe, what its table costs and what its grams would meet.

Alternatives spend the same budget and differ in one thing each: how many heads, how wide the rows, their type, how long the grams.
`sizing.deal` gives the rows to the orders. What a budget buys is told by purity, expected and not measured; which alternative is
advised follows from it by a rule that was found by training them (docs/log.md, "sizing a table"), not from a run.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engram_cli.corpus.artifact import NGrams
from engram_cli.corpus.curves import Curve
from engram_cli.errors import RecipeError
from engram_cli.model.data import layout_for
from engram_cli.model.pace import measure_pace
from engram_cli.model.table import pick_device
from engram_cli.progress import SILENT, ProgressLike
from engram_cli.recipe import BUILT_IN, Recipe, parse_recipe
from engram_cli.report.collisions import check_windows
from engram_cli.report.costs import bytes_per_row, costs_of
from engram_cli.report.ngrams_summary import read_spectra
from engram_cli.report.plan_tables import Planned, plan_tables
from engram_cli.report.report import Measure, Report, Scalar
from engram_cli.report.sizing import ENOUGH, LEAST, deal, fit, with_sizes
from engram_cli.store.resources import format_bytes, free_disk, free_memory
from engram_cli.table.layout import plan_layout

_ALIKE = 0.01  # of purity: a difference not worth rounding for
_UNUSED = 0.9  # of a budget; less than that is told
AS_IT_IS = "recipe"  # the plan that is the recipe given
_GRAM_BYTES = 248  # of memory for a token of text while rows are filled, where each ends grams of its own (rows_from_counts.py)
_BUDGETS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # that the advised plan is shown at
_COMMENTS = {
    "hash.orders": "n of the n-grams that are looked up",
    "hash.heads": "of each order; together they hold one vector, each a slice of it",
    "hash.size": "rows of a head, one number for each order",
    "hash.layers": "of the host that read the table, each with rows of its own",
    "rows.dim": "numbers in a row",
    "rows.dtype": "how they are stored",
    "rows.init": "where rows start from; counts: what follows each gram in the corpus",
    "memory.mixture": "whether rows at the output speak for themselves, beside the host",
    "memory.heard": "layers of the host before which it hears those rows besides",
    "training.row_learning_rate": "0 leaves rows as they were filled",
    "training.batch": "stretches of host.context tokens that are computed at once",
}


@dataclass(frozen=True)
class _Form:
    """What an alternative does with a budget. share: of the host's width that an order's rows cover, all heads together."""

    heads: int = 2
    share: float = 1.0
    dtype: str = "f32"
    longest: int = 3
    why: str = ""

    def of(self, base: Recipe) -> Recipe:
        dim = max(1, round(base.host.width * self.share / self.heads))
        orders = tuple(range(min(2, *base.hash.orders), self.longest + 1))
        hashed = replace(base.hash, orders=orders, heads=self.heads, size=(LEAST,))
        return replace(base, hash=hashed, rows=replace(base.rows, dim=dim, dtype=self.dtype))


_FORMS = {
    "f32": _Form(why="the budget has room for what the grams say, at full precision; half the bytes would do too"),
    "bf16": _Form(dtype="bf16", why="rounded to half the bytes, rows say the same, and twice as many fit"),
    "int8": _Form(
        dtype="int8-row", why="rows that stay as they are say the same in a quarter of the bytes, and four times as many fit"
    ),
    "narrow": _Form(share=0.5, why="half as many numbers in a row, twice as many rows"),
    "narrow-bf16": _Form(share=0.5, dtype="bf16", why="a quarter of the bytes in a row, four times as many rows"),
    "many-heads": _Form(heads=8, why="a gram that shares one row seldom shares all of them"),
    "2-grams": _Form(share=0.5, longest=2, why="longer grams than these were not counted, or do not fit"),
    "4-grams": _Form(dtype="int8-row", longest=4, why="longer grams say more where they are met again"),
}


@dataclass(frozen=True)
class Plan:
    """report: what is shown; recipes: each alternative by name; advised: the name of one of them, None where nothing was chosen."""

    report: Report
    recipes: Mapping[str, Recipe]
    advised: str | None = None

    def recipe_text(self, chosen: str | None = None, name: str = "planned") -> str:
        """The alternative `chosen` (None: the advised one) as a commented recipe called `name`. Raises RecipeError for another."""
        chosen = _taken(chosen or self.advised or "", self.recipes)
        recipe = replace(self.recipes[chosen], name=name, description=f"{self.report.title}: {chosen}")
        lines, section = [f"# {self.report.title}; the alternative is called {chosen}."], ""
        for line in recipe.to_toml().splitlines():
            section = f"{line[1:-1]}." if line.startswith("[") else section
            comment = _COMMENTS.get(section + line.split(" = ")[0])
            lines.append(f"{line:<32} # {comment}" if comment else line)
        text = "\n".join(lines) + "\n"
        assert parse_recipe(text) == recipe
        return text


def plan(
    ngrams: NGrams | None = None,
    *,
    recipe: Recipe | None = None,
    memory: int | None = None,
    take: str | None = None,
    measure: bool = True,
    device: str = "auto",
    directory: str | Path = ".",
    progress: ProgressLike = SILENT,
) -> Plan:
    """Alternatives for `memory` bytes over the grams of `ngrams`; without `memory`, what `recipe` costs, with or without `ngrams`.

    With both, host, layers, hash and training are the recipe's, and it is shown beside the alternatives. take: the name that one of
    them has to have; measure: train a few steps of each; directory: where a table would be written, of which only the free space
    is asked.
    Raises RecipeError where neither is given, where no table fits the budget, none is called `take`, or the n-grams do not suit the
    hash; ArtifactError for an order or a pad that was not counted; TrainingError where there is too little text to measure on.
    """
    spectra = read_spectra(ngrams) if ngrams else None
    base = recipe or BUILT_IN
    if memory is not None:
        base.check_buildable()  # what is chosen is to be built
    plans: dict[str, Planned] = {}
    if recipe is not None:
        plans[AS_IT_IS] = _planned(AS_IT_IS, recipe, ngrams, spectra)
    advised, budgets = None, []
    if memory is not None:
        if ngrams is None or spectra is None:
            raise RecipeError("a budget is dealt out by how often grams occur, but no n-grams are given; name an n-gram artifact")
        plans |= {found.name: found for found in _alternatives(base, ngrams, spectra, memory)}
        advised = _advise(plans)
        budgets = list(_other_budgets(plans[advised], ngrams, spectra, memory))
    elif recipe is None:
        raise RecipeError("a plan is for a budget or of a recipe, but neither is given; give --memory or --recipe")
    if take is not None:
        _taken(take, plans)  # before any of them is measured
    if ngrams is not None and measure and all(found.recipe.buildable for found in plans.values()):
        plans = _measured(plans, ngrams, device, progress)
    tokens = ngrams.artifact.manifest.facts["tokens"] if ngrams else None
    tables = plan_tables(list(plans.values()), advised, tokens, budgets)
    title = _title(ngrams, recipe, memory)
    facts = dict(_facts(ngrams, spectra, plans, advised, memory))
    report = Report("plan", title, facts, tables, tuple(_notes(plans, advised, ngrams, memory, Path(directory))))
    return Plan(report, {name: found.recipe for name, found in plans.items()}, advised)


def _taken(name: str, plans: Collection[str]) -> str:
    """`name`, where it is one of `plans`. Raises RecipeError."""
    if name not in plans:
        raise RecipeError(f"--take names one of the plans, {', '.join(plans)}, but it is {name!r}; choose one of them")
    return name


def _planned(name: str, recipe: Recipe, ngrams: NGrams | None, spectra: Mapping[int, Curve] | None) -> Planned:
    if ngrams is None or spectra is None:
        layout = plan_layout(recipe.hash, vocab=2, pad=0)  # rows follow from the sizes alone
        return Planned(name, recipe, layout, costs_of(recipe, layout, None))
    layout = layout_for(recipe.hash, ngrams)
    check_windows(ngrams, layout, recipe.hash.orders)
    first = layout.layers[0]
    rows = {order: sum(first.primes_H[first.heads_of(order)]) // recipe.hash.heads for order in first.orders}
    fits = tuple(fit(spectra[order], order, rows[order], recipe.hash.heads, ngrams.canonical_vocab) for order in first.orders)
    return Planned(name, recipe, layout, costs_of(recipe, layout, ngrams.vocab), fits)


def _alternatives(base: Recipe, ngrams: NGrams, spectra: Mapping[int, Curve], memory: int) -> Iterator[Planned]:
    """The forms whose orders were counted, each as large as the budget allows. Raises RecipeError where it allows none."""
    counted = {name: form.of(base) for name, form in _FORMS.items() if form.longest in spectra and form.dtype in base.built_types}
    if not counted:
        raise RecipeError(f"a table is of 2-grams and longer, but {ngrams.artifact.path} counted none; extract it with --orders 3")
    least = {name: _least(form, ngrams, spectra) for name, form in counted.items()}
    smallest = min(plan.costs.memory for plan in least.values())
    if smallest > memory:
        raise RecipeError(
            f"the smallest table, {LEAST} rows a head, takes {smallest:,} bytes in training, but --memory gives {memory:,}; give "
            f"{-(-smallest // 1024)}KiB or more"
        )
    for name, form in counted.items():
        if least[name].costs.memory <= memory:
            yield _largest(name, form, ngrams, spectra, memory)


def _advise(plans: Mapping[str, Planned]) -> str:
    """Rows as wide as the host asks for, in as few bytes as say the same; in more where bytes are plentiful."""
    purity = {name: found.purity or 0.0 for name, found in plans.items()}
    if "bf16" not in plans:  # longer grams than 2-grams were not counted, or hardly anything fits
        return max((name for name in plans if name in _FORMS), key=purity.__getitem__)
    wide = [name for name in ("f32", "bf16", "int8") if name in plans]
    most = max(purity[name] for name in wide)
    return next(name for name in wide if purity[name] >= most - _ALIKE)


def _least(form: Recipe, ngrams: NGrams, spectra: Mapping[int, Curve]) -> Planned:
    return _planned("least", with_sizes(form, dict.fromkeys(form.hash.orders, LEAST)), ngrams, spectra)


def _largest(name: str, form: Recipe, ngrams: NGrams, spectra: Mapping[int, Curve], memory: int) -> Planned:
    """`form` with the most rows that fit. Primes lie a little above the sizes they follow from: what is over is taken off again."""
    orders = {order: spectra[order] for order in form.hash.orders}
    unit = bytes_per_row(form) * form.hash.heads * len(form.hash.layers)  # a row more in every head of one order
    rows = memory // unit
    while True:
        found = _planned(name, with_sizes(form, deal(orders, rows, ngrams.canonical_vocab)), ngrams, spectra)
        if (over := found.costs.memory - memory) <= 0:
            return found
        if rows <= LEAST * len(orders):
            return _least(form, ngrams, spectra)
        rows = max(LEAST * len(orders), rows - -(-over // unit))


def _other_budgets(advised: Planned, ngrams: NGrams, spectra: Mapping[int, Curve], memory: int) -> Iterator[Planned]:
    """The advised plan at fractions and multiples of the budget, up to where more buys no more rows."""
    least, before = _least(advised.recipe, ngrams, spectra).costs.memory, 0
    for factor in _BUDGETS:
        if least <= factor * memory:
            found = _largest(advised.name, advised.recipe, ngrams, spectra, int(factor * memory))
            if found.costs.rows == before:
                return
            before = found.costs.rows
            yield found


def _measured(plans: Mapping[str, Planned], ngrams: NGrams, device: str, progress: ProgressLike) -> dict[str, Planned]:
    computing, measured = pick_device(device), {}
    for number, (name, found) in enumerate(plans.items(), 1):
        progress.stage(number, len(plans), f"{name}: a few steps of training")
        measured[name] = replace(found, pace=measure_pace(ngrams, found.recipe, found.layout, computing))
    return measured


def _title(ngrams: NGrams | None, recipe: Recipe | None, memory: int | None) -> str:
    within = f" within {format_bytes(memory)}" if memory is not None else ""
    counted = ngrams.artifact.path.name if ngrams else ""
    if recipe is not None:
        return f"Plan of the recipe `{recipe.name}`{f' for {counted}' if counted else ''}{within}"
    return f"Plan for {counted}{within}"


def _facts(
    ngrams: NGrams | None,
    spectra: Mapping[int, Curve] | None,
    plans: Mapping[str, Planned],
    advised: str | None,
    memory: int | None,
) -> Iterator[tuple[str, Scalar | Measure]]:
    if ngrams is not None and spectra is not None:
        yield "training tokens", Measure(ngrams.artifact.manifest.facts["tokens"], "tokens")
        for order, curve in spectra.items():
            if order > 1:
                yield f"distinct {order}-grams", Measure(curve.distinct, "grams")
    if advised is not None and memory is not None:
        yield "budget", Measure(memory, "bytes")
        yield "advised", advised
        yield "because", _FORMS[advised].why
        return
    (found,) = plans.values()
    yield "table", f"{found.costs.table / 2**30:.2f} GiB: {found.costs.rows:,} rows of {found.recipe.rows.row_bytes:,} bytes"
    yield "read per token", f"{found.costs.read_per_token:,} bytes in {sum(layer.heads for layer in found.layout.layers)} rows"


def _notes(
    plans: Mapping[str, Planned], advised: str | None, ngrams: NGrams | None, memory: int | None, directory: Path
) -> Iterator[str]:
    shown = plans[advised or AS_IT_IS]
    costs, free, disk = shown.costs, free_memory(), free_disk(directory)
    if memory is not None and costs.memory < _UNUSED * memory:
        yield (
            f"more rows would change nothing: {format_bytes(costs.memory)} of {format_bytes(memory)} bring every order to a purity "
            f"of {100 * ENOUGH:.0f} %"
        )
    if costs.filling and costs.filling > free:
        yield (
            f"filling the rows takes {format_bytes(costs.filling)} of memory, but {format_bytes(free)} are free here: build would "
            "refuse; take fewer rows"
        )
    if costs.memory > free:
        yield (
            f"held in memory the table takes {format_bytes(costs.memory)} in training, but {format_bytes(free)} are free here: "
            "build --rows mmap leaves on disk what no batch names"
        )
    if costs.disk > disk:
        yield f"the table takes {format_bytes(costs.disk)} of disk, but {format_bytes(disk)} are free here"
    if memory is not None and ngrams is not None and max(ngrams.orders) < max(form.longest for form in _FORMS.values()):
        yield f"longer grams than {max(ngrams.orders)} were not counted and so not weighed; extract --orders 4 counts them"
    if ngrams is None or not costs.filling:
        return
    grams = format_bytes(_GRAM_BYTES * ngrams.artifact.manifest.facts["tokens"])
    yield (
        f"filling rows from counts takes up to {grams} of memory for the grams besides, and time on top of training "
        "(docs/benchmarks/2026-11-28_fill.md tells how much)"
    )
    if memory is not None and ngrams.canonical_vocab < ngrams.vocab:
        yield (
            "ids are folded here; as they are (extract --no-canonical) they had 0.04 to 0.1 nats less loss with rows from counts "
            "(docs/log.md)"
        )
