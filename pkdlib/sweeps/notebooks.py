"""What is done with a notebook: read its parameters and its code, run it with papermill."""

import ast
import os
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
import papermill

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


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def code_fingerprint(notebook: nbformat.NotebookNode) -> str:
    """A hash of the code: outputs that carry another one are older than their notebook."""
    return sha256("\0".join(code_of(notebook)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Template:
    """A notebook that is run with many parameters."""

    path: Path
    defaults: dict[str, Any]  # its parameters cell
    code: str
    fingerprint: str  # of the code

    @property
    def name(self) -> str:
        return self.path.stem


def read_template(name: str | Path) -> Template:
    """A notebook of the project by its name, or any by its path; ValueError when it cannot be run with parameters."""
    named = NOTEBOOKS / Path(name).with_suffix(".ipynb")
    path = named if named.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in NOTEBOOKS.glob("*.ipynb")))
        raise ValueError(f"notebook = {str(name)!r}: no such file; those of the project are {known}")
    try:
        notebook = nbformat.read(path, as_version=4)
        parameters = papermill.inspect_notebook(path)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"notebook = {str(name)!r}: no notebook: {str(error).splitlines()[0]}") from None
    if "output_dir" not in parameters:
        raise ValueError(f"notebook = {str(name)!r}: has no cell tagged parameters with an output_dir in it")
    defaults = {name: ast.literal_eval(found["default"]) for name, found in parameters.items()}
    return Template(path.resolve(), defaults, "\n".join(code_of(notebook)), code_fingerprint(notebook))
