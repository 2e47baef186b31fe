"""The command `sweep` and its options. The work is in runner, imported when it is wanted."""

import argparse
from pathlib import Path
from typing import Any


def register(commands: argparse._SubParsersAction) -> None:
    """Add `sweep` to the commands."""
    text = "carry out a grid of notebook runs, or go on with it: finished runs are kept, interrupted ones resumed"
    parser = commands.add_parser("sweep", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("grid", help="a grid file, or the name of one in notebooks/grids")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder of the runs")
    parser.add_argument("--dry-run", action="store_true", help="check and list the runs, and start none")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at once; default: one per GPU, else per core")
    parser.add_argument("--threads", type=int, metavar="N", help="of each run; default: the cores shared among them")
    parser.add_argument("--runs-per-gpu", type=int, default=1, metavar="N", help="that share one; default: 1")
    text = "of a Dask scheduler, whose workers do the runs"
    parser.add_argument("--scheduler", dest="executor", metavar="ADDRESS", help=text)
    text = "do every Nth run alone, from the Ith on; other machines do the others, in the same folder at the same time"
    parser.add_argument("--part", metavar="I/N", help=text)
    parser.set_defaults(run=_sweep)


def _sweep(**options: Any) -> bool:
    """Whether a run of the grid failed."""
    from pkdlib.sweeps.runner import run_sweep

    return bool(run_sweep(**options))
