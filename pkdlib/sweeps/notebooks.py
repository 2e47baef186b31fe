"""What is done with a notebook: read it, check a run's parameters by its own settings, execute it with papermill."""

import os
import sys
from contextlib import chdir
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any
from unittest.mock import Mock, patch
from warnings import catch_warnings

import nbformat
import papermill
from IPython.core.inputtransformer2 import TransformerManager
from IPython.utils.capture import capture_output
from matplotlib import rc_context
from pydantic import BaseModel, ValidationError

from pkdlib.engine.configs import complaints
from pkdlib.engine.files import ROOT, digest
from pkdlib.engine.progress import BATCH_VARIABLE

NOTEBOOKS = ROOT / "notebooks"
START = NOTEBOOKS if NOTEBOOKS.is_dir() else ROOT  # where kernels start


def run_notebook(notebook: Path, executed: Path, parameters: dict[str, Any], manager: type | None = None) -> None:
    """Execute a notebook, print what it prints, save it as far as it came; papermill's PapermillExecutionError.

    manager: a class of jupyter_client's kernel managers; by default its own, which start a new Python.
    """
    # The kernel inherits these: its own folder is another, and threads on small matrices wait for each other.
    inherited = {BATCH_VARIABLE: "1", "PKD_HOME": str(ROOT), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    options = {"progress_bar": False, "stdout_file": sys.stdout, "cwd": START}
    if manager:
        options["kernel_manager_class"] = manager
    with patch.dict(os.environ, inherited):
        papermill.execute_notebook(notebook, executed, parameters=parameters, **options)


def code_fingerprint(notebook: nbformat.NotebookNode) -> str:
    """A hash of the code: outputs that carry another one are older than their notebook."""
    return digest("\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code").encode())


@dataclass(frozen=True)
class Template:
    """A notebook that is run with many parameters."""

    path: Path
    defaults: dict[str, Any]  # its parameters cell
    fingerprint: str  # of the code
    names: dict[str, Any]  # what the cells before its parameters cell have imported and defined
    settings: list[CodeType]  # the settings cell, where there is one

    def check(self, parameters: dict[str, Any]) -> None:
        """Execute the settings cell with these parameters, in this process; ValueError with what it says of them."""
        try:
            _execute(self.settings, self.names | deepcopy(self.defaults | parameters))
        except ValidationError as error:
            raise ValueError("\n".join(complaints(BaseModel, error))) from None
        except (Exception, SystemExit) as error:
            if isinstance(error, ValueError) and str(error):  # ConfigError too
                raise
            raise ValueError(f"settings cell of {self.path.stem}: {_one_line(error)}") from None


@cache
def read_template(name: str) -> Template:
    """A notebook of the project by its name, or any by its path; ValueError when it cannot be run with parameters.

    Executes its cells up to the one tagged `parameters`. The settings cell is the one so tagged, else the next one.
    """
    named = NOTEBOOKS / Path(name).with_suffix(".ipynb")
    path = named if named.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
        raise ValueError(f"notebook = {name!r}: no such file; those of the project are {known}")
    names = {"__name__": "__main__", "display": Mock(), "get_ipython": Mock()}  # what IPython adds does nothing here
    defaults: dict[str, Any] = {}
    try:
        notebook = nbformat.read(path, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        python = TransformerManager().transform_cell  # turns magic commands into calls of get_ipython()
        sources = [compile(python(cell.source), name, "exec") for cell in cells]
        tagged = {tag: n for n in reversed(range(len(cells))) for tag in cells[n].metadata.get("tags", ())}
        if "parameters" in tagged:  # else no cell is executed
            first = tagged["parameters"]
            _execute(sources[:first], names)
            _execute(sources[first : first + 1], dict(names), defaults)
            settings = sources[tagged.get("settings", first + 1) :][:1]
    except Exception as error:  # of the notebook's own code too
        raise ValueError(f"notebook = {name!r}: cannot be run with parameters: {_one_line(error)}") from None
    if "output_dir" not in defaults:
        raise ValueError(f"notebook = {name!r}: has no cell tagged parameters with an output_dir in it")
    return Template(path.resolve(), defaults, code_fingerprint(notebook), names, settings)


def _execute(cells: list[CodeType], names: dict[str, Any], assigned: dict[str, Any] | None = None) -> None:
    """Execute cells as a kernel does, where kernels start; nothing is printed, and no setting stays changed."""
    path = patch.object(sys, "path", [str(START), *sys.path])
    with capture_output(), patch.dict(os.environ), path, catch_warnings(), rc_context(), chdir(START):
        for cell in cells:
            exec(cell, names, assigned)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
