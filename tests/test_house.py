"""The rule of the house: which room may import which, how large the core is, what an import costs."""

import ast
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from itertools import permutations
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pkdlib"
CORE = {
    "losses", "layer_maps", "objectives", "models", "tasks", "data", "targets", "evaluation", "loop", "training",
    "config", "records", "__init__",
}  # fmt: skip
MAY_IMPORT = {  # room -> rooms
    "engine": set(),
    "variants": {"engine"},
    "core": {"engine", "variants"},
    "readers": {"engine", "core"},
    "analysis": {"engine", "core", "readers"},
    "sweeps": {"engine", "core", "readers"},
    "deploy": {"engine", "core", "readers"},
    "beyond": {"engine", "variants", "core", "readers"},
    "reports": {"engine", "variants", "core", "readers", "analysis", "sweeps", "deploy", "beyond"},
    "__main__": {"reports"},
}
OF_THE_CORE = {  # third-party packages
    "torch", "transformers", "accelerate", "safetensors", "pydantic", "numpy", "filelock", "tqdm",
    "huggingface_hub",  # which transformers needs
}  # fmt: skip
# Lines that each room may have. A room that needs more says why in the change that raises its number here.
LINES = {
    "core": 1300, "variants": 165, "engine": 1780, "readers": 1015, "analysis": 1900, "sweeps": 1435,
    "deploy": 520, "beyond": 465, "reports": 750,
}  # fmt: skip
MOST_PARAMETERS = 8
NEED_JUPYTER = ("pkdlib.analysis.widgets", "pkdlib.reports", "pkdlib.sweeps")  # these and what lies in them

# Runs in a fresh interpreter, where the search of the path finds no hidden package, as if none were installed.
PROBE = """
import importlib, pkgutil, sys, traceback
from importlib.machinery import PathFinder

HIDDEN = {
    "IPython", "ipykernel", "ipywidgets", "jupyter", "jupyter_client", "jupyter_core", "jupyter_server", "jupyterlab",
    "latex2mathml", "nbclient", "nbconvert", "nbformat", "papermill", "datasets", "tensorboard",
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
    if name.startswith(tuple(sys.argv[1:])) or name == "pkdlib.__main__":
        continue
    try:
        importlib.import_module(name)
        print(name)
    except Exception:
        failed = True
        traceback.print_exc()
sys.exit(failed)
"""


def sources() -> dict[str, str]:
    """Each module's dotted name and its source."""
    names = {path: path.relative_to(ROOT).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path.read_text() for path, parts in names.items()}


def room_of(module: str) -> str:
    first = [*module.split("."), "__init__"][1]
    return first if first in MAY_IMPORT else "core"


def imported(name: str, source: str, modules: set[str]) -> set[str]:
    """The modules of pkdlib that a module imports anywhere in it, inside functions too."""
    found = set()
    package = name if any(other.startswith(f"{name}.") for other in modules) else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            members = {f"{origin}.{alias.name}" for alias in node.names}
            # `from package import module` needs that module; any other name comes from the package itself.
            found |= members & modules
            if members - modules:
                found.add(origin)
    return found & modules


def forbidden(files: dict[str, str]) -> list[str]:
    """Every import that the rule forbids, "importer -> imported"."""
    broken = []
    for name, source in files.items():
        for other in imported(name, source, set(files)):
            ours, theirs = room_of(name), room_of(other)
            if ours != theirs and theirs not in MAY_IMPORT[ours] and other != "pkdlib":
                broken.append(f"{name} -> {other}")
    return sorted(broken)


def third_party(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"pkdlib"}


# -------------------------------------------------------------------------------------------------- the rule
def test_every_room_imports_what_it_may() -> None:
    files = sources()
    assert {room_of(name) for name in files} == MAY_IMPORT.keys()
    assert {name for name in (PACKAGE / "x").parent.glob("*.py") if name.stem not in CORE} <= {PACKAGE / "__main__.py"}
    assert forbidden(files) == []


@pytest.mark.parametrize(
    ("room", "other"),
    [pair for pair in permutations(MAY_IMPORT, 2) if pair[1] not in MAY_IMPORT[pair[0]] and pair[1] != "__main__"],
    ids="->".join,
)
def test_a_forbidden_import_is_seen(room: str, other: str) -> None:
    files = sources()
    inside = [
        next(name for name in sorted(files) if room_of(name) == one and name != "pkdlib") for one in (room, other)
    ]
    package, _, module = inside[1].rpartition(".")
    for line in (f"import {inside[1]}", f"from {package} import {module}", f"def later():\n    import {inside[1]}"):
        changed = files | {inside[0]: f"{files[inside[0]]}\n{line}\n"}
        assert forbidden(changed) == [f"{inside[0]} -> {inside[1]}"]


def test_the_core_s_third_party_imports_are_few() -> None:
    used = {
        name: third_party(source)
        for name, source in sources().items()
        if room_of(name) in ("core", "variants", "engine")
    }
    used["pkdlib.engine.metrics"] -= {"sklearn", "scipy"}  # in the functions that compute a metric of theirs
    assert {name: packages - OF_THE_CORE for name, packages in used.items() if packages - OF_THE_CORE} == {}


def test_import_graph_has_no_cycle() -> None:
    files = sources()
    graph = {name: imported(name, source, set(files)) - {"pkdlib"} for name, source in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


# -------------------------------------------------------------------------------------------------- its size
def test_every_room_is_small() -> None:
    lengths = dict.fromkeys(LINES, 0)
    for name, source in sources().items():
        room = room_of(name)
        lengths["core" if room == "__main__" else room] += source.count("\n")
    assert all(lengths[room] <= most for room, most in LINES.items()), lengths


def test_no_function_takes_more_than_eight_parameters() -> None:
    many = {}
    for name, source in sources().items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                a = node.args
                given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
                count = len([one for one in given if one.arg not in ("self", "cls")])
                if count > MOST_PARAMETERS:
                    many[f"{name}.{node.name}"] = count
    assert many == {}


# --------------------------------------------------------------------------------------- what an import costs
def test_every_module_imports_without_jupyter_and_datasets() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE, *NEED_JUPYTER], cwd=ROOT, capture_output=True, text=True)
    assert probe.returncode == 0, probe.stderr
    expected = {name for name in sources() if not name.startswith(NEED_JUPYTER)} - {"pkdlib", "pkdlib.__main__"}
    assert set(probe.stdout.split()) == expected


def test_the_configurations_cost_pydantic_alone() -> None:
    script = "import json, sys, pkdlib.config; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    packages = {name.partition(".")[0] for name in json.loads(loaded)}
    assert "pydantic" in packages
    assert not packages & {"torch", "scipy", "numpy", "pandas", "sklearn", "transformers", "accelerate", "matplotlib"}


# ------------------------------------------------------------------------------------------ the public names
def test_public_names_are_those_that_type_checkers_see() -> None:
    import pkdlib

    shown = ast.parse((PACKAGE / "__init__.pyi").read_text())
    stub = {alias.asname for node in shown.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert stub == set(pkdlib.__all__)
    origins = {
        alias.name: node.module for node in shown.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    for name in pkdlib.__all__:
        value = getattr(pkdlib, name)
        assert getattr(value, "__module__", origins[name]) == origins[name] or name in (
            "ROOT",
            "validate",
            "ConfigError",
        )
        assert name in dir(pkdlib)
    assert len(pkdlib.__all__) <= 30
    assert (PACKAGE / "py.typed").is_file()
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = pkdlib.nonsense
