"""Runs killed at random moments end as if they had not been; `make test-faults` kills many more, and sweeps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLACES = ("training", "checkpoint being written", "result being written", "cache being built")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_is_killed_ends_as_if_it_had_not_been() -> None:
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("kills.py"), "--kills", "12", "--seed", "3"]
    done = subprocess.run([*command, "--places", *PLACES], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = done.stdout.splitlines()
    assert [row[:26].strip() for row in rows] == [*PLACES, "all"]
    names = head[26:].split("  ")
    figures = dict(zip(names, map(int, rows[-1][26:].split()), strict=True))
    assert figures["kills"] >= 10 and figures["after epoch 1"] >= 3
    assert figures["kept"] == figures["finished before a kill"] > 0
    assert figures["identical"] == figures["runs"] > 0
    assert figures["hangs"] == figures["errors"] == 0
