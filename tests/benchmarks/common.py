"""What the benchmarks share: they time contenders in turn and write figures, with their spread, to a file."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pkdlib.config import MINI_BERT
from pkdlib.engine.files import ROOT, write_text
from pkdlib.engine.machine import installed_versions, machine, timestamp
from pkdlib.engine.progress import say

RESULTS = ROOT / "data" / "results" / "benchmarks"
QUICK_RESULTS = ROOT / "runs" / "benchmarks"  # a quick run shows that all works; it is no record
OPTIONS: dict[str, dict[str, Any]] = {
    "glue": {"help": "folder of GLUE's TSV files; without it the embedded tasks stand in", "metavar": "FOLDER"},
    "backbone": {"help": "folder of a BERT: its tokenizer and proportions", "metavar": "FOLDER", "default": MINI_BERT},
    "same-dropout": {"help": "end dropout after the first epoch, as the authors' code does", "action": "store_true"},
    "before": {"help": "a checkout of an earlier version", "type": Path, "metavar": "FOLDER"},
    "batch": {"help": "rows of a batch", "type": int, "default": 128},
    "rounds": {"help": "times that every contender runs", "type": int, "default": 5},
    "rows": {"help": "training rows", "type": int},
    "epochs": {"help": "passes over the training rows", "type": int, "default": 4},
    "seeds": {"help": "students of every method", "type": int, "default": 5},
}
QUICK = {"rounds": 2, "rows": 64, "epochs": 1, "seeds": 1}  # what --quick sets, of a benchmark's own options
Figure = dict[str, Any]


def arguments(name: str, description: str, *options: str) -> argparse.Namespace:
    """Read the command line of `python -m tests.benchmarks.NAME`; with --quick, sizes are those of QUICK."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.{name}", description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, written under runs/: no record")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where NAME.json goes")
    for option in options:
        parser.add_argument(f"--{option}", **OPTIONS[option])
    given = parser.parse_args()
    if given.quick:
        vars(given).update({name: size for name, size in QUICK.items() if name in options})
    return given


def enough_rows(given: argparse.Namespace, on_cpu: int) -> int | None:
    """--rows, else `on_cpu`; on CUDA None, which is all: there the first steps are recorded, and must not weigh."""
    return given.rows or (None if torch.cuda.is_available() else on_cpu)


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 0) -> pd.DataFrame:
    """Run every contender once a round; each round begins with the next one, so that a slow spell meets them all.

    Returns a row per run: contender, round, seconds (by the clock) and processor_s (of all threads of this process and
    its children): where other programs use the machine, ratios of the second are the steadier ones. `warmup` rounds
    come first and have no rows.
    """
    names, rows = list(contenders), []
    for turn in range(-warmup, rounds):
        for name in [names[(turn + place) % len(names)] for place in range(len(names))]:
            _wait()
            started, processor = time.perf_counter(), _processor_s()
            contenders[name]()
            _wait()
            row = {"contender": name, "round": turn + 1}
            row |= {"seconds": time.perf_counter() - started, "processor_s": _processor_s() - processor}
            if turn >= 0:
                rows.append(row)
                say(f"round {turn + 1}/{rounds}: {name} {row['seconds']:.2f} s, processor {row['processor_s']:.2f} s")
    return pd.DataFrame(rows)


def ratios(times: pd.DataFrame, slow: str, fast: str, column: str = "seconds") -> np.ndarray:
    """How many times as long as `fast` `slow` took in each round, (rounds,)."""
    by_round = times.pivot(index="round", columns="contender", values=column)
    return (by_round[slow] / by_round[fast]).to_numpy()


def figure(name: str, values: Iterable[float] | float, unit: str) -> Figure:
    """The median of the values and their range; several values, one of each round, are kept."""
    values = np.atleast_1d(np.asarray(values, dtype=float))
    low, high = float(values.min()), float(values.max())
    each = {"values": values.tolist()} if len(values) > 1 else {}
    return {"name": name, "median": float(np.median(values)), "low": low, "high": high, "unit": unit, **each}


def ratio_figures(name: str, times: pd.DataFrame, slow: str, fast: str) -> list[Figure]:
    """`name`, by the clock, and `name`_processor, by processor time (on a CPU alone: a GPU's time is not in it)."""
    columns = {"": "seconds"} if torch.cuda.is_available() else {"": "seconds", "_processor": "processor_s"}
    return [figure(f"{name}{ending}", ratios(times, slow, fast, column), "x") for ending, column in columns.items()]


def write(name: str, figures: list[Figure], given: argparse.Namespace, **settings: Any) -> Path:
    """Write the figures and where they come from; return the file. On CUDA its name and theirs end in _cuda."""
    ending = "_cuda" if torch.cuda.is_available() else ""
    figures = [{**one, "name": f"{one['name']}{ending}"} for one in figures]
    provenance = {
        "machine": machine() | {"cpu": _cpu_name(), "load": f"{os.getloadavg()[0]:.2f}"},
        "versions": installed_versions(),
        "threads": torch.get_num_threads(),
        "date": timestamp(),
        "settings": {"quick": given.quick, "spread": "lowest and highest", **settings},
    }
    path = (given.out or (QUICK_RESULTS if given.quick else RESULTS)) / f"{name}{ending}.json"
    write_text(path, json.dumps({"figures": figures, "provenance": provenance}, indent=1) + "\n")
    for one in figures:
        say(f"{one['name']}: {one['median']:.4g} {one['unit']} [{one['low']:.4g}, {one['high']:.4g}]")
    say(f"written: {path}")
    return path


def _processor_s() -> float:
    """Processor time of this process and of its children that have ended."""
    used = os.times()
    return time.process_time() + used.children_user + used.children_system


def _wait() -> None:
    """Wait until the accelerator's queue is empty: a call only puts its work there."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
