"""The tutorial: the main notebooks run unattended, and one HTML page of them that opens without a network."""

import base64
import io
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
from nbformat import NotebookNode
from PIL import Image

from pkdlib.analysis import figures
from pkdlib.analysis.statistics import decide, paired_difference, smallest_difference, verdict
from pkdlib.analysis.tables import results_frame
from pkdlib.engine.checks import check_folder
from pkdlib.engine.files import ROOT, RUNS, write_text
from pkdlib.engine.progress import say
from pkdlib.readers.records import load_records
from pkdlib.records import RunRecord
from pkdlib.reports import pages
from pkdlib.sweeps.notebooks import code_fingerprint, run_notebook

FIVE = {"student_layers": [3], "seeds": [0, 1, 2, 3, 4]}
NOTEBOOKS = {  # with their parameters: texts are paths in the tutorial's folder
    "00_start_here": {"output_dir": "start"},
    "01_finetune_teacher": {"output_dir": "teacher"},
    "02_distill_last_vs_skip": {"teacher_dir": "teacher", "output_dir": "students", **FIVE},
    "06_cls_similarity": {"model_a": "teacher", "model_b": "students/PKD-Skip-3-layers-seed-0",
                          "students_dir": "students", "output_dir": "similarity"},
}  # fmt: skip
AGAIN = "02_from_random_weights"  # notebook 02 with students that need more epochs, and that patience must carry
RANDOM = FIVE | {"init": "random", "methods": ["FT", "KD", "PKD-Skip"], "num_train_epochs": 12}
RANDOM |= {"alpha": 0.9, "beta": 3.0}  # tuned on other rows: data/results/study/tuning.jsonl
METHODS = f"""Test accuracy of the students, percent. FT learns from labels alone, KD from the teacher's answers too,
PKD also from the states of its layers: of every other one or so (Skip), or of the last ones (Last). They start from the
pre-trained first layers, as in the paper; in the second panel, from random weights, with {RANDOM["num_train_epochs"]}
epochs, alpha {RANDOM["alpha"]:g} and beta {RANDOM["beta"]:g}, tuned on other rows (`{AGAIN}.ipynb`). A grey line is a
seed."""


def find_course() -> list[Path]:
    """The course's notebooks; FileNotFoundError says where they are looked for."""
    course = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not course or not (ROOT / "data").is_dir():
        needs = "the course's notebooks and data are not there: run this in a checkout, or set PKD_HOME to one"
        raise FileNotFoundError(f"{ROOT}: {needs}")
    return course


