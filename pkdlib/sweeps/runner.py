"""A grid's runs, each finished once: what a kill interrupts goes on, the next time, after its last finished epoch."""

import json
import logging
import os
import re
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from math import isnan, nan
from multiprocessing import current_process
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any

import torch

from pkdlib.engine.files import write_text
from pkdlib.engine.progress import say
from pkdlib.readers.records import flat, load_records
from pkdlib.sweeps.folder import NOTEBOOK_FILE, RUN_FILE, SWEEP_FILE, finished, state
from pkdlib.sweeps.forks import Server, code_of
from pkdlib.sweeps.grid import SEED, GridError, Stage, Then, grid_path, read_grid
from pkdlib.sweeps.plan import PlannedRun, plan, scores_of, teachers_of
from pkdlib.sweeps.worker import end, execute

ATTEMPTS = 2  # of a run that the machine ended: so often is it handed to the executor
PATIENCE_S = 10  # without news, until the executor is looked at


def run_sweep(
    grid: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    threads: int | None = None,
    runs_per_gpu: int = 1,
    executor: Executor | str | None = None,
    part: str | None = None,
    dry_run: bool = False,
) -> list[PlannedRun]:
    """Bring every run of a grid to its end in `out`; returns those that failed.

    workers: runs at once, by default one per GPU or else per core; threads: of each, by default the cores shared
    among the workers. executor: any of concurrent.futures' kind, whose workers see `out` under the same path, or the
    address of Dask's scheduler; by default each run is a process of this machine. part: "2/8" carries out every eighth
    run from the second on, while other calls, on other machines say, do theirs in the same folder. dry_run: list the
    runs, start none. Raises GridError with a line per mistake, before anything starts, and when Dask's scheduler ends.
    On KeyboardInterrupt the runs of this process are ended first.
    """
    if getattr(current_process(), "_inheriting", False):  # a worker imports the script that has started it
        raise GridError("run_sweep: called by the start of a worker; call it under `if __name__ == '__main__':`")
    for name, value in {"workers": workers, "threads": threads, "runs_per_gpu": runs_per_gpu}.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            more = "" if isinstance(value, int) else ", a whole number"
            raise GridError(f"{name} = {value!r}: must be at least 1{more}")
    if not isinstance(out, str | Path) or any(path.is_file() for path in (Path(out), *Path(out).resolve().parents)):
        raise GridError(f"out = {str(out)!r}: must be a folder, not a file or below one")
    own = _own(part)
    file, stages = read_stages(grid)
    out, cores = Path(out).resolve(), os.cpu_count() or 1
    with _dask(executor if isinstance(executor, str) and not dry_run else None) as (client, look):
        if client:
            executor, threads = client.get_executor(pure=False), threads or 1
            workers = workers or sum(client.nthreads().values())
        gpus = torch.cuda.device_count() * runs_per_gpu
        workers = workers or gpus or cores
        options = {"threads": threads or max(1, cores // workers), "runs_per_gpu": runs_per_gpu}
        if dry_run:
            _list_runs(stages, out, workers)
            return []
        if not executor and 0 < gpus < workers:
            say(f"{gpus} runs at once find room on this machine's GPUs; the others wait for one")
        carry_out = partial(_finish, out=out, workers=workers, options=options, executor=executor, look=look)
        return _run_stages(file, stages, out, own, carry_out)


def _own(part: str | None) -> slice:
    """Which runs of a stage are those of part "2/8", say; all without one."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", part or "1/1")
    first, step = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= first <= step:
        raise GridError(f"part = {part!r}: must be I/N with I from 1 to N, such as 2/8")
    return slice(first - 1, None, step)


@contextmanager
def _dask(scheduler: str | None) -> Iterator[tuple[Any, Callable[[], None]]]:
    """The client of a Dask scheduler (None without an address), closed at the end, and a look at what it does."""
    if not scheduler:
        yield None, lambda: None
        return
    from distributed import Client  # the extra `cluster`

    name = f"scheduler = {scheduler!r}"
    try:
        client = Client(scheduler, timeout=30)
    except Exception as error:  # its own kinds: no answer, no address, another version
        raise GridError(f"{name}: no Dask scheduler answers there: {error}") from None

    told = False

    def look() -> None:
        nonlocal told
        try:
            workers = client.status == "running" and client.nthreads()
        except (Exception, CancelledError):  # its own kinds again
            workers = False
        if workers is False:
            raise GridError(f"{name}: has ended, and the sweep with it; the same command goes on from there")
        if not (workers or told):
            say(f"{name}: has no worker; the runs wait for one")
        told = not workers

    logger = logging.getLogger("distributed.client")
    level = logger.level
    try:
        yield client, look
    finally:
        logger.setLevel(logging.CRITICAL)  # of a scheduler that has ended, look() has told
        client.close(timeout=2)
        logger.setLevel(level)


def _run_stages(
    file: Path, stages: list[tuple[Stage, list[PlannedRun]]], out: Path, own: slice,
    carry_out: Callable[[list[PlannedRun]], list[tuple[PlannedRun, str]]],
) -> list[PlannedRun]:  # fmt: skip
    """Carry out the own runs of every stage, the second with what was best in the first; the runs that failed."""
    planned: list[PlannedRun] = []  # of all parts
    ours: list[PlannedRun] = []
    lost: list[tuple[PlannedRun, str]] = []
    for stage, runs in stages:
        if lost:
            say("the next stage is not run: it needs every run of this one")
            break
        if isinstance(stage, Then):
            if others := sum(not finished(out / run.folder) for run in planned):
                say(f"the next stage is not run: {others} runs of this one, of other parts, have not finished")
                break
            kept = best_values(planned, stage, out)
            say(f"the best {stage.best}: {', '.join(f'{name} {value}' for name, value in kept.items())}")
            runs = plan(stages[0][0], stage, file.name, kept)
        planned += runs
        ours += runs[own]
        content = {"grid": file.stem, "runs": planned, "teachers": teachers_of(planned)}
        write_text(out / SWEEP_FILE, json.dumps(content, indent=1, default=PlannedRun.entry))
        lost = carry_out([*teachers_of(runs[own]), *runs[own]])
    number = len(ours) + len(teachers_of(ours))
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
        for run in stages[0][1]:
            scores = scores_of(run)
            if scores is not None and first.then.best not in scores:
                allowed = f"must be one of {', '.join(scores)}" if scores else f"{run.notebook.stem} records no scores"
                raise GridError(f"{file.name}: then.best = {first.then.best!r}: {allowed}")
        example = {name: stages[0][1][0].axes[name] for name in first.then.keep}
        stages.append((first.then, plan(first, first.then, file.name, example)))
    return file, stages


def best_values(runs: list[PlannedRun], then: Then, out: Path) -> dict[str, Any]:
    """The kept axes' values where the mean of `best` over seeds is highest; GridError where no run has such a score."""
    scores: dict[str, list[float]] = {}  # by the axes but the seed, as JSON
    for run in runs:
        setting = json.dumps({name: value for name, value in run.axes.items() if name != SEED})
        records = load_records(out / run.folder)
        students = [record for record in records if record.method != "teacher"]  # 04 and 08 keep their teacher's too
        rows = [flat(record.metrics) for record in students or records]
        if not any(then.best in row for row in rows):
            raise GridError(f"then.best = {then.best!r}: no column of the results: {', '.join(rows[0])}")
        scores.setdefault(setting, []).extend(row[then.best] for row in rows if not isnan(row.get(then.best, nan)))
    if not any(scores.values()):
        raise GridError(f"then.best = {then.best!r}: no run has a number there")
    best = json.loads(max(filter(scores.get, scores), key=lambda key: fmean(scores[key])))
    return {name: best[name] for name in then.keep}


def _finish(
    runs: list[PlannedRun], out: Path, workers: int, options: dict[str, int], executor: Executor | None,
    look: Callable[[], None],
) -> list[tuple[PlannedRun, str]]:  # fmt: skip
    """Bring the runs to their end, teachers before their students; those that failed, and why."""
    stopped = Event()

    def hand_in(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
        """Let the executor carry out a run; its failure, {} when it has finished."""
        future = (executor or processes).submit(execute, str(folder), spec)
        while not stopped.is_set():
            if wait([future], timeout=0.5).done:
                failure = future.result()
                missing = f"{folder / RUN_FILE}: not there, though the executor has carried out the run"
                return failure or ({} if finished(folder) else {"cause": "machine", "error": missing})
        future.cancel()
        return {"cause": "machine", "error": "interrupted"}

    def carry_out(run: PlannedRun) -> str:
        teachers = [futures[teacher.id] for teacher in run.teachers.values() if teacher.id in futures]
        if any(teacher.result() for teacher in teachers):  # handed in before: no thread waits for a later one
            return "(not run: its teacher failed)"
        folder, failure = out / run.folder, {}
        folders = {name: str(out / teacher.folder) for name, teacher in run.teachers.items()}
        spec = {"id": run.id, "notebook": str(run.notebook), "parameters": run.parameters | folders} | options
        spec["library"] = code_of(run.notebook)
        for _ in range(0 if stopped.is_set() else ATTEMPTS):  # counted here, whatever the workers do
            try:
                failure = hand_in(folder, spec)
            except Exception as error:  # of the executor, or where it cannot write
                look()
                failure = {"cause": "machine", "error": f"{type(error).__name__}: {error}"}
            if not failure:
                return ""
            if failure["cause"] != "machine" or stopped.is_set():
                break
        told = f"({failure['cause']})\n  {folder / NOTEBOOK_FILE}"
        return "\n  | ".join([told, *failure["error"].splitlines()[-5:]])

    todo = [run for run in runs if not finished(out / run.folder)]
    say(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished before; {workers} at once")
    futures: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(workers) as processes:  # threads that only wait
        started, ended = time.perf_counter(), 0
        try:
            for run in todo:
                futures[run.id] = pool.submit(carry_out, run)
            run_of = dict(zip(futures.values(), todo, strict=True))
            waiting = set(run_of)
            while waiting:
                done, waiting = wait(waiting, PATIENCE_S, FIRST_COMPLETED)
                if not done:
                    look()
                for future in done:
                    run, ended = run_of[future], ended + 1
                    left, told = len(todo) - ended, "FAILED" if future.result() else state(out / run.folder)
                    about = timedelta(seconds=round((time.perf_counter() - started) / ended * left))
                    say(f"[{len(runs) - left}/{len(runs)}] {run.label}: {told}, about {about} left")
        except BaseException as error:  # the stop button, say: no run goes on without its sweep
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures.values()):
                end([str(out / run.folder) for run in todo])
                time.sleep(0.1)
            if isinstance(error, KeyboardInterrupt):
                say("interrupted: the same command goes on from there")
            raise
        finally:
            Server.close_idle()
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
    about = timedelta(seconds=round(left * fmean(seconds) / workers)) if seconds else "no estimate before one has ended"
    say(f"{left} runs left of {len(runs)}, {workers} at once: {about}")
