"""What goes wrong around a run: its executor, its machine, its library, the stop button. Each ends, and is told."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest
from distributed import LocalCluster
from helpers import bert_config
from transformers import BertModel

from pkdlib import ROOT
from pkdlib.engine.files import library_fingerprint, save_model
from pkdlib.engine.progress import BATCH_VARIABLE
from pkdlib.sweeps import worker
from pkdlib.sweeps.folder import failed, finished
from pkdlib.sweeps.notebooks import run_notebook
from pkdlib.sweeps.runner import ATTEMPTS, run_sweep

CODE = """
import pathlib, time
if fate == "sleeps":
    print("asleep", flush=True)
    time.sleep(600)
if fate == "allocates":
    import torch
    torch.empty(1 << 60)
if fate == "hoards":  # until nothing is left, even for IPython's traceback
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
    hoard = [b"x" * 1_000_000 for _ in range(10_000)]
pathlib.Path(output_dir, "told.txt").write_text(fate)
"""


@pytest.fixture
def grid(tmp_path):
    """A function of fates that gives the grid of a small notebook, a run for each."""

    def write(*fates: str) -> Path:
        parameters = nbformat.v4.new_code_cell("fate = ''\noutput_dir = ''", metadata={"tags": ["parameters"]})
        cells = [parameters, *(nbformat.v4.new_code_cell(source) for source in ("fate", CODE.strip()))]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        nbformat.write(notebook, tmp_path / "own.ipynb")
        text = f"notebook: {tmp_path / 'own.ipynb'}\ngrid: {{fate: [{', '.join(fates)}]}}\n"
        (tmp_path / "grid.yaml").write_text(text)
        return tmp_path / "grid.yaml"

    return write


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


def start(*command, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

    def heed_the_stop_key() -> None:  # whoever runs the tests may have let it be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, *map(str, command)]
    return subprocess.Popen(command, env=environment, preexec_fn=heed_the_stop_key, **pipes, **options)


# ------------------------------------------------------------------------------------------------ executors
class Elsewhere(ThreadPoolExecutor):
    """Its workers see another folder under the same path."""

    def submit(self, call, folder, spec):
        return super().submit(call, folder.replace("/out/", "/elsewhere/"), spec)


class Idle(ThreadPoolExecutor):
    """It says that it is done, and has done nothing."""

    def submit(self, call, folder, spec):
        return super().submit(lambda: None)


class Stillborn(ProcessPoolExecutor):
    """Its workers die at their start."""

    def __init__(self, workers):
        super().__init__(workers, initializer=os._exit, initargs=(1,))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Elsewhere, "elsewhere: no sweep.json there on "),
        (Idle, "run.json: not there, though the executor has carried out the run"),
        (Stillborn, "BrokenProcessPool: "),
    ],
)
def test_a_run_is_handed_in_twice_at_most(kind, why, grid, tmp_path, capsys):
    handed_in: list[str] = []

    class Counting(kind):
        def submit(self, call, folder, spec) -> Future:
            handed_in.append(folder)
            return super().submit(call, folder, spec)

    with Counting(2) as executor:
        lost = run_sweep(grid("a", "b"), tmp_path / "out", executor=executor, workers=2, threads=1)
    assert [run.axes["fate"] for run in lost] == ["a", "b"]
    assert sorted(handed_in) == sorted(ATTEMPTS * [str(tmp_path / "out" / run.folder) for run in lost])
    told = capsys.readouterr().out
    assert told.count("FAILED fate") == 2 and told.count(why) == 2
    assert not (tmp_path / "elsewhere").exists()


def test_a_script_without_a_main_guard_ends_and_says_what_it_lacks(grid, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pkdlib.sweeps.runner import run_sweep
with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
    print("lost", len(run_sweep({str(grid("a"))!r}, {str(tmp_path / "out")!r}, executor=executor, workers=1)))
""")
    process = start(script)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and told.endswith("lost 1\n")
    assert (
        told.count("GridError: run_sweep: called by the start of a worker; call it under `if __name__ == '__main__':`")
        == 1
    )


