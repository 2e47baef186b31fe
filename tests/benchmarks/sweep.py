"""Times a sweep with two workers and with one: the same runs, the same threads per run.

With --before FOLDER, a checkout of an earlier version, it times instead that one's sweep of twice as many runs and this
one's, with two workers each.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from pkdlib.engine.files import ROOT, write_text
from tests.benchmarks.common import arguments, figure, ratios, take_turns, write

GRID = """
notebook: 02_distill_last_vs_skip
parameters: {{student_layers: 3, num_train_epochs: {epochs}, teacher.train_rows: {rows}, teacher.num_train_epochs: 1}}
grid: {{methods: [{methods}]}}
seeds: [{seeds}]
"""


# The sweep in a process of its own, whose start belongs to its time.
SWEEP = """
import sys
from pkdlib.sweeps.runner import run_sweep

grid, out, workers = sys.argv[1:]
sys.exit(bool(run_sweep(grid, out, workers=int(workers), threads=1)))
"""


def main() -> None:
    given = arguments("sweep", __doc__, "rounds", "before")
    size = {"methods": "FT, KD, PKD-Skip, PKD-Last", "seeds": "0, 1, 2", "epochs": 2, "rows": 1000}
    if given.before:
        size["seeds"] = "0, 1, 2, 3, 4, 5"
    if given.quick:
        size = {"methods": "FT", "seeds": "0, 1", "epochs": 1, "rows": 64}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "grid.yaml", GRID.format(**size))

        def anew(checkout: Path, workers: int) -> None:
            """Run all students again; their teacher is there, but for the first time."""
            out = folder / checkout.name
            shutil.rmtree(out / "runs", ignore_errors=True)
            command = [sys.executable, "-c", SWEEP, folder / "grid.yaml", out, str(workers)]
            environment = os.environ | {"PYTHONPATH": str(checkout), "PKD_HOME": str(checkout)}
            subprocess.run(command, cwd=checkout, env=environment, check=True)

        pairs = {"two": (ROOT, 2)} | ({"before": (given.before.resolve(), 2)} if given.before else {"one": (ROOT, 1)})
        contenders = {contender: partial(anew, *how) for contender, how in pairs.items()}
        times = take_turns(contenders, 1 if given.quick else given.rounds, warmup=1)
    runs = len(size["methods"].split(",")) * len(size["seeds"].split(","))
    other, words = ("before", "an earlier version's") if given.before else ("one", "one worker's")
    name = f"sweep_{runs}_runs_vs_before" if given.before else "sweep_2_workers"
    figures = [figure(name, ratios(times, "two", other), f"of {words} time")]
    figures += [
        figure(f"sweep_{one}_s", times.loc[times["contender"] == one, "seconds"], "s") for one in (other, "two")
    ]
    settings = {"runs": runs, "threads_per_run": 1, "rows": size["rows"], "epochs": size["epochs"]}
    write("sweep_before" if given.before else "sweep", figures, given, **settings)


if __name__ == "__main__":
    main()
