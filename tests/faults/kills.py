"""Kills runs at random moments and starts them again until they end; counts what was lost and what came out otherwise.

    python tests/faults/kills.py --kills 240 --seed 0 --record data/results/faults.json

Each place below gets its share of the kills, all of them SIGKILL. A round is a folder of several runs: it is killed
some times, then brought to its end and compared with one that was never stopped: the same weights and figures in every
run, bit for bit, and every file of a run that had finished before a kill as it was then. A round that does not end
within its time limit counts as a hang.
"""

# ruff: noqa: E402  (as a script it finds the tests' own modules first)
import argparse
import hashlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import nbformat
import psutil
import torch
from filelock import FileLock
from helpers import bert_config, figures, noisy_copy, save_backbone, save_model, small_task
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm import tqdm
from transformers import PreTrainedModel

import pkdlib
from pkdlib import ROOT
from pkdlib.config import MINI_BERT
from pkdlib.engine.checkpoints import CHECKPOINT_FILE
from pkdlib.engine.files import write_text
from pkdlib.engine.machine import installed_versions, machine, timestamp
from pkdlib.records import RESULT_FILE
from pkdlib.sweeps.folder import RUN_FILE

tqdm.set_lock(threading.RLock())  # its own is shared by all that is forked: who is killed in it locks the others out
LIMIT = 300  # seconds for a round to end; on a busy machine a kernel alone takes twenty
KILLS_A_ROUND = 8
EPOCHS, UPDATES = 4, 3  # of every direct run: forty rows in batches of sixteen
DIRECT = ("training", "any moment", "checkpoint being written", "result being written", "cache being built")
SWEEPS = ("kernel", "sweep's worker", "runner", "pool", "Dask worker", "Dask scheduler")
SHARES = dict.fromkeys(DIRECT, 8) | {"training": 20, "kernel": 3, "sweep's worker": 3, "runner": 3, "pool": 1}
SHARES |= {"Dask worker": 2, "Dask scheduler": 1}
RUNS = {"FT": {"alpha": 0, "beta": 0}, "KD": {"beta": 0}, "PKD-Skip": {"projection": True}, "PKD-Last": {"seed": 1}}


# -------------------------------------------------------------------------------------------- what is compared after
def content(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and date of every file of a finished run; its log and locks are no results."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return {
        str(file.relative_to(folder)): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in files
        if file.name not in ("log.txt", "parameters.json")
    }


def outcome(folder: Path) -> tuple:
    """What a run found, without its clock, and its weights as they lie in the file."""
    (record,) = pkdlib.load_records(folder / RESULT_FILE)
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return json.dumps(figures(record)), weights


