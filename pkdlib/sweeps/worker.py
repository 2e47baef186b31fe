"""One run of a sweep: in a process of its own, in a folder of its own, whose run.json says that it finished."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from pkdlib.engine.checkpoints import CHECKPOINT_FILE
from pkdlib.engine.files import write_text
from pkdlib.engine.machine import timestamp
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE
from pkdlib.sweeps import folder as files
from pkdlib.sweeps.notebooks import run_notebook

# Of exceptions in a cell, those that another attempt may not meet.
MACHINES = ("MemoryError", "OutOfMemoryError", "OSError", "ConnectionError", "TimeoutError")
DEVICES = "CUDA_VISIBLE_DEVICES"


def execute(folder: str, spec: dict[str, Any]) -> bool:
    """Run `spec` in `folder` by a process of its own, and wait; whether it finished. What any executor is given.

    spec: id, notebook, parameters, threads and runs_per_gpu, as the runner writes it.
    """
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    write_text(home / files.SPEC_FILE, json.dumps(spec, indent=1))
    (home / files.FAILURE_FILE).unlink(missing_ok=True)
    command = [sys.executable, "-m", "pkdlib.sweeps.worker", folder, str(os.getpid())]
    environment = os.environ | {"OMP_NUM_THREADS": str(spec["threads"]), "PYTHONUNBUFFERED": "1"}
    with open(home / files.LOG_FILE, "a", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
    if status and (status < 0 or not files.failed(home)):  # killed before it could say why
        why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        text = (home / files.LOG_FILE).read_text(encoding="utf-8", errors="replace")
        files.write_failure(home, "machine", f"{_last_lines(text, 5)}\nthe run's process ended by {why}")
    return status == 0


def main(folder: Path, parent: int) -> int:
    """The run's own process: 0 when the notebook ran to its end and left something complete."""
    end_with(parent)
    spec = files.read_json(folder / files.SPEC_FILE)
    with FileLock(folder / files.LOCK_FILE), _gpu(spec["runs_per_gpu"]):
        if files.finished(folder):  # by another sweep, while this one waited
            return 0
        for stale in folder.rglob(RESULT_FILE):  # of an attempt that did not end
            stale.unlink()
        started = time.perf_counter()
        try:
            parameters = spec["parameters"] | {"output_dir": str(folder)}
            run_notebook(Path(spec["notebook"]), folder / files.NOTEBOOK_FILE, parameters)
            check_output(folder)
        except PapermillExecutionError as error:
            cause = "machine" if error.ename in MACHINES else "notebook"
            files.write_failure(folder, cause, _last_lines("\n".join(error.traceback)))
            return 1
        except (DeadKernelError, RuntimeError) as error:  # RuntimeError: the kernel did not start
            files.write_failure(folder, "machine", f"the kernel died: {error}")
            return 1
        except ValueError as error:
            files.write_failure(folder, "notebook", f"the notebook ended without complete results: {error}")
            return 1
        done = {"id": spec["id"], "seconds": time.perf_counter() - started, "finished_at": timestamp()}
        write_text(folder / files.RUN_FILE, json.dumps(done | {"host": socket.gethostname()}, indent=1))
    return 0


def check_output(folder: Path) -> None:
    """ValueError unless a notebook left something in its folder, every result.json whole, every training ended.

    Not every notebook trains: what else it writes, such as a table of timings, is its own affair.
    """
    of_the_sweep = {files.SPEC_FILE, files.LOG_FILE, files.NOTEBOOK_FILE}
    if not any(path.name not in of_the_sweep for path in folder.glob("[!.]*")):
        raise ValueError("it wrote nothing into output_dir")
    for checkpoint in folder.rglob(CHECKPOINT_FILE):  # removed once result.json is written
        raise ValueError(f"the training in {checkpoint.parent} did not end")
    for path in folder.rglob(RESULT_FILE):
        load_records(path)


def end_with(parent: int) -> None:
    """End this process, children and all, soon after its parent has ended: nobody would wait for its result."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)  # the kernel in turn watches for this process

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _gpu(runs_per_gpu: int) -> Iterator[None]:
    """Wait for a GPU that fewer than `runs_per_gpu` runs hold, and let the kernel see no other; CPUs need no turn."""
    visible = os.environ.get(DEVICES)
    devices = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if not devices:
        yield
        return
    folder = Path(tempfile.gettempdir()) / f"pkdlib-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    seats = [(device, FileLock(folder / f"{device}-{seat}")) for seat in range(runs_per_gpu) for device in devices]
    while True:
        for device, lock in seats:
            try:
                with lock.acquire(timeout=0):
                    os.environ[DEVICES] = device
                    yield
                    return
            except Timeout:
                continue
        time.sleep(1)


def _last_lines(text: str, lines: int = 12) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return "\n".join([line for line in plain.splitlines() if line.strip()][-lines:])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