def execute_course() -> None:
    """Execute every notebook of the course in place, with its own parameters; figures in few colours stay small."""
    (RUNS / "notebooks").mkdir(parents=True, exist_ok=True)
    for path in find_course():
        say(path.name)
        executed = RUNS / "notebooks" / path.name
        run_notebook(path, executed, {})
        notebook, cells = nbformat.read(path, as_version=4), nbformat.read(executed, as_version=4).cells
        for cell, run in zip(notebook.cells, cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = run.outputs, run.execution_count
        for output in _figures(notebook.cells):
            small, png = io.BytesIO(), io.BytesIO(base64.b64decode(output.data["image/png"]))
            Image.open(png).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
            output.data["image/png"] = base64.b64encode(small.getvalue()).decode()
        pages.drop_widgets(notebook).metadata["outputs_of_code"] = code_fingerprint(notebook)
        write_text(path, nbformat.writes(notebook) + "\n")


def _figures(cells: Sequence[NotebookNode]) -> list[NotebookNode]:
    return [output for cell in cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]


def write_page(notebooks: Sequence[Path], path: Path, title: str, opening: str = "") -> None:
    """One self-contained HTML page: the title, the opening (Markdown), contents, and each notebook folded below."""
    contents, cells = f"# {title}\n\n{opening}\n\n## Contents\n\n", []
    for notebook in notebooks:
        own = pages.drop_widgets(nbformat.read(notebook, as_version=4)).cells
        name = own[0].source.partition("\n")[0].lstrip("# ")
        contents += f"- [{name}](#{notebook.stem})\n"
        own[0].metadata |= {"section_title": name, "section_id": notebook.stem}
        own[-1].metadata["section_end"] = True
        _detach(own)
        cells += own
    whole = nbformat.v4.new_notebook()
    whole.cells = [nbformat.v4.new_markdown_cell(contents), *cells]
    pages.write_page(whole, path, title)


def _detach(cells: Sequence[NotebookNode]) -> None:
    """Give each figure an alternative text: heading, labels of axes, what is drawn; links to other files go."""
    heading = ""
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\[([^]]+)\]\((?!#|https?:)[^)\s]+\)", r"\1", cell.source)
            heading = next(iter(re.findall(r"^#+ (.+)", cell.source, re.MULTILINE)), heading)
        labels = ", ".join(re.findall(r'(?:title|label)=f?"([^"{}]+)"', cell.source))
        drawn = dict.fromkeys(re.findall(r"\bfigures\.(plot_\w+)", cell.source))
        texts = [getattr(figures, name).__doc__.partition("\n")[0].replace("`", "") for name in drawn]
        for output in _figures([cell]):
            output.metadata["image/png"] = {"alt": ". ".join(filter(None, [heading, labels, *texts]))}


def what_was_seen(teacher: RunRecord, students: Sequence[RunRecord]) -> tuple[str, pd.DataFrame]:
    """Two sentences on the test accuracies, and these in percent: a row per method, a column per number of layers."""
    table = 100 * results_frame(students).pivot_table("test_accuracy", "method", "num_hidden_layers")
    scores, ahead = [], []
    for size, column in table.sort_index(axis=1, ascending=False).items():
        scores.append(f"with {size} layers " + ", ".join(f"{name} {value:.1f}" for name, value in column.items()))
        ahead.append(f"{column['PKD-Skip'] - column['PKD-Last']:+z.1f} with {size} layers")
    best, rows = 100 * teacher.metrics["test"]["accuracy"], teacher.eval_rows["test"]
    seeds = len({student.seed for student in students})
    return (
        f"The teacher of {teacher.config['num_hidden_layers']} layers is right on {best:.1f} % of the {rows} test rows "
        f"of {teacher.task}; its students reach, in percent, {'; '.join(scores)}. Skip minus Last is, in points, "
        f"{', '.join(ahead)}, over {seeds} seed{'s' * (seeds != 1)}, where less than "
        f"{100 * smallest_difference(rows):.2g} points between two runs can be chance of the rows alone."
    ), table.round(1)


def compare_starts(starts: Mapping[str, Sequence[RunRecord]]) -> list[str]:
    """A sentence for each start, by its name, on Skip against KD of its students; one seed decides nothing."""
    frames = [results_frame(students) for students in starts.values()]
    table = decide(pd.DataFrame(paired_difference(frame, "test_accuracy", "PKD-Skip", "KD") for frame in frames))
    sentences = []
    for (start, students), row in zip(starts.items(), table.to_dict("records"), strict=True):
        said = f"{verdict(row)} ({row['pairs']} seeds)"
        if row["pairs"] == 1:  # no interval
            near = abs(row["difference"]) < smallest_difference(students[0].eval_rows["test"])
            said = f"PKD-Skip against KD is not decided by one seed: {100 * row['difference']:+z.1f} points"
            said += ", less than so many rows can tell apart" * near
        sentences.append(f"From {start}, {said}.")
    return sentences


def plot_starts(starts: Mapping[str, Sequence[RunRecord]], teacher: float) -> str:
    """An <img>: test accuracy by method, a panel for each start, a line for each seed, the teacher dashed."""
    figure, axes = plt.subplots(1, len(starts), figsize=(8, 3.4), sharey=True, layout="constrained")
    for (start, students), ax in zip(starts.items(), axes, strict=True):
        figures.plot_comparison(results_frame(students), "test_accuracy", ax, teacher)
        ax.set(title=f"from {start}", ylim=(0.45, 1))
    figure.savefig(png := io.BytesIO(), format="png", dpi=100)
    plt.close(figure)
    told = f"Test accuracy by method, a line for each seed, from {' and from '.join(starts)}; the teacher dashed"
    return f'<img alt="{told}" src="data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}">'


def run_tutorial(out: Path | None = None) -> None:
    """Run the tutorial into `out` (runs/tutorial); print what its two starts say and where the page is."""
    course = {path.stem: path for path in find_course()}
    out = check_folder("out", (out or RUNS / "tutorial").resolve())
    started = time.perf_counter()
    with ProcessPoolExecutor(1, get_context("spawn"), redirect_stdout(None).__enter__) as silent:  # another core
        for number, (name, given) in enumerate(NOTEBOOKS.items(), start=1):
            where, begun, notebook = f"[{number}/{len(NOTEBOOKS)}] {name}", time.perf_counter(), course[name]
            say(where)
            parameters = {key: str(out / value) if isinstance(value, str) else value for key, value in given.items()}
            if name.startswith("02"):
                changed = parameters | RANDOM | {"output_dir": str(out / "random")}
                again = silent.submit(run_notebook, notebook, out / f"{AGAIN}.ipynb", changed)
            run_notebook(notebook, out / f"{name}.ipynb", parameters)
            say(f"{where}: done in {time.perf_counter() - begun:.0f} s")
        again.result()
    (record,), students, others = (load_records(out / folder) for folder in ("teacher", "students", "random"))
    page, starts = out / "index.html", {"the pre-trained first layers": students, "random weights": others}
    seen, table = what_was_seen(record, students)
    sentences, figure = compare_starts(starts), plot_starts(starts, record.metrics["test"]["accuracy"])
    shown = table.rename(columns="{} layers".format).to_html(border=0, index_names=False)
    opening = "\n\n".join([seen, shown, METHODS, figure, *sentences])
    write_page([out / f"{name}.ipynb" for name in NOTEBOOKS], page, "The PKD tutorial", opening)
    say("\n".join(["", table.rename_axis(columns="test accuracy, percent").to_string(), "", seen, *sentences]))
    say(f"\n{time.perf_counter() - started:.0f} s. The page: {page}")
