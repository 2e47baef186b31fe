"""What is done with a notebook: read it, check a run's parameters by its own settings, execute it with papermill."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from io import StringIO
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Annotated, Any
from unittest.mock import patch  # restores what a cell changes

import matplotlib
import nbformat
import papermill
from IPython.core.inputtransformer2 import TransformerManager
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model

from pkdlib.engine.complaints import complaints
from pkdlib.engine.files import ROOT
from pkdlib.engine.progress import BATCH_VARIABLE

NOTEBOOKS = ROOT / "notebooks"


def _nothing(*arguments: Any, **options: Any) -> None:
    """Takes any call: stands for what IPython adds to a notebook's names."""


_SHELL = SimpleNamespace(run_line_magic=_nothing, run_cell_magic=_nothing, system=_nothing, getoutput=_nothing)


def run_notebook(notebook: Path, executed: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook with papermill; what its cells print is passed on as it comes.

    Raises papermill's PapermillExecutionError with the cell's own traceback; `executed` is saved as far as it came.
    """
    os.environ[BATCH_VARIABLE] = "1"  # the kernel inherits both
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # on a busy machine, threads on small matrices wait for each other
    papermill.execute_notebook(
        notebook, executed, parameters=parameters, progress_bar=False, stdout_file=sys.stdout, cwd=NOTEBOOKS
    )


def code_fingerprint(notebook: nbformat.NotebookNode) -> str:
    """A hash of the code: outputs that carry another one are older than their notebook."""
    return sha256("\0".join(cell.source for cell in _code_cells(notebook)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Template:
    """A notebook that is run with many parameters."""

    path: Path
    defaults: dict[str, Any]  # its parameters cell
    fingerprint: str  # of the code
    names: dict[str, Any]  # what the cells before its parameters cell have imported and defined
    settings: CodeType  # the settings cell
    types: type[BaseModel]  # the parameters with their defaults' types, without output_dir

    @property
    def name(self) -> str:
        return self.path.stem

    def typed(self, values: dict[str, Any]) -> dict[str, Any]:
        """All parameters but output_dir, these values among them; ValueError with a line for each of another type."""
        if "output_dir" in values:
            raise ValueError("output_dir: every run has a folder of its own; leave it out")
        try:
            return self.types(**values).model_dump()
        except ValidationError as error:
            lines = complaints(self.types, error)
            for number, entry in enumerate(error.errors()):
                if entry["type"] == "extra_forbidden":  # one line, whatever its values
                    hint = lines[number].rpartition(";")[2]
                    lines[number] = f"{entry['loc'][0]}: unknown parameter of {self.name};{hint}"
                elif entry["type"] in ("int_type", "float_type") and isinstance(entry["input"], str):
                    lines[number] += ", not text: leave the quotes out"
            raise ValueError("\n".join(lines)) from None

    def check(self, parameters: dict[str, Any]) -> None:
        """Execute the settings cell with these parameters, in this process; ValueError with what it says of them."""
        try:
            with _as_in_a_kernel():
                exec(self.settings, self.names | deepcopy(self.defaults | parameters))
        except ValidationError as error:
            raise ValueError("\n".join(complaints(BaseModel, error))) from None
        except (Exception, SystemExit) as error:
            if isinstance(error, ValueError) and str(error):  # ConfigError too
                raise
            raise ValueError(f"settings cell of {self.name}: {_one_line(error)}") from None


@cache
def read_template(name: str | Path) -> Template:
    """A notebook of the project by its name, or any by its path; ValueError when it cannot be run with parameters.

    The cells before the one tagged `parameters` are executed in this process. The settings cell is the one tagged
    `settings`, else the first one after the parameters; it checks them and derives from them, and reads nothing.
    """
    named = NOTEBOOKS / Path(name).with_suffix(".ipynb")
    path = named if named.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
        raise ValueError(f"notebook = {str(name)!r}: no such file; those of the project are {known}")
    try:
        notebook = nbformat.read(path, as_version=4)
        before, parameters, settings = _parts(_code_cells(notebook))
        names = {"__name__": "__main__", "display": _nothing, "get_ipython": lambda: _SHELL}
        defaults: dict[str, Any] = {}
        with _as_in_a_kernel():
            for code in before:
                exec(code, names)
            exec(parameters, dict(names), defaults)
        if "output_dir" not in defaults:
            raise ValueError("no output_dir in its cell tagged parameters")
    except Exception as error:  # of the notebook's own code too
        raise ValueError(f"notebook = {str(name)!r}: cannot be run with parameters: {_one_line(error)}") from None
    return Template(path.resolve(), defaults, code_fingerprint(notebook), names, settings, _types(path.stem, defaults))


def _code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _parts(cells: list[nbformat.NotebookNode]) -> tuple[list[CodeType], CodeType, CodeType]:
    """The cells before the parameters cell, that cell, and the settings cell; ValueError where none is tagged."""

    def tagged(tag: str) -> list[int]:
        return [number for number, cell in enumerate(cells) if tag in cell.metadata.get("tags", ())]

    if not tagged("parameters"):
        raise ValueError("no cell tagged parameters")
    first = tagged("parameters")[0]
    after = (tagged("settings") or [first + 1])[0]
    python = TransformerManager().transform_cell  # turns magic commands into calls of get_ipython()
    sources = [*(cell.source for cell in cells[: first + 1]), "".join(cell.source for cell in cells[after : after + 1])]
    *before, parameters, settings = [compile(python(source), "<notebook>", "exec") for source in sources]
    return before, parameters, settings


def _types(name: str, defaults: dict[str, Any]) -> type[BaseModel]:
    """A model of the parameters but output_dir: of their defaults' types, where one element of a list is a list."""

    def field(default: Any) -> tuple[Any, Any]:
        if isinstance(default, list):
            kind = type(default[0]) if default else Any
            as_list = BeforeValidator(lambda value: value if isinstance(value, list) else [value])
            return Annotated[list[kind], as_list], default
        return Any if default is None else type(default), default

    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    fields = {name: field(default) for name, default in defaults.items() if name != "output_dir"}
    return create_model(name, __config__=config, **fields)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


@contextmanager
def _as_in_a_kernel() -> Iterator[None]:
    """In the notebooks' folder, prints going nowhere; environment and matplotlib's settings are put back after it."""
    with (
        redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings(), matplotlib.rc_context(),
        chdir(NOTEBOOKS), patch.dict(os.environ), patch.object(sys, "path", [str(NOTEBOOKS), *sys.path]),
    ):  # fmt: skip
        yield
