"""`python -m pkdlib.sweep GRID --out FOLDER`: a grid's runs, each finished once, over processes or a Dask cluster.

Kill it at any moment and run the same command again: finished runs are kept, changed ones are run anew, interrupted
ones go on after their last finished epoch.
"""

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from pkdlib.analysis.tables import results_frame
from pkdlib.engine.files import write_text
from pkdlib.engine.progress import is_interactive, say
from pkdlib.readers.records import load_records
from pkdlib.sweeps.folder import LOG_FILE, NOTEBOOK_FILE, SWEEP_FILE, failed, finished
from pkdlib.sweeps.grid import SEED, Grid, GridError, Then, grid_path, read_grid
from pkdlib.sweeps.plan import PlannedRun, plan, teachers_of
from pkdlib.sweeps.worker import end_with, execute

ATTEMPTS = 2  # of a run that the machine ended


@dataclass(frozen=True)
class Setting:
    """How runs are carried out: nothing here changes what comes out but the number of threads."""

    workers: int
    threads: int  # per run
    runs_per_gpu: int = 1


def run_sweep(
    grid: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    threads: int | None = None,
    runs_per_gpu: int = 1,
    executor: Executor | None = None,
) -> list[PlannedRun]:
    """Bring every run of a grid to its end in `out`; returns those that failed.

    workers: processes at once, by default one per GPU or else per core; threads: of each, by default the cores
    shared among the workers. executor: any of concurrent.futures' kind, Dask's too, instead of processes here; its
    workers must see `out` under the same path. Raises GridError with a line per mistake, before anything starts.
    """
    out, setting = Path(out).resolve(), _setting(workers, threads, runs_per_gpu)
    file, stages = read_stages(grid)
    planned: list[PlannedRun] = []
    lost: list[PlannedRun] = []
    errors: dict[str, dict[str, str]] = {}
    for stage, runs in stages:
        if isinstance(stage, Then):
            kept = best_values(stages[0][1], stage, out)
            say(f"the best {stage.best}: {', '.join(f'{name} {value}' for name, value in kept.items())}")
            runs = plan(stages[0][0], stage, file.name, kept)
        planned += runs
        write_text(out / SWEEP_FILE, json.dumps(_contents(file, planned), indent=1))
        pool = _Pool([*teachers_of(runs), *runs], out, setting, executor)
        lost += pool.finish()
        errors |= pool.errors
        if lost and stage is not stages[-1][0]:
            say("the next stage is not run: it needs every run of this one")
            break
    report(planned, lost, errors, out)
    return lost


def read_stages(grid: str | Path) -> tuple[Path, list[tuple[Grid | Then, list[PlannedRun]]]]:
    """The grid's file, and each stage with its runs; those of a second stage stand for any outcome of the first."""
    file = grid_path(grid)
    found = read_grid(file)
    stages: list[tuple[Grid | Then, list[PlannedRun]]] = [(found, plan(found, found, file.name))]
    if found.then:
        example = {name: stages[0][1][0].axes[name] for name in found.then.keep}
        stages.append((found.then, plan(found, found.then, file.name, example)))
    return file, stages


def best_values(runs: list[PlannedRun], then: Then, out: Path) -> dict[str, Any]:
    """The kept axes' values where the mean of `best` over seeds is highest; GridError where the runs have no such."""
    rows = []
    for run in runs:
        frame = results_frame(load_records(out / run.folder))
        if then.best not in frame:
            raise GridError(f"then.best = {then.best!r}: no column of the results: {', '.join(frame.columns)}")
        setting = {name: value for name, value in run.axes.items() if name != SEED}
        rows.append({"setting": json.dumps(setting), "score": frame[then.best].mean()})
    best = json.loads(pd.DataFrame(rows).groupby("setting", sort=False)["score"].mean().idxmax())
    return {name: best[name] for name in then.keep}


