"""The command `sweep` of `pkd`."""

import argparse


def register(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