class Tally:
    """The figures of one place."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.kept: dict[Path, dict[str, tuple[str, int]]] = {}  # of the round: finished run -> its files

    def killed(self, finished: list[Path], trained: bool) -> None:
        """Note a kill, whether a student had an epoch behind it, and what was finished before."""
        self.count["kills"] += 1
        self.count["after epoch 1"] += trained
        for folder in finished:
            self.kept.setdefault(folder, content(folder))

    def end(self, outcomes: dict[str, tuple], expected: dict[str, tuple]) -> None:
        """Compare a round that has ended."""
        self.count["rounds"] += 1
        self.count["finished before a kill"] += len(self.kept)
        self.count["kept"] += sum(content(folder) == files for folder, files in self.kept.items())
        self.count["runs"] += len(expected)
        self.count["identical"] += sum(outcomes.get(name) == found for name, found in expected.items())
        self.kept = {}


# ------------------------------------------------------------------------- distillations in processes of their own
class Workshop:
    """A backbone and a wider teacher, in a folder, and their rows."""

    def __init__(self, folder: Path):
        self.folder, self.data = folder, small_task()
        save_backbone(folder / "backbone")
        wide = pkdlib.load_backbone(save_backbone(folder / "wide", bert_config(6, 48)))
        save_model(noisy_copy(wide, self.data.task.label_names), folder / "teacher")

    def work(self, home: Path, names: Sequence[str] = tuple(RUNS)) -> None:
        """Bring every run of a folder to its end that has not finished yet."""
        fixed = {"backbone": str(self.folder / "backbone"), "num_hidden_layers": 3, "num_train_epochs": EPOCHS}
        fixed |= {"train_batch_size": 16, "learning_rate": 2e-3, "projection": True}
        for name in names:
            if not (home / name / RESULT_FILE).exists():
                config = pkdlib.validate(pkdlib.DistillConfig, **fixed | RUNS[name])
                teacher = self.folder / "teacher"
                pkdlib.distill(self.data, config, teacher, home / name, home / "cache")


def in_child(work: Callable[[], None], log: Path) -> int:
    """Start the work in a process of its own, without the seconds that importing takes; its number."""
    child = os.fork()
    if not child:
        with suppress(BaseException), open(log, "a") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
            try:
                work()
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)
    return child


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """What acts at its so manieth call."""
    calls = []

    def call() -> None:
        calls.append(1)
        if len(calls) == number:
            act()

    return call


def at_files(words: tuple[str, ...], act: Callable[[], None]) -> None:
    """Act at every opening, renaming, making or removing of a file whose path has one of the words."""
    events = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

    def audit(event: str, values: tuple) -> None:
        if event in events and any(word in str(value) for value in values[:2] for word in words):
            act()

    sys.addaudithook(audit)


def plan(place: str, home: Path, chance: random.Random, ask: Callable[[], None]) -> None:
    """In the child: where it is to end, by itself or, from some moment on, by its parent."""
    if place == "training":
        call = at_call(chance.randint(1, EPOCHS * UPDATES + 4), die)
        register_optimizer_step_post_hook(lambda *_: call())
    elif place == "checkpoint being written":
        end = chance.choice([die, ask])
        at_files(("checkpoint.part",), at_call(chance.randint(1, 14), end))
    elif place == "result being written":
        names = tuple(
            f"{home}/{name}/{file}" for name in RUNS for file in (RESULT_FILE, f".{RESULT_FILE}", "config.json")
        )
        at_files(names, at_call(chance.randint(1, 8), chance.choice([die, ask])))
    elif place == "cache being built":
        if chance.random() < 0.3:
            call = at_call(1, die)
            register_module_forward_pre_hook(
                lambda module, _: call() if isinstance(module, PreTrainedModel) and not module.training else None
            )
        else:
            at_files((str(home / "cache"),), at_call(chance.randint(1, 24), chance.choice([die, ask])))


def direct_round(place: str, kills: int, shop: Workshop, home: Path, tally: Tally, chance: random.Random,
                 expected: dict[str, tuple], seconds: float) -> None:  # fmt: skip
    """Kill a folder of runs so many times, if it lasts so long, and bring it to its end."""
    log = home / "log.txt"
    started = time.monotonic()
    for attempt in range(kills + 1):
        last = attempt == kills
        seed, (asked, answer) = chance.random(), os.pipe()

        def work(seed: float = seed, answer: int = answer, last: bool = last) -> None:
            if not last:
                plan(place, home, random.Random(seed), lambda: os.write(answer, b"x") and None)
            shop.work(home)

        child = in_child(work, log)
        os.close(answer)
        if not last and place == "any moment":
            time.sleep(chance.uniform(0.02, seconds))
            os.kill(child, signal.SIGKILL)
        elif select.select([asked], [], [], LIMIT)[0] and os.read(asked, 1):  # else it has ended and closed the pipe
            time.sleep(chance.uniform(0, 0.004))
            os.kill(child, signal.SIGKILL)
        os.close(asked)
        status = wait_for_child(child, LIMIT - (time.monotonic() - started))
        if status is None:
            tally.count["hangs"] += 1
            return
        finished = [home / name for name in RUNS if (home / name / RESULT_FILE).exists()]
        if os.WIFSIGNALED(status):
            left = [home / name for name in RUNS if home / name not in finished]
            tally.killed(finished, any((folder / CHECKPOINT_FILE).exists() for folder in left))
        elif os.WEXITSTATUS(status):
            tally.count["errors"] += 1
            print(f"{place}: {log.read_text().splitlines()[-1]}", flush=True)
            return
        else:
            break
    tally.end({name: outcome(home / name) for name in RUNS}, expected)


def wait_for_child(child: int, seconds: float) -> int | None:
    """The child's status; None when it had to be ended because it did not end by itself."""
    end = time.monotonic() + max(seconds, 5)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def kill_directly(kills: dict[str, int], folder: Path, chance: random.Random, tallies: dict[str, Tally],
                  note: Callable[[], None]) -> None:  # fmt: skip
    if not kills:
        return
    torch.set_num_threads(1)
    shop = Workshop(folder / "shop")
    whole = folder / "whole"
    whole.mkdir()
    started = time.monotonic()
    child = in_child(lambda: shop.work(whole), whole / "log.txt")
    assert wait_for_child(child, LIMIT) == 0, (whole / "log.txt").read_text()
    seconds = time.monotonic() - started
    expected = {name: outcome(whole / name) for name in RUNS}
    for place in kills:
        tally = tallies.setdefault(place, Tally())
        number = 0
        while tally.count["kills"] < kills[place] and number < 4 * kills[place]:
            number += 1
            home = folder / f"{DIRECT.index(place)}-{number}"
            home.mkdir()
            left = min(KILLS_A_ROUND, kills[place] - tally.count["kills"])
            direct_round(place, left, shop, home, tally, chance, expected, seconds)
            shutil.rmtree(home)
        note()