class _Pool:
    """Runs on an executor: teachers before their students, what the machine ended once more."""

    def __init__(self, runs: list[PlannedRun], out: Path, setting: Setting, executor: Executor | None):
        self.runs, self.out, self.setting, self.given = runs, out, setting, executor
        self.done = {run.id for run in runs if self._seconds(run) is not None}
        self.waiting = [run for run in runs if run.id not in self.done]
        self.pending: dict[Future, PlannedRun] = {}
        self.lost: list[PlannedRun] = []
        self.attempts: dict[str, int] = {}
        self.errors: dict[str, dict[str, str]] = {}  # by run, of those that could not even start
        self.seconds: list[float] = []
        self.executor = executor or self._processes()

    def _processes(self) -> Executor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.setting.workers, context, end_with, (os.getpid(),))

    def finish(self) -> list[PlannedRun]:
        """Bring the runs to their end; those that failed, and those whose teacher did, are returned."""
        say(f"{len(self.runs)} runs, {len(self.done)} of them finished before; {self.setting.workers} at once")
        bar = tqdm(total=len(self.runs), initial=len(self.done), unit="run", disable=not is_interactive())
        try:
            while self.waiting or self.pending:
                self._start()
                for run, future in self._ended():
                    self._settle(run, future)
                bar.update(len(self.done) - bar.n)
        except KeyboardInterrupt:
            say(f"interrupted, {len(self.done)} of {len(self.runs)} runs finished: the same command goes on from there")
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(130)  # the runs' processes see that and end
        finally:
            bar.close()
            if not self.given:
                self.executor.shutdown()
        return self.lost

    def _start(self) -> None:
        """Hand in every run whose teachers are there; give up those whose teacher is lost."""
        for run in list(self.waiting):
            needed = {teacher.id for teacher in run.teachers.values()}
            if needed & {other.id for other in self.lost}:
                self.waiting.remove(run)
                self.lost.append(run)
            elif needed <= self.done:
                self.waiting.remove(run)
                self.pending[self._submit(run)] = run

    def _ended(self) -> list[tuple[PlannedRun, Future]]:
        """The runs that have come to some end, at least one where any is pending."""
        ended = wait(self.pending, return_when=FIRST_COMPLETED).done
        if any(isinstance(future.exception(), BrokenExecutor) for future in ended):
            ended = set(self.pending)  # a worker was killed, and all that was handed in is lost with it
            self._renew()
        return [(self.pending.pop(future), future) for future in ended]

    def _settle(self, run: PlannedRun, future: Future) -> None:
        """A run that ended is done, waits for another attempt, or is lost."""
        if (seconds := self._seconds(run)) is not None:
            self.done.add(run.id)
            self.seconds.append(seconds)
            left = sum(self.seconds) / len(self.seconds) * (len(self.runs) - self._count()) / self.setting.workers
            if not is_interactive():  # else the bar tells
                say(f"[{self._count()}/{len(self.runs)}] {run.label}: {seconds:.0f} s, about {duration(left)} left")
        elif self._again(run, future):
            self.waiting.append(run)
        else:
            self.lost.append(run)
            say(f"[{self._count()}/{len(self.runs)}] {run.label}: FAILED")

    def _count(self) -> int:
        return len(self.done) + len(self.lost)

    def _submit(self, run: PlannedRun) -> Future:
        folders = {name: str(self.out / teacher.folder) for name, teacher in run.teachers.items()}
        spec = {"id": run.id, "notebook": str(run.notebook), "parameters": run.parameters | folders}
        spec |= {"threads": self.setting.threads, "runs_per_gpu": self.setting.runs_per_gpu}
        return self.executor.submit(execute, str(self.out / run.folder), spec)

    def _renew(self) -> None:
        if self.given:
            raise RuntimeError("the executor's workers are gone; the same command goes on with what is left")
        self.executor.shutdown()
        self.executor = self._processes()

    def _again(self, run: PlannedRun, future: Future) -> bool:
        """Whether a run that did not finish gets another attempt: once, where the machine ended it."""
        folder, error = self.out / run.folder, future.exception()
        raised = error and not isinstance(error, BrokenExecutor)  # by the executor, or where it cannot write
        if raised:
            self.errors[run.id] = {"cause": "machine", "error": f"{type(error).__name__}: {error}"}
        failure = failed(folder)
        started = raised or failure or (folder / LOG_FILE).exists()
        self.attempts[run.id] = self.attempts.get(run.id, 0) + bool(started)
        machine = not failure or failure["cause"] == "machine"
        return machine and self.attempts[run.id] < ATTEMPTS

    def _seconds(self, run: PlannedRun) -> float | None:
        ended = finished(self.out / run.folder)
        return ended["seconds"] if ended else None


