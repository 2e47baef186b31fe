"""`make tutorial`: the main notebooks run unattended, and one HTML page of them that opens without a network.

`make notebooks` re-executes the notebooks in place, so that a reader on a code host sees every plot.
"""

import argparse
import base64
import io
import re
import time
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from PIL import Image

from pkdlib.analysis.statistics import summary
from pkdlib.analysis.tables import load_results
from pkdlib.engine.files import ROOT, RUNS, write_text
from pkdlib.engine.progress import say
from pkdlib.sweeps.notebooks import code_fingerprint, run_notebook

WIDGET = "application/vnd.jupyter.widget-view+json"
NOTEBOOKS = ("00_start_here", "01_finetune_teacher", "02_distill_last_vs_skip", "06_cls_similarity")


def drop_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without its widgets, which are blank without a kernel; a static figure stands beside each."""
    notebook.metadata.pop("widgets", None)  # a code host refuses a notebook whose widgets' state is not complete
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return notebook


def execute_in_place(path: Path) -> None:
    """Run a notebook with its own parameters and keep its outputs in it, the figures in few colours to stay small."""
    executed = RUNS / "notebooks" / path.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    run_notebook(path, executed, {})
    notebook, outputs = nbformat.read(path, as_version=4), nbformat.read(executed, as_version=4).cells
    for cell, run in zip(notebook.cells, outputs, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = run.outputs, run.execution_count
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = _few_colours(output.data["image/png"])
    drop_widgets(notebook).metadata["outputs_of_code"] = code_fingerprint(notebook)
    write_text(path, nbformat.writes(notebook) + "\n")


def _few_colours(png: str) -> str:
    small = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def write_page(notebooks: list[Path], path: Path, title: str) -> None:
    """One self-contained HTML page: figures inside it, equations as MathML, nothing fetched when it is opened."""
    cells = [cell for notebook in notebooks for cell in drop_widgets(nbformat.read(notebook, as_version=4)).cells]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # each notebook numbers its own
        if cell.cell_type == "markdown":
            cell.source = _mathml(cell.source)
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jupyter_widgets_base_url="", exclude_input_prompt=True)
    page, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=cells), {"metadata": {"name": title}})
    write_text(path, page)


def _mathml(source: str) -> str:
    source = re.sub(r"\$\$(.+?)\$\$", lambda found: convert(found[1], display="block"), source, flags=re.DOTALL)
    return re.sub(r"\$([^$\n]+?)\$", lambda found: convert(found[1]), source)


def main(out: Path = RUNS / "tutorial") -> None:
    """Run the tutorial into `out`; print the comparison table and where the page is."""
    out.mkdir(parents=True, exist_ok=True)
    folders = {"teacher": out / "teacher", "students": out / "students"}
    parameters = (
        {"output_dir": str(out / "start")},
        {"output_dir": str(folders["teacher"])},
        {"teacher_dir": str(folders["teacher"]), "output_dir": str(folders["students"])},
        {
            "model_a": str(folders["teacher"]),
            "model_b": str(folders["students"] / "PKD-Skip-6-layers-seed-0"),
            "students_dir": str(folders["students"]),
            "output_dir": str(out / "similarity"),
        },
    )
    started, executed = time.perf_counter(), []
    for number, (name, values) in enumerate(zip(NOTEBOOKS, parameters, strict=True), start=1):
        say(f"[{number}/{len(NOTEBOOKS)}] {name}")
        begun = time.perf_counter()
        executed.append(out / f"{name}.ipynb")
        run_notebook(ROOT / "notebooks" / executed[-1].name, executed[-1], values)
        say(f"[{number}/{len(NOTEBOOKS)}] {name}: done in {time.perf_counter() - begun:.0f} s")
    page = out / "index.html"
    write_page(executed, page, "The PKD tutorial")
    scores = summary(load_results(folders["students"]), "test_accuracy", ["num_hidden_layers", "method"])
    teacher = load_results(folders["teacher"])["test_accuracy"].item()
    say(f"\nTest accuracy, percent (teacher {100 * teacher:.1f}):")
    table = (100 * scores.pivot(index="method", columns="num_hidden_layers", values="mean")).round(1)
    say(table.rename_axis(columns="student layers").to_string())
    say(f"\n{time.perf_counter() - started:.0f} s. The page: {page}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-place", action="store_true", help="re-execute the notebooks themselves instead")
    if parser.parse_args().in_place:
        for notebook_path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            say(notebook_path.name)
            execute_in_place(notebook_path)
    else:
        main()