# ------------------------------------------------------------------------------------------ kernels, sweeps and Dask
CELLS = {
    "parameters": """teacher_dir = ""  # a teacher's folder
methods = ["FT"]  # one
seeds = [0]  # one
output_dir = ""  # of the run""",
    "settings": """import pkdlib
base = pkdlib.validate(pkdlib.DistillConfig, num_hidden_layers=2, num_train_epochs=16, seed=seeds[0])
config = pkdlib.method_config(methods[0], base)""",
    "work": """data = pkdlib.reload_data(pkdlib.load_records(teacher_dir)[0])
pkdlib.distill(data, config, teacher_dir, output_dir)""",
}
GRID = """notebook: {notebook}
parameters: {{teacher_dir: {teacher}}}
grid: {{methods: [KD, PKD-Skip]}}
seeds: [0, 1]
"""
POOL = """import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from pkdlib.sweeps.runner import run_sweep
if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        sys.exit(bool(run_sweep(sys.argv[1], sys.argv[2], workers=2, threads=1, executor=pool)))
"""


def words_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


class Sweep:
    """A sweep's command, what it starts, and where it runs."""

    def __init__(self, place: str, folder: Path, out: Path):
        self.place, self.folder, self.out = place, folder, out
        self.log = open(folder / "log.txt", "a")  # noqa: SIM115  (its processes write on)
        self.dask: dict[str, subprocess.Popen] = {}
        self.process: subprocess.Popen | None = None

    def start(self, *arguments: str) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, *arguments], stdout=self.log, stderr=self.log, env=environment, cwd=self.folder
        )

    def begin(self) -> None:
        """Start what does not run: Dask's processes where they are wanted, and the sweep."""
        grid, options = str(self.folder / "grid.yaml"), ["--workers", "2", "--threads", "1"]
        if self.place.startswith("Dask"):
            options = ["--scheduler", self.cluster()]
        if self.place == "pool":
            (self.folder / "pool.py").write_text(POOL)
            self.process = self.start(str(self.folder / "pool.py"), grid, str(self.out))
        else:
            self.process = self.start("-m", "pkdlib", "sweep", grid, "--out", str(self.out), *options)

    def cluster(self) -> str:
        """The address of a scheduler with two workers, whichever of them had to be started."""
        if not alive(self.dask.get("scheduler")):
            for process in self.dask.values():
                process.kill()
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
            port = self.address.rpartition(":")[2]
            self.dask = {"scheduler": self.start("-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", port,
                                                 "--no-dashboard")}  # fmt: skip
        for name in ("worker 1", "worker 2"):
            if not alive(self.dask.get(name)):
                self.dask[name] = self.start("-m", "dask", "worker", self.address, "--nthreads", "1", "--no-dashboard",
                                             "--no-nanny")  # fmt: skip
        return self.address

    def victims(self) -> list[psutil.Process]:
        """The processes that a kill at this place can hit now."""
        assert self.process is not None
        runner = psutil.Process(self.process.pid)
        if self.place == "runner":
            return [runner]
        if self.place == "pool":
            return [child for child in family(runner) if "multiprocessing.spawn" in words_of(child)]
        if self.place.startswith("Dask"):
            word = self.place.split()[1]
            return [psutil.Process(one.pid) for name, one in self.dask.items() if word in name and alive(one)]
        names = {"kernel": ("pkd-kernel",), "sweep's worker": ("pkd-server", "pkd-run")}[self.place]
        return [child for child in family(runner) if name_of(child) in names]

    def close(self) -> None:
        """End everything that was started here, by its number."""
        for process in [self.process, *self.dask.values()]:
            if process is not None and process.poll() is None:
                below = family(psutil.Process(process.pid))
                process.kill()
                process.wait()
                for child in below:
                    with suppress(psutil.Error):
                        child.kill()
        self.log.close()

    def students(self) -> list[Path]:
        return sorted((self.out / "runs").glob("*"))

    def finished(self) -> list[Path]:
        return [path.parent for path in self.out.glob(f"*/*/{RUN_FILE}")]