def test_the_client_of_a_scheduler_is_closed_and_a_run_s_library_compared(grid, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    shutil.copytree(ROOT / "pkdlib", other / "pkdlib", ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "pkdlib" / "losses.py", "a") as losses:
        losses.write("# changed\n")
    monkeypatch.setenv("PYTHONPATH", str(other))  # of the runs' processes, as on a worker with another checkout
    monkeypatch.chdir(tmp_path)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        (lost,) = run_sweep(grid("a"), tmp_path / "out", executor=cluster.scheduler_address)
        wait_for(lambda: not {name for name in cluster.scheduler.clients if name.startswith("Client-")}, 30)
    probe = "from pkdlib.engine.files import library_fingerprint; print(library_fingerprint())"
    theirs = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.strip()
    assert theirs != library_fingerprint()
    failure = failed(tmp_path / "out" / lost.folder)
    assert failure["cause"] == "machine" and len(failure["error"].splitlines()) == 1
    assert f"the sweep's pkdlib is {library_fingerprint()}, this worker's ({other / 'pkdlib'}" in failure["error"]
    assert failure["error"].endswith(f") is {theirs}") and failure["error"] in capsys.readouterr().out
    assert not (tmp_path / "out" / lost.folder / "notebook.ipynb").exists()


def test_a_scheduler_without_workers_is_told_of_and_one_that_ends_ends_the_sweep(grid, tmp_path):
    address = f"tcp://127.0.0.1:{9000 + os.getpid() % 1000}"
    scheduler = start("-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard")
    sweep = start("-m", "pkdlib", "sweep", grid("a"), "--out", tmp_path / "out", "--scheduler", address)
    try:
        assert sweep.stdout.readline().startswith("1 runs, 0 of them finished before")
        assert sweep.stdout.readline() == f"scheduler = {address!r}: has no worker; the runs wait for one\n"
        scheduler.kill()
        assert sweep.stdout.read() == (
            f"scheduler = {address!r}: has ended, and the sweep with it; the same command goes on from there\n"
        )
        assert sweep.wait(timeout=60) == 2
    finally:
        scheduler.kill()
        sweep.kill()


# -------------------------------------------------------------------------------------------- the stop button
SCRIPT = """
import psutil, sys
from pkdlib.sweeps.runner import run_sweep
try:
    run_sweep(sys.argv[1], sys.argv[2], workers=1, threads=1)
except KeyboardInterrupt:
    print("caught, with", len(psutil.Process().children(recursive=True)), "processes left")
"""


@pytest.mark.parametrize(
    ("command", "status", "last"),
    [
        (["-c", SCRIPT], 0, "caught, with 0 processes left"),
        (["-m", "pkdlib", "sweep", "--workers", "1", "--out"], 130, "interrupted: the same command goes on from there"),
    ],
    ids=["a caller", "the command"],
)
def test_the_stop_button_ends_the_runs_and_not_the_caller(command, status, last, grid, tmp_path):
    out, file = tmp_path / "out", grid("sleeps", "fine")
    process = start(*command, *((file, out) if command[0] == "-c" else (out, file)))
    try:
        wait_for(lambda: any("asleep" in log.read_text() for log in out.glob("runs/*/log.txt")))
        family = psutil.Process(process.pid).children(recursive=True)
        assert {"pkd-server", "pkd-run", "pkd-kernel"} <= {one.name() for one in family}
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=60)
        assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    finally:
        process.kill()
    assert process.returncode == status and told.splitlines()[-1] == last
    assert "interrupted: the same command goes on from there" in told and "Traceback" not in told
    (run,) = (out / "runs").iterdir()  # the second one has not begun
    assert not finished(run) and not failed(run)


def test_a_notebook_leaves_no_variable_behind(grid, tmp_path, monkeypatch, capsys):
    grid("fine")
    for name in (BATCH_VARIABLE, "PKD_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = dict(os.environ)
    run_notebook(tmp_path / "own.ipynb", tmp_path / "executed.ipynb", {"fate": "fine", "output_dir": str(tmp_path)})
    assert (tmp_path / "told.txt").read_text() == "fine" and dict(os.environ) == before


# ------------------------------------------------------------------------------------------------ the machine
def test_a_lack_of_memory_is_the_machine_s_and_has_its_cause(grid, tmp_path, capsys):
    lost = run_sweep(grid("allocates", "hoards"), tmp_path / "out", workers=2, threads=1)
    failures = {run.axes["fate"]: failed(tmp_path / "out" / run.folder) for run in lost}
    assert {fate: failure["cause"] for fate, failure in failures.items()} == dict.fromkeys(failures, "machine")
    assert "DefaultCPUAllocator: can't allocate memory" in failures["allocates"]["error"]
    assert "MemoryError" in failures["hoards"]["error"] or "Cannot allocate memory" in failures["hoards"]["error"]
    logs = [(tmp_path / "out" / run.folder / "log.txt").read_text() for run in lost]
    assert [log.count("Kernel is running") for log in logs] == [ATTEMPTS, ATTEMPTS]


@pytest.mark.parametrize(
    ("told", "machine"),
    [
        ("RuntimeError: std::bad_alloc", True),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("RuntimeError: CUDA error: out of memory", True),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory", True),
        ("OSError: [Errno 12] Cannot allocate memory", True),
        ("ValueError: alpha = 7: must be less than or equal to 1", False),
    ],
)
def test_what_says_that_memory_lacks(told, machine):
    assert bool(worker.NO_MEMORY.search(told)) == machine


def test_two_sweeps_in_one_folder_do_each_run_once(grid, tmp_path):
    command = ("-m", "pkdlib", "sweep", grid("a"), "--out", tmp_path / "out", "--workers", "1")
    processes = [start(*command) for _ in range(2)]
    assert [process.communicate(timeout=120) and process.returncode for process in processes] == [0, 0]
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert (run / "log.txt").read_text().count("Kernel is running") == 1


def test_saved_weights_may_be_read_by_whom_the_configuration_may(tmp_path):
    model = BertModel(bert_config(layers=1))
    for mask, mode in ((0o022, 0o644), (0o027, 0o640)):
        before = os.umask(mask)
        try:
            save_model(model, tmp_path / str(mode))
        finally:
            os.umask(before)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / str(mode)).iterdir()}
        assert modes == {"config.json": mode, "model.safetensors": mode}


