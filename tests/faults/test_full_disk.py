"""A disk that is full: one line or a run that goes on, nothing that has finished is lost, and later it ends."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

# A file may not grow beyond a limit, from the so manieth time on that a file with that word in its path is touched.
SCRIPT = """
import json, os, resource, signal, sys
from pathlib import Path
import torch
import kills

folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
torch.set_num_threads(1)
RUNS = ("FT", "KD")
shop = kills.Workshop(folder / "shop")

def attempt(home, limit=None, word=None, time=0):
    home.mkdir(exist_ok=True)
    def lower():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    answer, told = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(told, 1), os.dup2(told, 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            if word:
                kills.at_files((word,), kills.at_call(time, lower))
            elif limit is not None:
                lower()
            shop.work(home, RUNS)
            os._exit(0)
        except BaseException as error:
            print(f"REFUSED {type(error).__name__}: {error}", flush=True)
            os._exit(1)
    os.close(told)
    with os.fdopen(answer) as file:
        printed, _, said = file.read().partition("REFUSED ")
    return kills.wait_for_child(child, 200), said.strip(), printed

assert attempt(folder / "whole")[0] == 0
expected = {name: kills.outcome(folder / "whole" / name) for name in RUNS}
found = {}
for name, case in cases.items():
    home = folder / name
    status, said, log = attempt(home, *case)
    finished = [home / name for name in RUNS if (home / name / kills.RESULT_FILE).exists()]
    before = {folder: kills.content(folder) for folder in finished}
    again, why, _ = attempt(home)
    found[name] = {
        "status": status, "said": said, "no checkpoint": log.count("no checkpoint"), "finished": len(finished),
        "kept": all(kills.content(folder) == files for folder, files in before.items()), "then": (again, why),
        "same": all(kills.outcome(home / name) == outcome for name, outcome in expected.items()),
    }
print("FOUND " + json.dumps(found))
"""
FULL = r"must have room for the model: "
CASES = {  # the limit in bytes, or from which touch of which file on; what is said, runs that have finished by then
    "no byte": ((0,), FULL, 0),
    "no room for the config": ((100,), FULL, 0),
    "no room for the model": ((100_000,), FULL, 0),
    "no room for a checkpoint": ((200_000,), "", 2),
    "the cache, at its first file": ((100, "file/cache/", 2), "/cache'", 1),
    "the checkpoint, in the second run": ((1000, "checkpoint.part", 40), FULL, None),
    "the result": ((100, "FT/.result.json", 1), FULL, 0),
    "the weights": ((1000, "KD/config.json", 1), FULL, 1),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    out = tmp_path_factory.mktemp("disk")
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "faults")))
    cases = json.dumps({name: case for name, (case, *_) in CASES.items()})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(out), cases],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("FOUND ")[2])


@pytest.mark.parametrize("name", CASES)
def test_a_full_disk_is_one_line_and_nothing_is_lost(name: str, found: dict[str, dict]) -> None:
    _, line, finished = CASES[name]
    seen = found[name]
    if line:
        assert seen["status"] == 256, seen
        assert line in seen["said"] and "\n" not in seen["said"], seen["said"]
        assert seen["said"].startswith("OSError: ") or "Errno" in seen["said"]
    else:
        assert (seen["status"], seen["said"]) == (0, "") and seen["no checkpoint"] == 8  # of every epoch
    assert finished is None or seen["finished"] == finished
    assert seen["kept"] and seen["then"] == [0, ""] and seen["same"]


@pytest.mark.parametrize(
    ("command", "most", "place"),
    [
        (["sweep", "smoke", "--out", "sweep"], 10, "sweep/sweep.json"),
        (["report", "runs", "--out", "page"], 3000, "page"),
        (["report", "runs", "--out", "page"], 60_000, "page"),  # enough for some of its files
    ],
)
def test_commands_tell_in_one_line_where_a_disk_is_full(
    command: list[str], most: int, place: str, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copy(ROOT / "data" / "results" / "rte-3.jsonl", tmp_path / "runs")
    done = subprocess.run(
        [sys.executable, "-m", "pkdlib", *command], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY)),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().endswith(f"File too large: '{tmp_path / place}'") and "Traceback" not in done.stderr