def alive(process: subprocess.Popen | None) -> bool:
    return process is not None and process.poll() is None


def sweep_round(sweep: Sweep, kills: int, tally: Tally, chance: random.Random, expected: dict[str, tuple]) -> None:
    """Kill a sweep so many times, most of them when a student has an epoch behind it, and bring it to its end."""
    limit = time.monotonic() + LIMIT + 60 * kills
    done, starts = 0, 0
    since = time.time()
    trained = chance.random() < 0.8  # wait for an epoch to have ended
    delay = chance.uniform(0, 0.3 if trained else 8)
    while True:
        if time.monotonic() > limit:
            tally.count["hangs"] += 1
            return
        if not alive(sweep.process):
            if sweep.process is not None and sweep.process.returncode == 0:
                break
            starts += 1
            if starts > 3 * kills + 4:
                tally.count["errors"] += 1
                print(f"{sweep.place}: {(sweep.folder / 'log.txt').read_text()[-2000:]}", flush=True)
                return
            sweep.begin()
            since = time.time()
        if done < kills:
            new = [file for file in sweep.out.glob(f"runs/*/{CHECKPOINT_FILE}") if file.stat().st_mtime > since]
            due = bool(new) if trained else time.time() - since > delay
            if due and (victims := sweep.victims()):
                if trained:
                    time.sleep(delay)
                finished = sweep.finished()
                behind = any(
                    (folder / CHECKPOINT_FILE).exists() for folder in sweep.students() if folder not in finished
                )
                below = family(psutil.Process(sweep.process.pid)) if sweep.place == "runner" else []
                with suppress(psutil.NoSuchProcess):
                    victim = chance.choice(victims)
                    victim.kill()
                    done += 1
                    tally.killed(finished, behind)
                    victim.wait(10)  # until then it counts as alive, and none takes its place
                end = time.monotonic() + 30
                while any(child.is_running() and child.status() != "zombie" for child in below if exists(child)):
                    if time.monotonic() > end:  # what the runner had started must end by itself
                        tally.count["hangs"] += 1
                        return
                    time.sleep(0.1)
                if sweep.place == "Dask worker":
                    sweep.cluster()
                since, trained = time.time(), chance.random() < 0.8
                delay = chance.uniform(0, 0.3 if trained else 8)
        time.sleep(0.02)
    tally.end({path.name: outcome(path) for path in sweep.students()}, expected)


