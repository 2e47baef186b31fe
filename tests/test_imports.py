"""pkdlib imports without Jupyter and without datasets, and its modules do not import each other in circles."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pkdlib"
OF_NOTEBOOKS = ("notebooks", "plans", "sweep", "tutorial", "widgets", "worker")  # they need Jupyter

# Runs in a fresh interpreter, where the search of the path finds no hidden package, as if none were installed.
PROBE = """
import importlib, pkgutil, sys, traceback
from importlib.machinery import PathFinder

HIDDEN = {
    "IPython", "ipykernel", "ipywidgets", "jupyter", "jupyter_client", "jupyter_core", "jupyter_server", "jupyterlab",
    "latex2mathml", "nbclient", "nbconvert", "nbformat", "papermill", "datasets",
}

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
for name in HIDDEN:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is not hidden")

import pkdlib

failed = False
for name in [module.name for module in pkgutil.walk_packages(pkdlib.__path__, "pkdlib.")]:
    if name.removeprefix("pkdlib.") in sys.argv[1:]:
        continue
    try:
        importlib.import_module(name)
        print(name)
    except Exception:
        failed = True
        traceback.print_exc()
sys.exit(failed)
"""


def module_files() -> dict[str, Path]:
    """Each module's dotted name and its file."""
    names = {path: path.relative_to(ROOT).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


def imported_modules(name: str, path: Path, modules: set[str]) -> set[str]:
    """The modules of pkdlib that a file imports anywhere in it, inside functions too."""
    found = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            members = {f"{source}.{alias.name}" for alias in node.names}
            # `from package import module` needs that module; any other name comes from the package itself.
            found |= members & modules
            if members - modules:
                found.add(source)
    return found & modules


def test_every_module_imports_without_jupyter_and_datasets() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE, *OF_NOTEBOOKS], cwd=ROOT, capture_output=True, text=True)
    assert probe.returncode == 0, probe.stderr
    assert set(probe.stdout.split()) == module_files().keys() - {"pkdlib", *(f"pkdlib.{name}" for name in OF_NOTEBOOKS)}


def test_import_graph_has_no_cycle() -> None:
    files = module_files()
    graph = {name: imported_modules(name, path, set(files)) for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