# ------------------------------------------------------------------------------------------------------- GPUs
A, B, MIG = "6f3c0f2a-aaaa", "91d2b7c4-bbbb", "MIG-3c0f2a6f-cccc"


@pytest.mark.parametrize(
    ("environment", "uuids", "gpus"),
    [
        ({}, [], {}),
        ({}, [A, B], {A: "0", B: "1"}),
        ({worker.DEVICES: "4,7"}, [A, B], {A: "4", B: "7"}),
        ({worker.DEVICES: "4,7"}, [], {}),  # a torch that knows no CUDA
        ({worker.DEVICES: ""}, [A], {}),
        ({worker.DEVICES: "-1"}, [A], {}),
        ({worker.DEVICES: "NoDevFiles"}, [A], {}),
        ({worker.DEVICES: "0,-1,1"}, [A, B], {A: "0"}),  # CUDA stops at the first that is none
        ({worker.DEVICES: "GPU-91d2b7c4"}, [B], {B: "GPU-91d2b7c4"}),
        ({worker.DEVICES: MIG}, [A], {MIG: MIG}),  # two of one GPU may have its UUID
        ({worker.DEVICES: "MIG-GPU-6f3c/1/0"}, [A], {"MIG-GPU-6f3c-1-0": "MIG-GPU-6f3c/1/0"}),
        ({worker.DEVICES: "0", "SLURM_JOB_ID": "71"}, [B], {B: "0"}),  # every job's own 0
        ({worker.DEVICES: "0", "SLURM_JOB_ID": "71"}, [""], {"job-71-0": "0"}),
        ({worker.DEVICES: "0"}, [""], {"device-0": "0"}),
    ],
)
def test_a_gpu_is_known_by_what_it_is_and_not_by_its_place(environment, uuids, gpus):
    assert worker.visible_gpus(environment, uuids) == gpus


def test_runs_take_turns_on_gpus_and_say_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv(worker.DEVICES, raising=False)
    taken, ends = [], threading.Event()

    def run():
        with worker._gpu({A: "4", B: "7"}, 1):
            taken.append(os.environ[worker.DEVICES])
            ends.wait(60)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_for(lambda number=number: len(taken) >= min(number + 1, 2))
    line = "waiting for a GPU: other runs hold all of 4, 7\n"
    told = wait_for(lambda: capsys.readouterr().out)
    assert (told, sorted(taken)) == (line, ["4", "7"])  # the third waits for one of them
    ends.set()
    for thread in threads:
        thread.join(timeout=30)
    assert len(taken) == 3 and capsys.readouterr().out == ""


def test_the_locks_lie_in_a_folder_of_one_s_own(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = worker.lock_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)  # as an earlier version may have left it
    assert stat.S_IMODE(worker.lock_folder().stat().st_mode) == 0o700
    monkeypatch.setattr("os.getuid", lambda: os.geteuid() + 1)
    (tmp_path / f"pkdlib-gpus-{os.getuid()}").mkdir()  # somebody else's, for that user
    with pytest.raises(PermissionError, match=r"^\S+: must be a folder of your own, as runs keep their locks there; "):
        worker.lock_folder()
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="must be a folder of your own"):
        worker.lock_folder()


def test_the_spec_of_a_run_names_its_library(grid, tmp_path):
    run_sweep(grid("a"), tmp_path / "out", workers=1, threads=1)
    (spec,) = (tmp_path / "out").glob("runs/*/parameters.json")
    assert json.loads(spec.read_text())["library"] == library_fingerprint()
