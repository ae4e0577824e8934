"""What `plan` found, as tables: plans side by side, what each order's grams meet, bytes, speed, other budgets.

A column in which no plan has anything to say is left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engram_cli.model.pace import Pace
from engram_cli.recipe import Recipe
from engram_cli.report.costs import Costs
from engram_cli.report.report import column, table
from engram_cli.report.sizing import Fit, mean_purity
from engram_cli.table.layout import Layout

_PLAN = column("plan", pa.string(), "text")
PLANS = [
    _PLAN,
    column("advised", pa.bool_()),
    column("orders", pa.string(), "text"),
    column("type", pa.string(), "text"),
    column("heads", pa.int32(), "heads"),  # of an order
    column("dim", pa.int32(), "numbers"),
    column("rows", pa.int64(), "rows"),
    column("memory", pa.int64(), "bytes"),  # in training, all rows held there
    column("read_per_token", pa.int64(), "bytes/token"),
    column("purity", pa.float64(), "share"),  # mean over orders, weighted as `sizing.mean_purity` has it
    column("training_speed", pa.float64(), "tokens/s"),
]
ORDERS = [
    _PLAN,
    column("order", pa.int32()),
    column("rows_per_head", pa.int64(), "rows"),
    column("grams", pa.int64(), "grams"),
    column("load", pa.float64(), "grams/row"),
    column("occupied", pa.float64(), "share"),  # of the rows
    column("covered", pa.float64(), "share"),  # of occurrences, by as many frequent grams as there are rows
    column("sharing", pa.float64(), "share"),  # of occurrences
    column("sharing_in_every_head", pa.float64(), "share"),
    column("purity", pa.float64(), "share"),
]
COSTS = [
    _PLAN,
    column("table", pa.int64(), "bytes"),
    column("optimizer", pa.int64(), "bytes"),
    column("adam_instead", pa.int64(), "bytes"),
    column("memory", pa.int64(), "bytes"),
    column("while_filling", pa.int64(), "bytes"),
    column("on_disk", pa.int64(), "bytes"),
    column("gpu", pa.int64(), "bytes"),  # the rows stay in memory
    column("gpu_with_rows", pa.int64(), "bytes"),
]
TRAINING = [
    _PLAN,
    column("steps_measured", pa.int32(), "steps"),
    column("step", pa.float64(), "seconds"),
    column("training_speed", pa.float64(), "tokens/s"),
    column("once_through_the_text", pa.float64(), "seconds"),
    column("minutes_of_the_recipe", pa.float64(), "minutes"),
    column("tokens_in_those", pa.int64(), "tokens"),
]
BUDGETS = [
    column("memory", pa.int64(), "bytes"),
    column("rows", pa.int64(), "rows"),
    column("purity", pa.float64(), "share"),
    column("gain", pa.float64(), "share"),  # of purity, over the row above
]


@dataclass(frozen=True)
class Planned:
    """One alternative, or a recipe as it is. fits: one for each order, none without counts; pace: None where not measured."""

    name: str
    recipe: Recipe
    layout: Layout
    costs: Costs
    fits: tuple[Fit, ...] = ()
    pace: Pace | None = None

    @property
    def purity(self) -> float | None:
        return mean_purity(self.fits) if self.fits else None


def plan_tables(
    plans: Sequence[Planned], advised: str | None, tokens: int | None, budgets: Sequence[Planned]
) -> dict[str, pa.Table]:
    """The tables that have something to tell. tokens: of the training text; budgets: the advised plan at others, ascending."""
    tables = {
        "plans": table(PLANS, [_plan_record(plan, advised) for plan in plans], title="Plans"),
        "orders": table(ORDERS, _order_records(plans), title="Orders (expected of random hashing)"),
        "costs": table(COSTS, [_cost_record(plan) for plan in plans], title="Bytes"),
        "training": table(TRAINING, _training_records(plans, tokens or 0), title="Training, measured here"),
        "budgets": table(BUDGETS, _budget_records(budgets), title=f"What other budgets would buy ({advised})"),
    }
    return {name: _telling(found) for name, found in tables.items() if found.num_rows}


def _telling(found: pa.Table) -> pa.Table:
    """The table without columns that are null throughout."""
    return found.select([name for name in found.column_names if found[name].null_count < found.num_rows])


def _plan_record(plan: Planned, advised: str | None) -> dict[str, Any]:
    return {
        "plan": plan.name,
        "advised": plan.name == advised if advised else None,
        "orders": ", ".join(map(str, plan.recipe.hash.orders)),
        "type": plan.recipe.rows.dtype,
        "heads": plan.recipe.hash.heads,
        "dim": plan.recipe.rows.dim,
        "rows": plan.costs.rows,
        "memory": plan.costs.memory,
        "read_per_token": plan.costs.read_per_token,
        "purity": plan.purity,
        "training_speed": plan.pace.tokens_per_second if plan.pace else None,
    }


def _order_records(plans: Sequence[Planned]) -> Iterator[dict[str, Any]]:
    for plan in plans:
        for fit in plan.fits:
            record = {key: value for key, value in vars(fit).items() if key not in ("rows", "in_every_head", "seen")}
            yield record | {"plan": plan.name, "rows_per_head": fit.rows, "sharing_in_every_head": fit.in_every_head}


def _cost_record(plan: Planned) -> dict[str, Any]:
    costs = plan.costs
    return {
        "plan": plan.name,
        "table": costs.table,
        "optimizer": costs.optimizer,
        "adam_instead": costs.adam,
        "memory": costs.memory,
        "while_filling": costs.filling,
        "on_disk": costs.disk,
        "gpu": costs.gpu,
        "gpu_with_rows": costs.gpu_with_rows,
    }


def _training_records(plans: Sequence[Planned], tokens: int) -> Iterator[dict[str, Any]]:
    for plan in plans:
        if plan.pace is not None:
            speed, minutes = plan.pace.tokens_per_second, plan.recipe.training.minutes
            yield {
                "plan": plan.name,
                "steps_measured": plan.pace.steps,
                "step": plan.pace.seconds,
                "training_speed": speed,
                "once_through_the_text": tokens / speed,
                "minutes_of_the_recipe": minutes,
                "tokens_in_those": round(60 * minutes * speed),
            }


def _budget_records(budgets: Sequence[Planned]) -> Iterator[dict[str, Any]]:
    before = None
    for plan in budgets:
        purity = plan.purity
        gain = None if before is None or purity is None else purity - before
        yield {"memory": plan.costs.memory, "rows": plan.costs.rows, "purity": purity, "gain": gain}
        before = purity
