"""Processes for runs: forks of one that has imported what they need, as imports take longer than a short training.

A fork begins with the modules that its parent has imported and with nothing else of earlier runs. A process with
threads cannot be forked safely; so whoever forks here has none: a process that only waits (`serve`), and a run's own
process at its very start, which forks the kernel of its notebook before anything else.
"""

import ast
import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import nbformat
from ipykernel.kernelapp import IPKernelApp
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from pkdlib.engine.files import digest, library_fingerprint
from pkdlib.sweeps.folder import LOG_FILE

FORKS = sys.platform == "linux"  # elsewhere libraries of the system do not survive a fork
IDLE_S = 60  # without a run, after which a process that waits for one ends
UNUSED = 75  # its exit status then
# What notebooks import of these is imported before a fork; they are known to start no threads.
PACKAGES = ("accelerate", "matplotlib", "numpy", "pandas", "pkdlib", "seaborn", "torch", "transformers")
OTHERS = (["pkdlib", "analysis"], ["pkdlib", "reports"])  # whose code a training does not depend on
DRAWING = ("figures", "widgets")  # modules there that write no result
# What is imported when it is first used.
LATER = ("matplotlib_inline.backend_inline", "torch._dynamo", "transformers.models.bert.modeling_bert")


class Fork:
    """A process forked from this one that does `work` and ends, with the part of Popen's interface that is needed."""

    stdin = stdout = stderr = None  # they are this process's own

    def __init__(self, work: Callable[[], int | None]):
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            status = work() or 0
        except BaseException as error:
            status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
            if not isinstance(error, SystemExit):
                traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        return self.wait(os.WNOHANG)

    def wait(self, options: int = 0) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def imported_by(notebook: Path) -> Iterator[str]:
    """The modules of PACKAGES that a notebook's cells import."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{name}" for name in names)]
            yield from (name for name in names if name.partition(".")[0] in PACKAGES)


@cache
def code_of(notebook: Path) -> str:
    """A hash of pkdlib's code on which the notebook's results depend: of analysis and reports, what it imports."""
    parts = [name.split(".") for name in imported_by(notebook)]
    used = {tuple(part[1:3]) for part in parts if part[:2] in OTHERS and part[2:]}
    used |= {("analysis", name) for name in ("statistics", "tables") if used}  # with which the others compute
    files = sorted(file for room, name in used for file in (Path(__file__).parents[1] / room).glob(f"{name}.*"))
    content = [file.name.encode() + file.read_bytes() for file in files if file.stem not in DRAWING]  # and paper.json
    return digest(library_fingerprint().encode(), *content) if used else library_fingerprint()


def preload(notebook: Path) -> None:
    """Import what the notebook imports; what cannot be imported is the notebook's to tell."""
    with suppress(OSError, ValueError, SyntaxError):
        for name in (*imported_by(notebook), *LATER):
            with suppress(Exception):  # a name that is no module, too
                importlib.import_module(name)


# ----------------------------------------------------------------------------------------------------- kernels
class WaitingKernel(Fork):
    """A fork that becomes the kernel of a notebook when it is told how."""

    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        super().__init__(partial(self._become, reader))
        os.close(reader)

    def start(self, command: list[str], environment: dict[str, str], folder: str) -> None:
        with open(self.writer, "w") as told:
            json.dump({"command": command, "environment": environment, "folder": folder}, told)

    def _become(self, reader: int) -> None:
        os.close(self.writer)
        with open(reader) as told:
            start = json.loads(told.read() or "{}")
        if not start:  # the run has ended without a need of it
            return
        _name("pkd-kernel")
        os.environ.clear()
        os.environ.update(start["environment"])
        os.chdir(start["folder"])
        options = start["command"][start["command"].index("ipykernel_launcher") + 1 :]
        IPKernelApp.launch_instance(argv=[*options, f"--IPKernelApp.parent_handle={os.getppid()}"])  # it ends with that


