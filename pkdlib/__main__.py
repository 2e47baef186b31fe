"""The command `pkd`, also `python -m pkdlib`."""

import argparse
import sys
from collections.abc import Sequence

from pkdlib import __version__
from pkdlib.reports import commands as reports
from pkdlib.sweeps import commands as sweeps

DESCRIPTION = """Patient Knowledge Distillation of BERT: a small BERT learns from a large one's answers and from the
states of its layers. Run the course, run many distillations, and compare what came out. Runs and caches go under the
checkout that holds this library, else under the current folder; the variable PKD_HOME names another one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="pkd", description=DESCRIPTION, epilog="`pkd COMMAND --help` tells more about a command."
    )
    parser.add_argument("--version", action="version", version=f"pkdlib {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for room in (sweeps, reports):
        room.register(commands)
    given = parser.parse_args(arguments)
    return given.run(given)


if __name__ == "__main__":
    sys.exit(main())
