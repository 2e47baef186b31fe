"""One run of a sweep: in a process of its own, in a folder of its own, whose run.json says that it finished."""

import json
import os
import re
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product, takewhile
from pathlib import Path
from typing import Any

import nbformat
import torch
from filelock import FileLock, Timeout
from papermill.exceptions import PapermillExecutionError

from pkdlib.engine.checkpoints import CHECKPOINT_FILE
from pkdlib.engine.files import library_fingerprint, write_text
from pkdlib.engine.machine import timestamp
from pkdlib.engine.progress import say
from pkdlib.readers.records import load_records
from pkdlib.records import RESULT_FILE
from pkdlib.sweeps.folder import (
    FAILURE_FILE,
    LOG_FILE,
    NOTEBOOK_FILE,
    RUN_FILE,
    SPEC_FILE,
    SWEEP_FILE,
    failed,
    finished,
    read_json,
)
from pkdlib.sweeps.forks import UNUSED, Server, WaitingKernel, code_of, manager_of, serve
from pkdlib.sweeps.notebooks import run_notebook

MACHINES = ("MemoryError", "OutOfMemoryError", "OSError", "ConnectionError", "TimeoutError")  # may not come again
NO_MEMORY = re.compile("MemoryError|can.?t allocate|cannot allocate|bad_alloc|out of memory", re.I)  # whoever raises it
DEVICES = "CUDA_VISIBLE_DEVICES"
RUNNING: dict[str, Server] = {}  # by folder, what does the runs that this process has started


def execute(folder: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Run `spec`, the runner's, in `folder` by a process of its own, and wait; its failure, {} when there is none."""
    home = Path(folder)
    if not (home.parents[1] / SWEEP_FILE).is_file():  # the runner has written it
        here = f"no {SWEEP_FILE} there on {socket.gethostname()}: every worker must see the folder under this path"
        return {"cause": "machine", "error": f"{home.parents[1]}: {here}"}
    write_text(home / SPEC_FILE, json.dumps(spec, indent=1))
    (home / FAILURE_FILE).unlink(missing_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(spec["threads"]), "PYTHONUNBUFFERED": "1"}
    status = UNUSED
    while status == UNUSED:  # it has just ended for want of a run
        RUNNING[folder] = Server.get(environment, home / LOG_FILE)
        status = RUNNING[folder].ask(home, spec["notebook"])
    if RUNNING.pop(folder, None) is None:  # ended on purpose
        (home / FAILURE_FILE).unlink(missing_ok=True)
    elif status and not failed(home):  # it ended before it could say why
        why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        text = (home / LOG_FILE).read_text(encoding="utf-8", errors="replace")
        _fail(home, "machine", f"{text}\nthe run's process ended by {why}")
    return failed(home) or {}


def end(folders: Iterable[str]) -> None:
    """End those of this process's runs, kernels and all; they count as interrupted."""
    for server in [RUNNING.pop(folder) for folder in folders if folder in RUNNING]:
        server.end()


def main(folder: Path, kernel: WaitingKernel | None) -> int:
    """The run's own process: 0 when the notebook ran to its end and left something complete."""
    spec = read_json(folder / SPEC_FILE)
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    gpus = visible_gpus(os.environ, [str(getattr(device, "uuid", "")) for device in devices])
    try:
        if spec["library"] != (own := code_of(Path(spec["notebook"]))):
            ours = f"this worker's ({Path(__file__).parents[1]} on {socket.gethostname()}) is {own}"
            return _fail(folder, "machine", f"the sweep's pkdlib is {spec['library']}, {ours}")
        with FileLock(folder / ".lock"), _gpu(gpus, spec["runs_per_gpu"]):
            if not finished(folder):  # by another sweep, while this one waited
                _carry_out(folder, spec, kernel)
    except PapermillExecutionError as error:
        told = f"{error.ename}: {error.evalue}"
        if not error.traceback:  # without memory, IPython makes none, and prints what it can
            cells = nbformat.read(folder / NOTEBOOK_FILE, as_version=4).cells
            told += "".join(f"\n{one.text}" for cell in cells for one in cell.get("outputs", ()) if "text" in one)
        lack = error.ename in MACHINES or NO_MEMORY.search(told)
        return _fail(folder, "machine" if lack else "notebook", "\n".join(error.traceback) or told)
    except RuntimeError as error:  # the kernel died, or did not start
        return _fail(folder, "machine", f"the kernel died: {error}")
    except OSError as error:  # where it cannot write, or somebody else holds the locks
        return _fail(folder, "machine", f"{type(error).__name__}: {error}")
    except ValueError as error:
        return _fail(folder, "notebook", f"the notebook ended without complete results: {error}")
    return 0


def _carry_out(folder: Path, spec: dict[str, Any], kernel: WaitingKernel | None) -> None:
    """Run the notebook in its folder, and say there that it has finished."""
    for stale in folder.rglob(RESULT_FILE):  # of an attempt that did not end
        stale.unlink()
    started = time.perf_counter()
    parameters, manager = spec["parameters"] | {"output_dir": str(folder)}, manager_of(kernel) if kernel else None
    run_notebook(Path(spec["notebook"]), folder / NOTEBOOK_FILE, parameters, manager)
    check_output(folder)
    done = {"id": spec["id"], "seconds": time.perf_counter() - started, "finished_at": timestamp()}
    write_text(folder / RUN_FILE, json.dumps(done | {"host": socket.gethostname()}, indent=1))


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


def visible_gpus(environment: Mapping[str, str], uuids: Sequence[str]) -> dict[str, str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that a run may take, by the name of its lock; {} where there is none.

    uuids: those of torch's devices, in its order; "" where torch does not know one. A GPU without a UUID is known by
    its index, which says nothing outside a job of SLURM: there, every job may see another GPU as 0.
    """
    given = environment.get(DEVICES, ",".join(str(index) for index in range(len(uuids))))
    names = [name.strip() for name in given.split(",")]
    names = list(takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, names))  # CUDA, too, stops at the first other
    scope = f"job-{environment['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in environment else "device"
    return {
        name.replace("/", "-") if name.startswith("MIG-") else uuid or f"{scope}-{name}": name
        for name, uuid in zip(names, uuids, strict=False)
    }


def lock_folder() -> Path:
    """The folder of the GPUs' locks, this user's alone; PermissionError where somebody else has made it."""
    folder = Path(tempfile.gettempdir()) / f"pkdlib-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()  # of a link itself
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder}: must be a folder of your own, as runs keep their locks there; remove it")
    folder.chmod(0o700)
    return folder


@contextmanager
def _gpu(gpus: Mapping[str, str], runs_per_gpu: int) -> Iterator[None]:
    """Wait for a GPU that fewer than `runs_per_gpu` runs hold, and let the kernel see no other; CPUs need no turn."""
    locks, told = lock_folder() if gpus else Path(), False
    while gpus:
        for seat, (lock, name) in product(range(runs_per_gpu), gpus.items()):
            with suppress(Timeout), FileLock(locks / f"{lock}-{seat}", timeout=0):
                os.environ[DEVICES] = name
                yield
                return
        if not told:
            say(f"waiting for a GPU: other runs hold all of {', '.join(gpus.values())}")
        told = True
        time.sleep(1)
    yield


if __name__ == "__main__":
    library_fingerprint()  # of the code that is imported now
    serve(main)
