"""`python -m pkdlib COMMAND`: each room registers its commands."""

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command; its exit status."""
    parser = argparse.ArgumentParser(prog="pkd", description="Patient knowledge distillation of BERT.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for room in ("pkdlib.sweeps.commands", "pkdlib.reports.commands"):
        if find_spec(room):
            import_module(room).register(commands)
    given = parser.parse_args(arguments)
    return given.run(given)


if __name__ == "__main__":
    sys.exit(main())