def exists(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running()
    return False


def make_teacher(out: Path) -> None:
    """A finished teacher of four layers, by which the sweeps' students are taught."""
    rows = pkdlib.load_task("mini-sentiment", train_rows=64)
    data = pkdlib.encode_task(rows, pkdlib.load_tokenizer(MINI_BERT), 64)
    pkdlib.fine_tune(data, pkdlib.validate(pkdlib.FineTuneConfig, num_hidden_layers=4, num_train_epochs=1), out)


@contextmanager
def sweeping(place: str, folder: Path, name: str) -> Iterator[Sweep]:
    sweep = Sweep(place, folder, folder / name)
    try:
        yield sweep
    finally:
        sweep.close()


def kill_sweeps(kills: dict[str, int], folder: Path, chance: random.Random, tallies: dict[str, Tally],
                note: Callable[[], None]) -> None:  # fmt: skip
    folder.mkdir(exist_ok=True)
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}) for tag, source in CELLS.items()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "student.ipynb")
    child = in_child(lambda: make_teacher(folder / "teacher"), folder / "log.txt")
    assert wait_for_child(child, LIMIT) == 0, (folder / "log.txt").read_text()
    (folder / "grid.yaml").write_text(GRID.format(notebook=folder / "student.ipynb", teacher=folder / "teacher"))
    with sweeping("runner", folder, "whole") as whole:
        sweep_round(whole, 0, Tally(), chance, {})
        expected = {path.name: outcome(path) for path in whole.students()}
    assert len(expected) == 4, (folder / "log.txt").read_text()
    for place in kills:
        tally = tallies.setdefault(place, Tally())
        number = 0
        while tally.count["kills"] < kills[place] and number < 2 * kills[place]:
            number += 1
            with sweeping(place, folder, f"{SWEEPS.index(place)}-{number}") as sweep:
                left = min(KILLS_A_ROUND, kills[place] - tally.count["kills"])
                sweep_round(sweep, left, tally, chance, expected)
            shutil.rmtree(sweep.out, ignore_errors=True)
            print(table({place: tally}).splitlines()[-2], flush=True)
        note()


# ------------------------------------------------------------------------------------------------------- the command
COLUMNS = ("kills", "after epoch 1", "rounds", "finished before a kill", "kept", "runs", "identical", "hangs", "errors")


def table(tallies: dict[str, Tally]) -> str:
    """The figures by place, and in all."""
    rows = {place: tally.count for place, tally in tallies.items()}
    rows["all"] = sum(rows.values(), Counter())
    widths = [max(len(name), 5) for name in COLUMNS]
    lines = [f"{'place':26}" + "  ".join(COLUMNS)]
    for place, count in rows.items():
        cells = [f"{count[name]:>{width}}" for name, width in zip(COLUMNS, widths, strict=True)]
        lines.append(f"{place:26}" + "  ".join(cells))
    return "\n".join(lines)


def record(file: Path, tallies: dict[str, Tally], commit: str, seed: int) -> None:
    """Write the figures by place, each with its date and commit; those of places that were not killed in stay."""
    made = {"date": timestamp(), "commit": commit, "seed": seed}
    with FileLock(file.with_suffix(".lock")):  # other places may be recorded at the same time
        places = json.loads(file.read_text())["places"] if file.exists() else {}
        places |= {place: {name: tally.count[name] for name in COLUMNS} | made for place, tally in tallies.items()}
        total = {name: sum(place[name] for place in places.values()) for name in COLUMNS}
        content = {"machine": machine(), "versions": installed_versions(), "places": places, "all": total}
        write_text(file, json.dumps(content, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Kill, print the table; 0 when nothing was lost, nothing differed and nothing hung."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=240, help="in all, shared among the places")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--places", nargs="+", choices=(*DIRECT, *SWEEPS), default=[*DIRECT, *SWEEPS])
    parser.add_argument("--record", type=Path, help="write the figures there, as JSON")
    given = parser.parse_args(arguments)
    shares = {place: SHARES[place] for place in given.places}
    kills = {place: max(1, round(given.kills * share / sum(shares.values()))) for place, share in shares.items()}
    chance, tallies = random.Random(given.seed), {}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)

    def note() -> None:
        if given.record:
            record(given.record, tallies, commit.stdout.strip(), given.seed)

    with tempfile.TemporaryDirectory(prefix="pkd-kills-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        kill_directly({place: kills[place] for place in DIRECT if place in kills}, folder, chance, tallies, note)
        if set(kills) & set(SWEEPS):
            sweeps = {place: kills[place] for place in SWEEPS if place in kills}
            kill_sweeps(sweeps, folder / "sweeps", chance, tallies, note)
    print(table(tallies), flush=True)
    counts = sum((tally.count for tally in tallies.values()), Counter())
    right = counts["kept"] == counts["finished before a kill"] and counts["identical"] == counts["runs"]
    return 0 if right and not counts["hangs"] and not counts["errors"] else 1


if __name__ == "__main__":
    sys.exit(main())
