"""The command `sweep`: its options, and what it answers. The work is in runner, imported when it is wanted."""

import argparse
import sys
from pathlib import Path


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
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler, whose workers do the runs")
    parser.set_defaults(run=sweep)


def sweep(given: argparse.Namespace) -> int:
    """0 when every run has finished, 1 when one failed, 2 when it cannot be done: why goes to stderr; 130: stopped."""
    from pkdlib.sweeps.runner import run_sweep

    names = ("grid", "out", "workers", "threads", "runs_per_gpu", "scheduler", "dry_run")
    try:
        return 1 if run_sweep(**{name: getattr(given, name) for name in names}) else 0
    except (OSError, ValueError) as error:  # GridError too
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
