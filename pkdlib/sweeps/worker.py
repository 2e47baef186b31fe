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
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from papermill.exceptions import PapermillExecutionError

from pkdlib.engine.checkpoints import CHECKPOINT_FILE
from pkdlib.engine.files import write_text
from pkdlib.engine.machine import timestamp
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE
from pkdlib.sweeps.folder import FAILURE_FILE, LOG_FILE, NOTEBOOK_FILE, RUN_FILE, SPEC_FILE, failed, finished, read_json
from pkdlib.sweeps.notebooks import run_notebook

MACHINES = ("MemoryError", "OutOfMemoryError", "OSError", "ConnectionError", "TimeoutError")  # may not come again
DEVICES = "CUDA_VISIBLE_DEVICES"


def execute(folder: str, spec: dict[str, Any]) -> None:
    """Run `spec`, the runner's, in `folder` by a process of its own, and wait; the folder's files say how it ended."""
    home = Path(folder)
    write_text(home / SPEC_FILE, json.dumps(spec, indent=1))
    (home / FAILURE_FILE).unlink(missing_ok=True)
    command = [sys.executable, "-m", "pkdlib.sweeps.worker", folder, str(os.getpid())]
    environment = os.environ | {"OMP_NUM_THREADS": str(spec["threads"]), "PYTHONUNBUFFERED": "1"}
    with open(home / LOG_FILE, "a", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
    if status and not failed(home):  # it ended before it could say why
        why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        text = (home / LOG_FILE).read_text(encoding="utf-8", errors="replace")
        _fail(home, "machine", f"{text}\nthe run's process ended by {why}")


def main(folder: Path, parent: int) -> int:
    """The run's own process: 0 when the notebook ran to its end and left something complete."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    spec = read_json(folder / SPEC_FILE)
    with FileLock(folder / ".lock"), _gpu(spec["runs_per_gpu"]):
        if finished(folder):  # by another sweep, while this one waited
            return 0
        for stale in folder.rglob(RESULT_FILE):  # of an attempt that did not end
            stale.unlink()
        started = time.perf_counter()
        try:
            parameters = spec["parameters"] | {"output_dir": str(folder)}
            run_notebook(Path(spec["notebook"]), folder / NOTEBOOK_FILE, parameters)
            check_output(folder)
        except PapermillExecutionError as error:
            return _fail(folder, "machine" if error.ename in MACHINES else "notebook", "\n".join(error.traceback))
        except RuntimeError as error:  # the kernel died, or did not start
            return _fail(folder, "machine", f"the kernel died: {error}")
        except ValueError as error:
            return _fail(folder, "notebook", f"the notebook ended without complete results: {error}")
        done = {"id": spec["id"], "seconds": time.perf_counter() - started, "finished_at": timestamp()}
        write_text(folder / RUN_FILE, json.dumps(done | {"host": socket.gethostname()}, indent=1))
    return 0


def check_output(folder: Path) -> None:
    """ValueError unless a notebook left something in its folder, every result.json whole, every training ended."""
    if not {path.name for path in folder.glob("[!.]*")} - {SPEC_FILE, LOG_FILE, NOTEBOOK_FILE}:
        raise ValueError("it wrote nothing into output_dir")
    for checkpoint in folder.rglob(CHECKPOINT_FILE):  # removed once result.json is written
        raise ValueError(f"the training in {checkpoint.parent} did not end")
    for path in folder.rglob(RESULT_FILE):
        load_records(path)


def _fail(folder: Path, cause: str, text: str) -> int:
    """Say in the run's folder why it failed, with the text's last lines; the process's exit status."""
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    failure = {"cause": cause, "error": "\n".join(lines[-12:]), "notebook": NOTEBOOK_FILE}
    write_text(folder / FAILURE_FILE, json.dumps(failure, indent=1))
    return 1


def _end_with(parent: int) -> None:
    """End this process, children and all, soon after its parent has ended: nobody would wait for its result."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)  # the kernel in turn watches for this process


@contextmanager
def _gpu(runs_per_gpu: int) -> Iterator[None]:
    """Wait for a GPU that fewer than `runs_per_gpu` runs hold, and let the kernel see no other; CPUs need no turn."""
    visible = os.environ.get(DEVICES)
    devices = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    folder = f"{tempfile.gettempdir()}/pkdlib-gpus-{os.getuid()}"
    while devices:
        for seat, device in product(range(runs_per_gpu), devices):
            with suppress(Timeout), FileLock(f"{folder}/{device}-{seat}", timeout=0):
                os.environ[DEVICES] = device
                yield
                return
        time.sleep(1)
    yield


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
