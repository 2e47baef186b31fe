"""A grid's runs, each finished once: what a kill interrupts goes on, the next time, after its last finished epoch."""

import json
import os
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from datetime import timedelta
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from pkdlib.engine.files import write_text
from pkdlib.engine.progress import say
from pkdlib.readers.records import load_records
from pkdlib.sweeps.folder import NOTEBOOK_FILE, SWEEP_FILE, failed, finished, state
from pkdlib.sweeps.grid import SEED, GridError, Stage, Then, grid_path, read_grid
from pkdlib.sweeps.plan import PlannedRun, plan, teachers_of
from pkdlib.sweeps.worker import execute

ATTEMPTS = 2  # of a run that the machine ended


def run_sweep(
    grid: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    threads: int | None = None,
    runs_per_gpu: int = 1,
    executor: Executor | None = None,
    scheduler: str | None = None,
    dry_run: bool = False,
) -> list[PlannedRun]:
    """Bring every run of a grid to its end in `out`; returns those that failed.

    workers: runs at once, by default one per GPU or else per core; threads: of each, by default the cores shared
    among the workers. executor: any of concurrent.futures' kind, whose workers see `out` under the same path; or
    scheduler: the address of Dask's; by default each run is a process of this machine. dry_run: list the runs, start
    none. Raises GridError with a line per mistake, before anything starts.
    """
    for name, value in {"workers": workers, "threads": threads, "runs_per_gpu": runs_per_gpu}.items():
        if value is not None and value < 1:
            raise GridError(f"{name} = {value}: must be at least 1")
    file, stages = read_stages(grid)
    if scheduler and not dry_run:
        from distributed import Client  # the extra `cluster`

        try:
            client = Client(scheduler, timeout=30)
        except Exception as error:  # its own kinds: no answer, no address, another version
            raise GridError(f"scheduler = {scheduler!r}: no Dask scheduler answers there: {error}") from None
        executor, threads = client.get_executor(pure=False), threads or 1
        workers = workers or sum(client.nthreads().values())
    out, cores = Path(out).resolve(), os.cpu_count() or 1
    workers = workers or torch.cuda.device_count() * runs_per_gpu or cores
    options = {"threads": threads or max(1, cores // workers), "runs_per_gpu": runs_per_gpu}
    if dry_run:
        _list_runs(stages, out, workers)
        return []
    planned: list[PlannedRun] = []
    lost: list[tuple[PlannedRun, str]] = []
    for stage, runs in stages:
        if lost:
            say("the next stage is not run: it needs every run of this one")
            break
        if isinstance(stage, Then):
            kept = best_values(planned, stage, out)
            say(f"the best {stage.best}: {', '.join(f'{name} {value}' for name, value in kept.items())}")
            runs = plan(stages[0][0], stage, file.name, kept)
        planned += runs
        content = {"grid": file.stem, "runs": planned, "teachers": teachers_of(planned)}
        write_text(out / SWEEP_FILE, json.dumps(content, indent=1, default=PlannedRun.entry))
        lost = _finish([*teachers_of(runs), *runs], out, workers, options, executor)
    number = len(planned) + len(teachers_of(planned))
    say(f"\n{number - len(lost)} of {number} runs finished, {len(lost)} failed, in {out}")
    for run, why in lost:
        say(f"\nFAILED {run.label} {why}")
    return [run for run, _ in lost]


def read_stages(grid: str | Path) -> tuple[Path, list[tuple[Stage, list[PlannedRun]]]]:
    """The grid's file, and each stage with its runs; those of a second stage stand for any outcome of the first."""
    file = grid_path(grid)
    first = read_grid(file)
    stages: list[tuple[Stage, list[PlannedRun]]] = [(first, plan(first, first, file.name))]
    if first.then:
        example = {name: stages[0][1][0].axes[name] for name in first.then.keep}
        stages.append((first.then, plan(first, first.then, file.name, example)))
    return file, stages


def best_values(runs: list[PlannedRun], then: Then, out: Path) -> dict[str, Any]:
    """The kept axes' values where the mean of `best` over seeds is highest; GridError where no run has such a score."""
    scores: dict[str, list[float]] = {}  # by the axes but the seed, as JSON
    for run in runs:
        setting = json.dumps({name: value for name, value in run.axes.items() if name != SEED})
        records = load_records(out / run.folder)
        rows = [{f"{split}_{key}": x for split, of in r.metrics.items() for key, x in of.items()} for r in records]
        if not any(then.best in row for row in rows):
            raise GridError(f"then.best = {then.best!r}: no column of the results: {', '.join(rows[0])}")
        scores.setdefault(setting, []).extend(row[then.best] for row in rows if not isnan(row.get(then.best, nan)))
    best = json.loads(max(filter(scores.get, scores), key=lambda key: fmean(scores[key])))
    return {name: best[name] for name in then.keep}


def _finish(
    runs: list[PlannedRun], out: Path, workers: int, options: dict[str, int], executor: Executor | None
) -> list[tuple[PlannedRun, str]]:
    """Bring the runs to their end, teachers before their students; those that failed, and why."""

    def carry_out(run: PlannedRun) -> str:
        teachers = [futures[teacher.id] for teacher in run.teachers.values() if teacher.id in futures]
        if any(teacher.result() for teacher in teachers):  # handed in before: no thread waits for a later one
            return "(not run: its teacher failed)"
        folder = out / run.folder
        folders = {name: str(out / teacher.folder) for name, teacher in run.teachers.items()}
        spec = {"id": run.id, "notebook": str(run.notebook), "parameters": run.parameters | folders} | options
        failure = {"cause": "machine", "error": "it ended without a trace"}
        for _ in range(ATTEMPTS):
            try:
                (executor or processes).submit(execute, str(folder), spec).result()
            except Exception as error:  # of the executor, or where it cannot write
                failure["error"] = f"{type(error).__name__}: {error}"
            if finished(folder):
                return ""
            failure = failed(folder) or failure
            if failure["cause"] != "machine":
                break
        told = f"({failure['cause']})\n  {folder / NOTEBOOK_FILE}"
        return "\n  | ".join([told, *failure["error"].splitlines()[-5:]])

    todo = [run for run in runs if not finished(out / run.folder)]
    say(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished before; {workers} at once")
    futures: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(workers) as processes:  # threads that only wait
        for run in todo:
            futures[run.id] = pool.submit(carry_out, run)
        run_of = dict(zip(futures.values(), todo, strict=True))
        started = time.perf_counter()
        try:
            for ended, future in enumerate(as_completed(run_of), start=1):
                run, left = run_of[future], len(todo) - ended
                told = "FAILED" if future.result() else state(out / run.folder)
                wait = timedelta(seconds=round((time.perf_counter() - started) / ended * left))
                say(f"[{len(runs) - left}/{len(runs)}] {run.label}: {told}, about {wait} left")
        except KeyboardInterrupt:
            say("interrupted: the same command goes on from there")
            os._exit(130)  # the runs' processes see that and end
    return [(run, why) for future, run in run_of.items() if (why := future.result())]


def _list_runs(stages: list[tuple[Stage, list[PlannedRun]]], out: Path, workers: int) -> None:
    """Print every run and how far it is, and the time left by that of the finished ones."""
    runs: dict[str, PlannedRun] = {}
    for stage, planned in stages:
        if isinstance(stage, Then):
            say(f"then, with the best {', '.join(stage.keep)}:")
        for run in [*teachers_of(planned), *planned]:
            say(f"  {run.label}: {state(out / run.folder)}")
            runs[run.id] = run
    seconds = [ended["seconds"] for run in runs.values() if (ended := finished(out / run.folder))]
    left = len(runs) - len(seconds)
    wait = timedelta(seconds=round(left * fmean(seconds) / workers)) if seconds else "no estimate before one has ended"
    say(f"{left} runs left of {len(runs)}, {workers} at once: {wait}")
