"""The command `pkd`: its help is light, and in a wheel it finds what it needs or says what is missing."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pkdlib import ROOT
from pkdlib.__main__ import main
from pkdlib.layer_maps import STRATEGIES
from pkdlib.tasks import TASKS
from pkdlib.variants.distances import DISTANCES
from pkdlib.variants.maps import MOVING

COPIED = ("pkdlib", "pyproject.toml", "README.md", "LICENSE")


def pkd(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """`python -m pkdlib` in a folder, where no checkout is found but by PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PKD_HOME"}
    return subprocess.run(
        [sys.executable, "-m", "pkdlib", *arguments],
        cwd=folder, env=environment | variables, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a wheel of the library is installed, without its checkout."""
    out = tmp_path_factory.mktemp("wheel")
    for name in COPIED:
        source, copy = ROOT / name, out / "source" / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(out / "source")]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(out / "site"), str(wheel)], check=True)
    return out / "site"


def files(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts}


def test_the_list_has_every_name_with_what_it_is(capsys) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, text in {**STRATEGIES, **MOVING, **DISTANCES}.items():
        assert f"  {name:10}{text.__doc__.splitlines()[0]}" in lines
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in TASKS)


def test_the_help_takes_less_than_half_a_second_of_processor_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = pkd("--help", folder=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0 and not shown.stderr
    for command in ("sweep", "predict", "export", "list", "report", "tutorial", "submit"):
        assert f"\n    {command} " in shown.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize(
    "arguments", [[], ["reprot"], ["report"], ["submit", "out.zip"], ["tutorial", "--out"], ["report", "a", "b"]]
)
def test_a_wrong_call_ends_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("usage: pkd")


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("papermill", "notebooks", ["report", "missing"]),
        ("papermill", "notebooks", ["sweep", "smoke", "--out", "out"]),
        ("distributed", "cluster", ["sweep", "smoke", "--out", "out", "--scheduler", "localhost:1"]),
        ("onnxruntime", "onnx", ["export", "missing", "--onnx", "out"]),
        ("onnxscript", "onnx", ["export", "missing", "--onnx", "out"]),
        ("datasets", "hub", ["sweep", "rte.yaml", "--out", "out", "--dry-run"]),
    ],
)
def test_a_missing_module_s_extra_is_named(module: str, extra: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "rte.yaml").write_text("notebook: 01_finetune_teacher\nparameters: {task: rte, source: ''}\n")
    script = "import sys; sys.modules[sys.argv.pop(1)] = None; from pkdlib.__main__ import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-c", script, module, *arguments]
    refused = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    line = f"{module} is not installed; pip install 'pkdlib[{extra}]' installs it\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", line)
    assert [file.name for file in tmp_path.iterdir()] == ["rte.yaml"]


def test_a_wheel_reports_a_folder_and_names_what_the_tutorial_needs(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "data" / "results" / "rte-3.jsonl", tmp_path / "results")
    before = files(installed)
    reported = pkd("report", "results", "--out", "out", folder=tmp_path, PYTHONPATH=str(installed))
    assert reported.returncode == 0, reported.stderr
    assert reported.stdout == f"The page: {tmp_path / 'out' / 'index.html'}\n"
    assert "as in the paper's Table 1" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    refused = pkd("tutorial", folder=tmp_path, PYTHONPATH=str(installed))
    assert refused.returncode == 2 and refused.stdout == ""
    needs = "the course's notebooks and data are not there: run this in a checkout, or set PKD_HOME to one"
    assert refused.stderr == f"{tmp_path}: {needs}\n"
    assert files(installed) == before and {path.name for path in tmp_path.iterdir()} == {"results", "out"}
    assert {"__main__.py", "report.ipynb", "page.html.j2", "paper.json", "pkd.mplstyle"} <= {
        file.name for file in before
    }
