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

from pkdlib.engine.files import write_text
from pkdlib.engine.machine import timestamp
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE
from pkdlib.sweeps.folder import (
    FAILURE_FILE,
    LOCK_FILE,
    LOG_FILE,
    NOTEBOOK_FILE,
    RUN_FILE,
    SPEC_FILE,
    failed,
    finished,
    read_json,
    write_failure,
)
from pkdlib.sweeps.notebooks import run_notebook

# Of exceptions in a cell, those that another attempt may not meet.
MACHINES = ("MemoryError", "OutOfMemoryError", "OSError", "ConnectionError", "TimeoutError")
DEVICES = "CUDA_VISIBLE_DEVICES"


def execute(folder: str, spec: dict[str, Any]) -> bool:
    """Run `spec` in `folder` by a process of its own, and wait; whether it finished. What any executor is given.

    spec: id, notebook, parameters, threads and runs_per_gpu, as `pkdlib.sweep` writes it.
    """
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    write_text(home / SPEC_FILE, json.dumps(spec, indent=1))
    (home / FAILURE_FILE).unlink(missing_ok=True)
    command = [sys.executable, "-m", "pkdlib.worker", folder, str(os.getpid())]
    environment = os.environ | {"OMP_NUM_THREADS": str(spec["threads"]), "PYTHONUNBUFFERED": "1"}
    with open(home / LOG_FILE, "a", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
    if status == 0:
        return True
    if status < 0 or not failed(home):  # killed before it could say why
        why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        text = (home / LOG_FILE).read_text(encoding="utf-8", errors="replace")
        write_failure(home, "machine", f"{_last_lines(text, 5)}\nthe run's process ended by {why}")
    return False


def main(folder: Path, parent: int) -> int:
    """The run's own process: 0 when the notebook ran to its end and left complete results."""
    end_with(parent)
    spec = read_json(folder / SPEC_FILE)
    with FileLock(folder / LOCK_FILE), _gpu(spec["runs_per_gpu"]):
        if finished(folder):  # by another sweep, while this one waited
            return 0
        for stale in folder.rglob(RESULT_FILE):  # of an attempt that did not end
            stale.unlink()
        started = time.perf_counter()
        try:
            parameters = spec["parameters"] | {"output_dir": str(folder)}
            run_notebook(Path(spec["notebook"]), folder / NOTEBOOK_FILE, parameters)
            for path in [*folder.rglob(RESULT_FILE)] or [folder / RESULT_FILE]:  # where there is none, it is missed
                load_records(path)
        except PapermillExecutionError as error:
            cause = "machine" if error.ename in MACHINES else "notebook"
            write_failure(folder, cause, _last_lines("\n".join(error.traceback)))
            return 1
        except (DeadKernelError, RuntimeError) as error:  # RuntimeError: the kernel did not start
            write_failure(folder, "machine", f"the kernel died: {error}")
            return 1
        except (FileNotFoundError, ValueError) as error:
            write_failure(folder, "notebook", f"the notebook ended without complete results: {error}")
            return 1
        done = {"id": spec["id"], "seconds": time.perf_counter() - started, "finished_at": timestamp()}
        write_text(folder / RUN_FILE, json.dumps(done | {"host": socket.gethostname()}, indent=1))
    return 0


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
