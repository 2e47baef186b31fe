"""Patient Knowledge Distillation of BERT: run the course, run many distillations, compare what came out.

Runs and caches go under the checkout that holds this library, else under the current folder; PKD_HOME names another.
"""

import argparse
import sys

from pkdlib.reports import commands as reports
from pkdlib.sweeps import commands as sweeps


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(prog="pkd", description=__doc__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    sweeps.register(commands)
    reports.register(commands)
    given = parser.parse_args(arguments)
    return given.run(given)


if __name__ == "__main__":
    sys.exit(main())