def _setting(workers: int | None, threads: int | None, runs_per_gpu: int) -> Setting:
    for name, value in {"workers": workers, "threads": threads, "runs_per_gpu": runs_per_gpu}.items():
        if value is not None and value < 1:
            raise GridError(f"{name} = {value}: must be at least 1")
    cores = os.cpu_count() or 1
    workers = workers or torch.cuda.device_count() * runs_per_gpu or cores
    return Setting(workers, threads or max(1, cores // workers), runs_per_gpu)


def _contents(file: Path, runs: list[PlannedRun]) -> dict[str, Any]:
    def entry(run: PlannedRun) -> dict[str, Any]:
        teachers = {name: teacher.folder for name, teacher in run.teachers.items()}
        names = {"id": run.id, "folder": run.folder, "notebook": run.notebook.stem}
        return names | {"axes": run.axes, "parameters": run.parameters, "teachers": teachers}

    return {"grid": file.stem, "runs": [entry(run) for run in runs], "teachers": [entry(t) for t in teachers_of(runs)]}


def report(runs: list[PlannedRun], lost: list[PlannedRun], errors: dict[str, dict[str, str]], out: Path) -> None:
    """Print how it ended: failures with their last lines and the notebook to open."""
    everything = [*teachers_of(runs), *runs]
    say(f"\n{len(everything) - len(lost)} of {len(everything)} runs finished, {len(lost)} failed, in {out}")
    for run in lost:
        failure = failed(out / run.folder) or errors.get(run.id)
        say(f"\nFAILED {run.label} ({failure['cause'] if failure else 'not run: its teacher failed'})")
        if failure:
            say(f"  {out / run.folder / NOTEBOOK_FILE}")
            say("\n".join(f"  | {line}" for line in failure["error"].splitlines()[-5:]))


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def list_runs(grid: str | Path, out: Path, workers: int) -> None:
    """Print every run and how far it is, and the time left by that of the finished ones."""
    file, stages = read_stages(grid)
    for number, (stage, runs) in enumerate(stages, start=1):
        stands = f", for the best {', '.join(stage.keep)} of stage 1" if isinstance(stage, Then) else ""
        say(f"{file.stem}, stage {number}: {len(runs)} runs{stands}, {len(teachers_of(runs))} teachers")
        for run in [] if isinstance(stage, Then) else [*teachers_of(runs), *runs]:
            folder = out / run.folder
            ended = finished(folder)
            state = f"finished, {ended['seconds']:.0f} s" if ended else "failed" if failed(folder) else (
                "interrupted" if folder.exists() else "to do")  # fmt: skip
            say(f"  {run.label}: {state}")
    everything = {run.id: run for _, runs in stages for run in [*teachers_of(runs), *runs]}.values()
    known = [ended["seconds"] for run in everything if (ended := finished(out / run.folder))]
    if not known:
        say("no run has finished in this folder yet, so there is no estimate of the time")
    else:
        left = (len(everything) - len(known)) * sum(known) / len(known) / workers
        say(f"{len(everything) - len(known)} runs left, about {duration(left)} with {workers} at once")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pkdlib.sweep", description=__doc__.partition("\n\n")[0])
    parser.add_argument("grid", help="a grid file, or the name of one in notebooks/grids")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--dry-run", action="store_true", help="check and list the runs, and start none")
    parser.add_argument("--workers", type=int, help="runs at once; default: one per GPU, else per core")
    parser.add_argument("--threads", type=int, help="of each run; default: the cores shared among the workers")
    parser.add_argument("--runs-per-gpu", type=int, default=1, help="that share one; default: 1")
    parser.add_argument("--scheduler", help="address of a Dask scheduler whose workers do the runs, tcp://HOST:8786")
    given = parser.parse_args(arguments)
    options = {"workers": given.workers, "threads": given.threads, "runs_per_gpu": given.runs_per_gpu}
    try:
        if given.dry_run:
            list_runs(given.grid, given.out.resolve(), _setting(**options).workers)
            return 0
        if given.scheduler:
            return 1 if _on_dask(given.scheduler, given.grid, given.out, options) else 0
        return 1 if run_sweep(given.grid, given.out, **options) else 0
    except GridError as error:
        print(error, file=sys.stderr)
        return 2


def _on_dask(address: str, grid: str, out: Path, options: dict[str, Any]) -> list[PlannedRun]:
    from dask.distributed import Client  # the extra `cluster`

    read_stages(grid)  # mistakes are told before a cluster is asked
    try:
        client = Client(address, timeout=30)
    except (OSError, ValueError) as error:
        raise GridError(f"scheduler = {address!r}: no Dask scheduler answers there: {error}") from None
    with client:
        slots = sum(client.nthreads().values())
        options |= {"workers": options["workers"] or max(1, slots), "threads": options["threads"] or 1}
        return run_sweep(grid, out, executor=client.get_executor(pure=False), **options)


if __name__ == "__main__":
    sys.exit(main())
