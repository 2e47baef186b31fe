"""What is done with a notebook: read it, check a run's parameters by its own settings, execute it with papermill."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from types import CodeType
from typing import Any

import matplotlib
import nbformat
import papermill
from IPython.core.inputtransformer2 import TransformerManager
from pydantic import BaseModel, ValidationError

from pkdlib.engine.complaints import complaints
from pkdlib.engine.files import ROOT
from pkdlib.engine.progress import BATCH_VARIABLE

NOTEBOOKS = ROOT / "notebooks"


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
    settings: tuple[CodeType, ...]  # the settings cell

    @property
    def name(self) -> str:
        return self.path.stem

    def check(self, parameters: dict[str, Any]) -> None:
        """Execute the settings cell with these parameters, in this process; ValueError with what it says of them."""
        try:
            with _as_in_a_kernel():
                _execute(self.settings, self.names | deepcopy(self.defaults | parameters))
        except ValidationError as error:
            raise ValueError("\n".join(complaints(BaseModel, error))) from None
        except (Exception, SystemExit) as error:
            if isinstance(error, ValueError) and str(error):  # ConfigError too
                raise
            raise ValueError(f"settings cell of {self.name}: {_one_line(error)}") from None


def read_template(name: str | Path) -> Template:
    """A notebook of the project by its name, or any by its path; ValueError when it cannot be run with parameters.

    The cells before the one tagged `parameters` are executed in this process. The settings cell is the one tagged
    `settings`, else the first one after the parameters; it checks them and derives from them, and reads nothing.
    """
    named = NOTEBOOKS / Path(name).with_suffix(".ipynb")
    path = named if named.is_file() else Path(name)
    here = f"notebook = {str(name)!r}"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
        raise ValueError(f"{here}: no such file; those of the project are {known}")
    try:
        notebook = nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{here}: no notebook: {str(error).splitlines()[0]}") from None
    cells = _code_cells(notebook)
    first, *_ = [*_tagged(cells, "parameters"), None]
    names = {"__name__": "__main__", "get_ipython": _Nothing(), "display": _Nothing()}
    defaults: dict[str, Any] = {}
    if first is not None:
        after, *_ = [*_tagged(cells, "settings"), first + 1]
        try:
            settings = _compiled(cells[after : after + 1])
            with _as_in_a_kernel():
                _execute(_compiled(cells[:first]), names)
                _execute(_compiled(cells[first : first + 1]), dict(names), defaults)
        except Exception as error:
            raise ValueError(f"{here}: its first cells: {_one_line(error)}") from None
    if "output_dir" not in defaults:
        raise ValueError(f"{here}: has no cell tagged parameters with an output_dir in it")
    return Template(path.resolve(), defaults, code_fingerprint(notebook), names, settings)


class _Nothing:
    """Stands for what IPython adds to a notebook's names: takes any call, and does nothing."""

    def __getattr__(self, name: str) -> "_Nothing":
        return self

    def __call__(self, *arguments: Any, **options: Any) -> "_Nothing":
        return self


def _code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _tagged(cells: list[nbformat.NotebookNode], tag: str) -> list[int]:
    return [number for number, cell in enumerate(cells) if tag in cell.metadata.get("tags", ())]


def _compiled(cells: list[nbformat.NotebookNode]) -> tuple[CodeType, ...]:
    python = TransformerManager().transform_cell  # turns magic commands into calls of get_ipython()
    return tuple(compile(python(cell.source), "<notebook>", "exec") for cell in cells)


def _execute(codes: tuple[CodeType, ...], names: dict[str, Any], assigned: dict[str, Any] | None = None) -> None:
    for code in codes:
        exec(code, names, assigned)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


@contextmanager
def _as_in_a_kernel() -> Iterator[None]:
    """In the notebooks' folder, prints going nowhere; environment and matplotlib's settings are put back after it."""
    environment, searched = dict(os.environ), list(sys.path)
    with (
        redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings(), matplotlib.rc_context(),
        chdir(NOTEBOOKS),
    ):  # fmt: skip
        sys.path.insert(0, str(NOTEBOOKS))
        try:
            yield
        finally:
            sys.path[:] = searched
            if environment != dict(os.environ):
                os.environ.clear()
                os.environ.update(environment)
