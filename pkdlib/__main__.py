"""Patient Knowledge Distillation of BERT: run the course, run many distillations, compare what came out.

Runs and caches go under the checkout that holds this library, else under the current folder; PKD_HOME names another.
"""

import argparse
import sys

from pkdlib.reports import commands as reports
from pkdlib.sweeps import commands as sweeps

EXTRAS = {"dask": "cluster", "distributed": "cluster", "datasets": "hub"}  # any other module is of "notebooks"


def main(arguments: list[str] | None = None) -> int:
    """Run one command: 0, 1 when something in it failed, 130 by Ctrl-C, or 2 after a line on stderr: why not."""
    parser = argparse.ArgumentParser(prog="pkd", description=__doc__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    sweeps.register(commands)
    reports.register(commands)
    options = vars(parser.parse_args(arguments))
    try:
        return 1 if options.pop("run")(**options) else 0
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name), "notebooks")
        print(f"{error.name} is not installed; pip install 'pkdlib[{extra}]' installs it", file=sys.stderr)
    except (OSError, ValueError) as error:  # GridError too
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
