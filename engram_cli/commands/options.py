"""Options that have the same name and meaning in every command."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No stages and no progress on stderr; warnings stay.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the artifact that --out names.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the artifact is written.")]
Threads = Annotated[int, typer.Option("--threads", min=0, metavar="N", help="Threads to use; 0: as many as there are cores.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Instead of the recipe's seeds.")]
Memory = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Most memory to use, such as 2GiB.")]
