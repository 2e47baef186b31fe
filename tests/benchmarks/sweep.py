"""Times a sweep with two workers and with one: the same runs, the same threads per run.

python -m tests.benchmarks.sweep [--quick]
"""

import shutil
import subprocess
import sys
import tempfile
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
    given = arguments("sweep", __doc__, "rounds")
    size = {"methods": "FT, KD, PKD-Skip, PKD-Last", "seeds": "0, 1, 2", "epochs": 2, "rows": 1000}
    if given.quick:
        size = {"methods": "FT", "seeds": "0, 1", "epochs": 1, "rows": 64}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "grid.yaml", GRID.format(**size))

        def sweep(workers: int, out: Path) -> None:
            subprocess.run([sys.executable, "-c", SWEEP, folder / "grid.yaml", out, str(workers)], cwd=ROOT, check=True)

        def anew(workers: int) -> None:
            """Run all students again; their teacher is there."""
            shutil.rmtree(folder / "out" / "runs")
            sweep(workers, folder / "out")

        sweep(2, folder / "out")
        times = take_turns({"one": lambda: anew(1), "two": lambda: anew(2)}, 1 if given.quick else given.rounds)
    runs = len(size["methods"].split(",")) * len(size["seeds"].split(","))
    figures = [figure("sweep_2_workers", ratios(times, "two", "one"), "of one worker's time")]
    figures += [
        figure(f"sweep_{name}_s", times.loc[times["contender"] == name, "seconds"], "s") for name in ("one", "two")
    ]
    write("sweep", figures, given, runs=runs, threads_per_run=1, rows=size["rows"], epochs=size["epochs"])


if __name__ == "__main__":
    main()