class _Provisioner(LocalProvisioner):
    """Makes a waiting fork the kernel, where that is to be a Python like this one."""

    waiting: WaitingKernel

    async def launch_kernel(self, cmd: list[str], **options: Any) -> dict[str, Any]:
        if cmd[0] != sys.executable or "ipykernel_launcher" not in cmd:
            return await super().launch_kernel(cmd, **options)
        self.waiting.start(cmd, options["env"], str(options.get("cwd") or Path.cwd()))
        self.process, self.pid = self.waiting, self.waiting.pid
        return self.connection_info


def manager_of(waiting: WaitingKernel) -> type[AsyncKernelManager]:
    """A class of kernel managers, for papermill, whose kernel is the waiting one."""

    class Manager(AsyncKernelManager):
        def __init__(self, **options: Any):
            super().__init__(**options)
            self.provisioner = _Provisioner(parent=self, kernel_spec=self.kernel_spec)
            self.provisioner.waiting = waiting

    return Manager


def _name(name: str) -> None:
    """Name this process for who looks at a list of them."""
    with suppress(Exception):
        ctypes.CDLL(None).prctl(15, name.encode())  # PR_SET_NAME


# ------------------------------------------------------------------------------ a process that runs are forked from
Work = Callable[[Path, WaitingKernel | None], int]


def serve(work: Work) -> None:
    """Do `work` for every request on stdin, one at a time, each in a fork whose exit status is the answer on stdout.

    A request is a line of JSON: folder, notebook. Ends with stdin, or after IDLE_S without a request.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where an import may print
    _name("pkd-server")
    while select.select([0], [], [], IDLE_S)[0]:
        if not (line := sys.stdin.readline()):
            return
        request = json.loads(line)
        begin = partial(_begin, work, Path(request["folder"]), answers.fileno())
        if FORKS:
            preload(Path(request["notebook"]))
        with suppress(BrokenPipeError):  # nobody waits any more; stdin has ended too
            print(Fork(begin).wait() if FORKS else begin(), file=answers, flush=True)
        if not FORKS:
            return
    sys.exit(UNUSED)


def _begin(work: Work, folder: Path, answers: int) -> int:
    _name("pkd-run")
    if FORKS:
        os.close(answers)  # the answer is the parent's
    asker, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for output in (1, 2):
        os.dup2(log, output)
    kernel = WaitingKernel() if FORKS else None
    threading.Thread(target=_end_with, args=(asker,), daemon=True).start()
    try:
        return work(folder, kernel)
    finally:
        if kernel:
            kernel.kill()


def _end_with(asker: int) -> None:
    """End this process as soon as the other end of a pipe is closed: nobody would wait for its result."""
    poll = select.poll()
    poll.register(asker, 0)  # a hang-up is always reported
    poll.poll()
    os._exit(1)  # the kernel in turn watches for this process


class Server:
    """A process that serves: it lasts for many runs, of which it does one at a time."""

    idle: ClassVar[list["Server"]] = []
    lock = threading.Lock()

    def __init__(self, environment: dict[str, str], log: Path):
        self.key = environment, os.getcwd()
        with open(log, "a", encoding="utf-8") as errors:  # a session of its own: the stop key is the runner's
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pkdlib.sweeps.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env=environment, start_new_session=True, text=True,
            )  # fmt: skip

    @classmethod
    def get(cls, environment: dict[str, str], log: Path) -> "Server":
        """One that waits, in this environment and folder, or a new one."""
        with cls.lock:
            for server in cls.idle:
                if server.key == (environment, os.getcwd()) and server.process.poll() is None:
                    cls.idle.remove(server)
                    return server
        return cls(environment, log)

    def ask(self, folder: Path, notebook: str) -> int:
        """Let it do a run; the exit status of the run, or its own where it was ended."""
        pipes: Any = self.process
        with suppress(BrokenPipeError):
            pipes.stdin.write(json.dumps({"folder": str(folder), "notebook": notebook}) + "\n")
            pipes.stdin.flush()
        if not (answer := pipes.stdout.readline()):
            self.close()
            return self.process.wait()
        with self.lock:
            self.idle.append(self)
        return int(answer)

    def close(self) -> None:
        """Let it end, and what it has forked."""
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> None:
        """End it now, with its forks."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)

    @classmethod
    def close_idle(cls) -> None:
        with cls.lock:
            for server in cls.idle:
                server.close()
            for server in cls.idle:
                server.process.wait()
            cls.idle.clear()
