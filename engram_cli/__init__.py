"""N-gram memory tables for transformers: count, build, look into, chat with, measure.

    from engram_cli import open_ngrams, open_table

What a command does, a name of `__all__` does. A name is loaded from its module when it is first used, so that importing the package
costs nothing and `engram --help` answers at once.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram_cli.corpus.artifact import open_ngrams as open_ngrams
    from engram_cli.corpus.extract import extract as extract
    from engram_cli.errors import EngramError as EngramError
    from engram_cli.model.build import build as build
    from engram_cli.model.generate import Sampling as Sampling
    from engram_cli.model.session import Session as Session
    from engram_cli.model.table import open_table as open_table
    from engram_cli.model.train import Budget as Budget
    from engram_cli.recipe import load_recipe as load_recipe
    from engram_cli.report.bench import bench as bench
    from engram_cli.report.collisions import collisions as collisions
    from engram_cli.report.convert import convert as convert
    from engram_cli.report.diff import diff as diff
    from engram_cli.report.inspect import inspect as inspect
    from engram_cli.report.plan import plan as plan
    from engram_cli.report.report import read_report as read_report
    from engram_cli.report.report import write_report as write_report
    from engram_cli.report.stored import inspect_checkpoint as inspect_checkpoint
    from engram_cli.report.verify import verify as verify
    from engram_cli.store.artifact import open_artifact as open_artifact
    from engram_cli.table.formats import open_stored_table as open_stored_table

# Read when torch and Arrow are loaded, so that it must be said here (who imports torch before this package says it himself).
# OpenMP's threads spin while they wait: where others want the cores too, a training step then takes forty times as long. Arrow's
# allocator reserves a gibibyte at its first use, which counts against a limit on data (ulimit -d) whether it is used or not.
for _name, _value in (("OMP_WAIT_POLICY", "PASSIVE"), ("MIMALLOC_ARENA_RESERVE", "32MiB")):
    os.environ.setdefault(_name, _value)

__version__ = "0.1.0"
_HOMES = {
    "Budget": "model.train",
    "EngramError": "errors",
    "Sampling": "model.generate",
    "Session": "model.session",
    "bench": "report.bench",
    "build": "model.build",
    "collisions": "report.collisions",
    "convert": "report.convert",
    "diff": "report.diff",
    "extract": "corpus.extract",
    "inspect": "report.inspect",
    "inspect_checkpoint": "report.stored",
    "load_recipe": "recipe",
    "open_artifact": "store.artifact",
    "open_ngrams": "corpus.artifact",
    "open_stored_table": "table.formats",
    "open_table": "model.table",
    "plan": "report.plan",
    "read_report": "report.report",
    "verify": "report.verify",
    "write_report": "report.report",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
