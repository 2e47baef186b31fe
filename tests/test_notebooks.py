"""The notebooks keep to their template and run, small, from the first cell to the last."""

import ast
import base64
import json
import re
import shlex
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers import (
    FEW_ROWS,
    bert_config,
    make_record,
    noisy_copy,
    permuted,
    save_backbone,
    save_hub_dataset,
    save_model,
    small_data,
    small_parameters,
)
from papermill.cli import _resolve_type as parse_scalar
from papermill.exceptions import PapermillExecutionError
from ruamel.yaml import YAML

from pkdlib import ROOT
from pkdlib.__main__ import main
from pkdlib.analysis import statistics
from pkdlib.analysis.paper import paper_table
from pkdlib.analysis.similarity import SIMILARITIES
from pkdlib.analysis.tables import load_results
from pkdlib.config import ConfigError, DistillConfig, FineTuneConfig, method_config, validate
from pkdlib.data import encode_task
from pkdlib.models import load_backbone, load_tokenizer
from pkdlib.readers.own import OWN
from pkdlib.readers.records import load_records, save_records
from pkdlib.readers.sources import load_task
from pkdlib.reports.pages import WIDGET, drop_widgets
from pkdlib.reports.tutorial import write_page
from pkdlib.sweeps.notebooks import code_fingerprint, read_template, run_notebook
from pkdlib.tasks import METRICS, TASKS
from pkdlib.training import fine_tune

COURSE = ROOT / "notebooks"
NOTEBOOKS = sorted(COURSE.glob("*.ipynb"))
DEBIASED = (  # CKA by the HSIC of Song et al. (2012), of x and y
    "lambda x, y: (h := lambda K, L: (K * L).sum() + K.sum() * L.sum() / ((len(K) - 1) * (len(K) - 2))"
    " - 2 * (K @ L).sum() / (len(K) - 2), K := off(x @ x.T), L := off(y @ y.T),"
    " h(K, L) / (h(K, K) * h(L, L)) ** 0.5)[-1]"
)
DIVERGENCE = "lambda s, t, T: T**2 * ((p := (t / T).softmax(-1)) * (p.log() - (s / T).log_softmax(-1)))"
# exercise -> (right answer, wrong answers, each alone or with what its hint says), evaluated in the notebook itself
ANSWERS = {
    "00_start_here": {
        "answer_1": (
            "[2, 4, 6, 8, 10]",
            ("[2, 4, 6, 8, 10, 12]", "follows none"),
            ("[7, 8, 9, 10, 11]", "Last"),
            "[]",
        ),
        "answer_2": ("1", ("0", "the factor of the labels' term"), "0.5"),
        "answer_3": ("'FT'", ("'PKD-Skip'", "recorded losses")),
    },
    "01_finetune_teacher": {
        "answer_1": (
            "float(torch.tensor(2.0).log())",
            ("0.5", "that is the probability"),
            ("-0.6931", "mind the sign"),
            "2",
        ),
        "answer_2": ("history['dev_accuracy'].max() - history['dev_accuracy'].iloc[-1]", "0.4"),
        "answer_3": (
            "int(kept.argmin()) + 1",
            ("int(kept.argmin())", "count from 1"),
            ("int(kept.argmax()) + 1", "moved least"),
            "99",
        ),
        "answer_4": ("9", ("2", "recorded")),
    },
    "02_distill_last_vs_skip": {
        "answer_1": (
            "lambda N, k: [N * j // k for j in range(1, k)]",
            ("lambda N, k: [N * j // k for j in range(1, k + 1)]", "matched with none"),
            ("lambda N, k: list(range(N - k + 1, N))", "Last's"),
            ("lambda N, k: [N // k * j for j in range(1, k)]", "multiply before"),
            "lambda N, k: []",
        ),
        "answer_2": (
            "100 * decided['tuned']['detectable'][2]",
            ("decided['tuned']['detectable'][2]", "percentage points"),
            ("-0.36", "was seen"),
            ("-0.76", "end of the interval"),
            "5",
        ),
    },
    "03_inside_the_loss": {
        "answer_1": (
            "lambda student, theirs: pkdlib.patience_loss(student, theirs)",
            ("lambda student, theirs: (student - theirs).pow(2).sum((1, 2)).mean()", "not normalised"),
            "lambda student, theirs: 0",
        ),
        "answer_2": ("[10.0]", ("[3, 10]", "some by luck"), "[0.1]"),
    },
    "04_better_teacher": {
        "answer_1": (
            "lambda s, t, W: (unit(s @ W.T, dim=-1) - unit(t, dim=-1)).square().sum(dim=(1, 2)).mean()",
            (
                "lambda s, t, W: (unit(s, dim=-1) @ W.T - unit(t, dim=-1)).square().sum(dim=(1, 2)).mean()",
                "comes first",
            ),
            "lambda s, t, W: 0.0",
        ),
        "answer_2": ("7 * 0.02", ("0.02", "the smallest of seven"), "0.2"),
    },
    "05_speed_benchmark": {
        "answer_1": ("1 / 21", ("1 - 3.5 / 4", "of the limit"), "2"),
        "answer_2": ("4", ("6", "the embedding"), "5"),
        "answer_3": (
            "lambda N, k: (N - 5 / 6) / (k - 5 / 6)",
            ("lambda N, k: N / (k - 5 / 6)", "does less work too"),
            "lambda N, k: N / k",
        ),
    },
    "06_cls_similarity": {
        "answer_1": (
            DEBIASED,
            ("lambda x, y: similarity.linear_cka(x[:, None], y[:, None], debiased=False)", "biased"),
            ("lambda x, y: bare(x @ x.T, y @ y.T)", "not centred"),
            ("lambda x, y: bare(off(x @ x.T), off(y @ y.T))", "two other terms"),
            "lambda x, y: 0.5",
        ),
        "answer_2": ("['b']", ("['a', 'b']", "rotation"), ("['c']", "not accuracy"), ("['d']", "no such term"), "[]"),
    },
    "07_when_patience_pays": {
        "answer_1": ("2", ("35", "independent"), ("8", "of teachers"), ("3", "lost to the mean"), "1"),
        "answer_2": ("[]", ("[0.02, 0.03]", "before the correction"), "[0.2]"),
        "answer_3": (
            "lambda n, k: [j * n // k for j in range(k - 1, 0, -1)]",
            ("lambda n, k: [j * n // k for j in range(1, k)]", "Skip itself"),
            "lambda n, k: list(range(n - 1, n - k, -1))",
        ),
    },
    "08_reproduce_the_paper": {
        "answer_1": (
            f"{DIVERGENCE}.mean()",
            (f"{DIVERGENCE}.sum(dim=-1).mean()", "over the classes too"),
            "lambda *of: 0.0",
        ),
        "answer_2": ("(2, False)", ("(2, True)", "so few coins"), "(3, False)"),
    },
    "09_your_own_classifier": {
        "answer_1": (
            "lambda y, p: np.mean([2 * (p[y == c] == c).sum() / ((p == c).sum() + (y == c).sum()) for c in set(y)])",
            ("lambda y, p: (y == p).mean()", "it is the accuracy"),
            "lambda y, p: 0.0",
        ),
        "answer_2": (
            "lambda a, b: statistics.stats.binomtest(a, a + b).pvalue",
            ("lambda a, b: statistics.stats.binomtest(max(a, b), a + b, alternative='greater').pvalue", "other side"),
            "lambda a, b: 0.5",
        ),
    },
    "10_beyond_the_paper": {
        "answer_1": (
            "lambda s, t: 1 - torch.cosine_similarity(s, t, dim=-1)",
            ("lambda s, t: torch.cosine_similarity(s, t, dim=-1)", "largest where states agree"),
            "lambda s, t: torch.zeros(())",
        ),
        "answer_2": (
            "['relation', 'cka']",
            ("['relation', 'cka', 'cosine']", "not one"),
            "['cka']",
        ),
        "answer_3": ("75", ("30", "by size"), ("150", "half of all"), "9"),
    },
}

# What a teacher without a record needs: five more in each notebook that reads one.
TAUGHT = ("task", "source", "train_rows", "max_length", "backbone")
# And for rows of one's own: the same in each notebook that reads them.
OWN_ROWS = (*OWN, "unlabelled", "class_weights")
LOGGED = "log_with"  # asks nothing of the runs, which a tracker only watches
PLACES = {"teacher_dir", "large_teacher_dir", "students_dir", "output_dir", "model_a", "model_b", "backbone",
          "large_backbone", "source", "texts", "sizes", "unlabelled", "held_out", "new_rows"}  # fmt: skip
# notebook, parameter, bad value, the line that says so
BAD_VALUES = [
    ("00", "student_layers", 1, "student_layers = 1: must be greater than or equal to 2"),
    ("00", "student_layers", 13, "student_layers = 13: must be less than or equal to 12"),
    ("00", "task", "sst", f"task = 'sst': must be one of {', '.join(TASKS)}"),
    ("00", "task", "stsb", "task = 'stsb': must be a task of classes, not of values"),
    ("08", "task", "stsb", "task = 'stsb': must be a task of classes, not of values"),
    ("00", "student_epochs", 0, "student_epochs = 0: must be greater than or equal to 1"),
    ("00", "train_rows", -1, "train_rows = -1: must be greater than or equal to 0"),
    ("01", "max_length", 7, "max_length = 7: must be greater than or equal to 8"),
    ("01", "output_dir", "", "output_dir = '': must name a folder"),
    ("01", "output_dir", "README.md", "output_dir = 'README.md': must be a folder, not a file"),
    ("01", "output_dir", "README.md/a", "output_dir = 'README.md/a': must name a folder of its own, not below a file"),
    ("01", "output_dir", "notebooks/..",
     "output_dir = 'notebooks/..': must name a folder of its own, not below a file"),
    ("01", "backbone", "", "backbone = '': must name a folder or a model of the hub"),
    ("01", "seed", True, "seed = True: must not be True or False"),
    ("01", "train_batch_size", 10**30, f"train_batch_size = {10**30}: must be at most 4294967296"),
    ("02", "seeds", [0, True], "seeds = [0, True]: must not be True or False"),
    ("02", "seeds", [0, 0], "seeds = [0, 0]: must not repeat"),
    ("02", "task", "sst", f"task = 'sst': must be one of {', '.join(TASKS)}, custom, or empty"),
    ("02", "max_length", 7, "max_length = 7: must be at least 8, or 0"),
    ("02", "teacher_dir", None, "teacher_dir = None: must be a valid string"),
    ("02", "alpha", 7, "alpha = 7: must be less than or equal to 1"),
    ("02", "dropout_epochs", -1, "dropout_epochs = -1: must be greater than or equal to 0"),
    (
        "02", "student_layers", [6, 1],
        "methods = ['FT', 'KD', 'PKD-Skip', 'PKD-Last']: "
        "a student of one layer has no layer to match; it can learn by FT and KD alone",
    ),
    ("02", "teacher_dir", "", "teacher_dir = '': must name a folder"),
    ("03", "batch_rows", 0, "batch_rows = 0: must be greater than or equal to 1"),
    ("03", "student_layers", 1, "student_layers = 1: must be greater than or equal to 2"),
    ("04", "student_layers", 1, "student_layers = 1: must be greater than or equal to 2"),
    ("04", "teacher_epochs", 0, "teacher_epochs = 0: must be greater than or equal to 1"),
    ("04", "large_backbone", "", "large_backbone = '': must name a folder or a model of the hub"),
    ("05", "hidden_size", 64 * 10**6, "hidden_size = 64000000: must be less than or equal to 8192"),
    ("05", "layers", [12, 129], "layers = [12, 129]: must be numbers of layers up to 128"),
    ("06", "texts", "a\0b", "texts = 'a\\x00b': must be a text of printable characters, not blank"),
    ("07", "sources", ["a", "a"], "sources = ['a', 'a']: must not repeat"),
    ("07", "student_layers", 0, "student_layers = 0: must be greater than or equal to 1"),
    ("05", "precision", "fp12", "precision = 'fp12': must be 'auto', 'fp32', 'bf16' or 'fp16'"),
    ("06", "metric", "ckaa", "metric = 'ckaa': must be one of centered_cosine, cosine, cka, rsa"),
    ("06", "students_dir", 3, "students_dir = 3: must be a valid string"),
    (
        "07", "metric", "nonsense",
        "metric = 'nonsense': must be one of "
        + ", ".join(f"{split}_{name}" for split in ("dev", "test") for name in (*METRICS, "loss")),
    ),
    ("07", "sizes", "", "sizes = '': must name a folder or a file"),
    ("01", "label_column", "topic", "label_column = 'topic': must be empty unless task is custom"),
    ("02", "text_columns", ["a", "b"], "text_columns = ['a', 'b']: must be empty unless task is custom"),
    (
        "01", "class_weights", [1, -1],
        "class_weights = [1, -1]: must be balanced, or a list of a positive number for each class",
    ),
    ("08", "dev_fraction", 1.0, "dev_fraction = 1.0: must be less than 1"),
    ("09", "metrics", ["pearson"], "metrics = ['pearson']: must be scores of classes"),
    ("09", "task", "stsb", "task = 'stsb': must be a task of classes, not of values"),
    ("09", "student_layers", 1, "student_layers = 1: must be greater than or equal to 2"),
    ("10", "train_rows", [8], "train_rows = [8]: must be empty, or a number for each task"),
    ("10", "sampling", "rows", "sampling = 'rows': must be 'size' or 'sqrt'"),
    ("10", "tasks", ["sst"], f"tasks = 'sst': must be one of {', '.join(TASKS)}"),
    ("08", "learning_rate_scale", 1e6, "learning_rate_scale = 1000000.0: must be less than or equal to 20000"),
    ("08", "teacher_dir", 0, "teacher_dir = 0: must be a valid string"),
    (
        "08", "student_layers", [4],
        "task = 'sst2', num_hidden_layers = 4: the authors' settings are for mnli 3, mnli 6, mrpc 3, mrpc 6, qnli 3, "
        "qnli 6, qqp 3, qqp 6, race 3, race 6, rte 3, rte 6, sst2 3, sst2 6",
    ),
]  # fmt: skip


def read(path):
    return nbformat.read(path, as_version=4)


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_number(cells, tag):
    (number,) = [number for number, cell in enumerate(cells) if tag in cell.metadata.get("tags", [])]
    return number


def without_taught(cell):
    """The cell's lines but those of a parameters cell that name a teacher's rows, or rows of one's own."""
    tags = cell.metadata.get("tags", [])
    extra = (
        (*OWN_ROWS, LOGGED, "distance", *(TAUGHT if cell.source.startswith(("teacher_dir", "beyond")) else ()))
        if "parameters" in tags
        else ()
    )
    return [line for line in cell.source.splitlines() if line.split(" ")[0] not in extra]


def run_settings(path, **changes):
    """Run a notebook's imports, its parameters, changed, and its settings in this process; no other cell."""
    cells = code_cells(read(path))
    values = {}
    with matplotlib.rc_context():
        for cell in cells[: cell_number(cells, "parameters") + 1]:
            exec(cell.source, values)
        assert set(changes) <= set(values)
        exec(cells[cell_number(cells, "settings")].source, values | changes)


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def with_answers(path, folder):
    """A copy of the notebook whose exercises are followed by themselves, answered rightly and then wrongly."""
    notebook, cells = read(path), []
    for cell in notebook.cells:
        cells.append(cell)
        exercise = re.match(r"(answer_\d) = None", cell.source) if cell.cell_type == "code" else None
        if exercise:
            for place, answer in enumerate(ANSWERS[path.stem][exercise[1]]):
                answer, hint = answer if isinstance(answer, tuple) else (answer, "")
                source = cell.source.replace("= None", f"= {answer}", 1)
                metadata = {"tags": ["wrong" if place else "right"], "hint": hint}
                cells.append(nbformat.v4.new_code_cell(source, metadata=metadata))
    notebook.cells = cells
    copy = folder / f"{path.stem}-answered.ipynb"
    nbformat.write(notebook, copy)
    return copy


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Every notebook, run by papermill on a few rows, one after the other as a learner would."""
    out = tmp_path_factory.mktemp("course")
    for path in NOTEBOOKS:
        run_notebook(with_answers(path, out), out / path.name, small_parameters(out)[path.stem])
    return out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_to_the_template(path):
    notebook = read(path)
    assert len(notebook.cells) <= 40
    assert notebook.metadata.kernelspec["name"] == "python3"  # without it, JupyterLab asks for one
    assert notebook.cells[0].source.startswith(f"# {path.name[:2]} · ")
    for cell in code_cells(notebook):
        assert len(without_taught(cell)) <= 15, cell.source
        assert not re.search(r"^\s*class ", cell.source, re.MULTILINE)
    assert len([cell for cell in code_cells(notebook) if cell.source.startswith("answer_")]) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_answer_made_by_code_stands_before_the_exercises(path):
    cells = read(path).cells
    (answer,) = [n for n, cell in enumerate(cells) if re.search("^## Answer$", cell.source, re.MULTILINE)]
    (exercises,) = [
        number for number, cell in enumerate(cells) if re.search("^## Exercises$", cell.source, re.MULTILINE)
    ]
    assert answer < exercises < min(n for n, cell in enumerate(cells) if cell.source.startswith("answer_"))
    (made,) = cells[answer + 1].outputs
    text = made.get("text") or made.data["text/markdown"]
    assert text.count(".") >= 2 and re.search(r"\d", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`]*`", "", text, flags=re.DOTALL))
    assert [link for link in links if not link.startswith("https://") and not (COURSE / link).is_file()] == []
    assert "https://arxiv.org/abs/1908.09355" in links
    others = {other.name for other in NOTEBOOKS} - {path.name}
    assert others & set(links) and not re.findall(r"(?<!\[)`\d\d_\w+`", read(path).cells[0].source)  # each is a link


def answer_of(name, capsys, **values):
    """What a notebook's Answer says of these values."""
    (path,) = COURSE.glob(f"{name}_*.ipynb")
    cells = read(path).cells
    place = [number for number, cell in enumerate(cells) if "## Answer" in cell.source]
    *body, last = ast.parse(cells[place[0] + 1].source).body
    values |= {"Markdown": str, "pd": pd, "np": np, "statistics": statistics}
    exec(compile(ast.Module(body, []), name, "exec"), values)
    shown = eval(compile(ast.Expression(last.value), name, "eval"), values)
    return capsys.readouterr().out if shown is None else shown


def compared(differences, error=0.002):
    """A decided table of differences, each of four pairs that lie so far apart."""
    rows = []
    for place, difference in enumerate(differences):
        spread = error * np.array([-1, 1, -1, 1])
        runs = [("new", seed, 0.5 + difference + by) for seed, by in enumerate(spread)] + [
            ("old", s, 0.5) for s in range(4)
        ]
        frame = pd.DataFrame(runs, columns=["method", "seed", "score"])
        rows.append(statistics.paired_difference(frame, "score", "new", "old") | {"method": f"new{place}"})
    return statistics.decide(pd.DataFrame(rows))


def test_other_numbers_give_04_another_answer(capsys):
    in_the_paper = pd.Series({"24 → 6[Large], KD": 89.6, "24 → 6[Base], KD": 91.2})
    rising = answer_of("04", capsys, differences=compared([0.05] * 7), in_the_paper=in_the_paper)
    assert "new0 is ahead of old by +5.0 points" in rising and "the teacher alone moves the score by\n+5.0" in rising
    assert "(SST-2, sets 2 and 3) by -1.6" in rising and "not decided" not in rising
    falling = answer_of("04", capsys, differences=compared([-0.05] * 6 + [0.0001]), in_the_paper=in_the_paper)
    assert "new2 is behind old by" in falling and "new6 against old is not decided" in falling
    one = pd.DataFrame({"method": "new", "baseline": "old", "difference": [0.01] * 7, "pairs": 1, "decided": False})
    assert "new minus old is +1.0 points with one seed" in answer_of(
        "04", capsys, differences=one, in_the_paper=in_the_paper
    )


@pytest.mark.parametrize(("speedup", "said"), [(3.0, "below"), (4.0, "at"), (5.0, "above")])
def test_other_timings_give_05_another_answer(speedup, said, capsys):
    fast = pd.DataFrame({"model": ["12 layers", "3 layers"], "speedup": [1, speedup], "limit": [1, 4]})
    gains = pd.DataFrame({"model": ["3 layers", "3 layers, [CLS] alone"], "speedup": [4.0, 5.0]})
    chart = pd.DataFrame({"num_hidden_layers": [12, 6, 6, 3], "score": [0.95, 0.9, 0.94, 0.9]})
    told = answer_of(
        "05", capsys, least_disturbed=fast.assign(low=fast["speedup"] - 0.1, high=fast["speedup"] + 0.1), gains=gains,
        table=pd.DataFrame({"total": [100, 50]}, index=["12 layers", "3 layers"]), short={3: "3 layers, [CLS] alone"},
        names={12: "12 layers", 3: "3 layers"}, deepest=12, chart=chart, metric="score",
        shares=pd.DataFrame({"parameters": [52.0], "time": [0.25]}, index=["embedding"]),
        benchmarks=pd.DataFrame({"name": ["sst2_vs_authors"], "median": [8.0]}),
    )  # fmt: skip
    assert f"3 layers: 2.00 times smaller, {speedup:.2f} [" in told and f"times as fast, {said} the limit 4" in told
    assert "25% with 3 layers" in told and "1.0 points with 6, 5.0 points with 3" in told and "takes 8.0 times" in told


@pytest.mark.parametrize(
    ("sign", "order", "verdict"),
    [(1, "FT < KD < PKD-Skip, the", "ahead"), (-1, "PKD-Skip < KD < FT, not the", "behind")],
)
def test_other_records_give_08_another_answer(sign, order, verdict, capsys):
    steps = {"FT": 0.0, "KD": 0.03, "PKD-Skip": 0.06}
    noise = {"FT": (0.0, 0.0, 0.0, 0.0), "KD": (0.001, -0.001, 0.0, 0.0), "PKD-Skip": (0.0, 0.0, 0.001, -0.001)}
    frame = pd.DataFrame(
        {"setting": "rte", "method": method, "seed": seed, "dev_accuracy": 0.7 + sign * (step + by)}
        for method, step in steps.items() for seed, by in enumerate(noise[method])
    )  # fmt: skip
    settled = statistics.differences_by(frame, "dev_accuracy", "setting", [("KD", "FT"), ("PKD-Skip", "KD")])
    told = answer_of(
        "08", capsys, splits=["dev"], frame=frame, config=SimpleNamespace(seeds=[0, 1, 2, 3]), recorded={"rte": frame},
        settled=statistics.decide(settled), table_1=paper_table("table_1"),
    )  # fmt: skip
    assert f"rte: {order} paper's order. PKD-Skip is {verdict}" in told and "2 of 2 recorded differences" in told
    assert f"Points from KD: PKD-Skip {sign * 3:+.2f}" in told and "the paper has 0.2 to 2.0" in told


def test_other_scores_give_09_another_answer(capsys):
    names = ["teacher", "FT", "KD", "PKD-Skip", "PKD-Last", "KD-more-texts"]
    given = {
        "metric": "f1", "chosen": "teacher", "taught": {"teacher": None}, "best": "KD-more-texts", "best_taught": "KD",
        "kind_of": "KD", "chart": pd.DataFrame({"method": ["teacher", "KD"], "latency_ms": [20.0, 4.0]}),
        "held_out_rows": range(300), "teacher_scores": None,
    }  # fmt: skip
    told = {}
    for texts in (0.7, 0.5):
        scores = pd.DataFrame({"held-out f1": [0.8, 0.4, 0.6, 0.5, 0.45, texts]}, index=names)
        told[texts] = answer_of("09", capsys, scores=scores, **given)
    assert "closest to the teacher of the four comes KD with 60.0" in told[0.7]
    assert "move KD, 20.0 points below its teacher, by +10.0" in told[0.7] and "by -10.0" in told[0.5]
    assert "5.0 times as fast" in told[0.7] and "Less than 2.0 points" in told[0.7] and "Balanced" not in told[0.7]


def test_other_numbers_give_10_another_answer(capsys):
    starts = {"random": "random weights"}
    told = {}
    for by in (0.05, 0.0001):
        table = compared([by, -by])
        of_tasks = compared([-by, by]).assign(case=["small task, KD", "large task, KD"])
        given = {"starts": ["random"], "STARTS": starts, "by_start": table.assign(init="random"), "by_task": of_tasks}
        given["by_real"] = compared([0.0001, by]).assign(case=["sst2, KD", "rte, KD"])
        told[by] = answer_of("10", capsys, **given).data
    assert "new0 is ahead of old by +5.0" in told[0.05] and "new1 is behind old by -5.0" in told[0.05]
    assert "several tasks, 2 of 2 claims decided: small task, KD: new0 is behind old" in told[0.05]
    assert "real tasks, 1 of 2 claims decided: rte, KD: new1 is ahead of old" in told[0.05]
    assert "no variant of 2 is decided to differ" in told[0.0001] and told[0.0001].count("0 of 2 claims decided") == 2
    assert "ahead" not in told[0.0001] and "behind" not in told[0.0001]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_a_few_plain_literals_with_help(path):
    (cell,) = [cell for cell in code_cells(read(path)) if "parameters" in cell.metadata.get("tags", [])]
    assert len(without_taught(cell)) <= 13
    for line in cell.source.splitlines():
        assignment, help_text = line.split("  # ")
        (statement,) = ast.parse(assignment).body
        ast.literal_eval(statement.value)
        assert help_text and "=" not in help_text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_settings_cell_follows_the_parameters_cell(path):
    cells = read(path).cells
    assert cell_number(cells, "settings") == cell_number(cells, "parameters") + 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_settings_are_checked_where_there_is_nothing_to_read(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells, parameters = code_cells(read(path)), {}
    exec(cells[cell_number(cells, "parameters")].source, parameters)
    nowhere = {name: str(tmp_path / name) for name in PLACES & set(parameters)}  # reading any of them would fail
    if "sources" in parameters:
        nowhere["sources"] = [str(tmp_path / "sources")]
    run_settings(path, **nowhere)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "parameter", "value", "line"), BAD_VALUES)
def test_a_bad_value_is_one_line_of_the_settings_cell(name, parameter, value, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    with pytest.raises(ValueError) as raised:
        run_settings(path, **{parameter: value})
    assert str(raised.value) == line
    assert not list(tmp_path.iterdir())


# What may stand in a parameters cell by mistake, and is wrong for whatever it stands in, or means the number it is.
MISTAKES = [
    True, -1, 0, 0.5, 3.0, 10**30, float("nan"), float("inf"), "", " ", "nonsense", None, [], [1], [1, 1], ["a", "a"],
    {}, "README.md", "1e3", b"x", "a\0b", [float("nan")], [None], [True], [-1], [0], [10**30], [3.0], [0.5], ["3"],
]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_mistake_is_one_line_that_names_the_parameter_and_its_value(path):
    template = read_template(path.stem)
    accepted, refused = set(), 0
    for name, value in product(template.defaults, MISTAKES):
        try:
            template.check({name: value})
            accepted.add((name, repr(value)))
        except ValueError as error:
            refused += 1
            named = [value, *value[:1]] if isinstance(value, list) else [value]  # the list, or what is wrong in it
            layerless = value == [1] and str(error).endswith(
                "a student of one layer has no layer to match; it can learn by FT and KD alone"
            )
            assert layerless or str(error).startswith(tuple(f"{name} = {one!r}: " for one in named)), (name, value)
            assert len(str(error).splitlines()) == 1
    assert refused > 15 * len(template.defaults)
    never = {repr(value) for value in (True, -1, 10**30, float("nan"), float("inf"), " ", None, {}, b"x", "a\0b")}
    never |= {repr(value) for value in ([], [1, 1], ["a", "a"], [None], [True], [-1], [10**30])}
    fine = {(name, repr(value)) for name, value in template.defaults.items()} | {
        ("class_weights", "[1, 1]"),
        ("train_rows", "[1, 1]"),
    }
    fine |= {(name, "[]") for name in OWN_ROWS}  # the default, here or in another notebook
    assert not {found for found in accepted if found[1] in never} - fine
    folders = {name for name in template.defaults if name.endswith(("_dir", "backbone")) or name.startswith("model_")}
    assert not {(name, repr("README.md")) for name in folders} & accepted


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_those_of_the_code_and_small(path):
    notebook = read(path)
    assert notebook.metadata.get("outputs_of_code") == code_fingerprint(notebook), "older than the code: make notebooks"
    assert path.stat().st_size <= 300 * 1024
    assert all(cell.execution_count for cell in code_cells(notebook))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [output for output in outputs(notebook) if WIDGET in output.get("data", {})]
    assert "widgets" not in notebook.metadata
    assert str(ROOT) not in path.read_text(encoding="utf-8")


def test_outputs_of_changed_code_are_seen_to_be_old():
    notebook = read(NOTEBOOKS[0])
    recorded = notebook.metadata["outputs_of_code"]
    code_cells(notebook)[-1].source += " "
    assert code_fingerprint(notebook) != recorded


def test_every_notebook_runs_and_leaves_its_results(executed):
    teacher = load_results(executed / "teacher")
    assert teacher["method"].tolist() == ["teacher"] and teacher["train_rows"].item() == FEW_ROWS["train_rows"]
    students = load_results(executed / "students")
    assert sorted(students["method"]) == sorted(["FT", "KD", "PKD-Skip", "PKD-Last"] * 2)
    assert set(students["learning_rate"]) == {2e-5} and set(students["num_hidden_layers"]) == {3}
    assert (executed / "students" / "similarity.json").is_file()


def test_the_classifier_of_one_s_own_labels_every_new_row_in_order_and_is_exported(executed):
    out, tickets = executed / "classifier", COURSE.parent / "data" / "mini-tickets"
    new, labelled = pd.read_csv(tickets / "new.csv"), pd.read_csv(out / "new_labelled.csv")
    assert len(new) == 300
    pd.testing.assert_frame_equal(labelled[["id", "text"]], new)
    kinds = set(pd.read_csv(tickets / "labelled.csv")["kind"])
    assert set(labelled["label_predicted"]) <= kinds
    probabilities = labelled.filter(like="probability_")
    assert set(probabilities) == {f"probability_{kind}" for kind in kinds}
    assert (probabilities.idxmax(axis=1).str.removeprefix("probability_") == labelled["label_predicted"]).all()
    runs = load_records(out / "comparison.jsonl")
    apart = [run for run in runs if run.unlabelled_rows]
    assert [(run.unlabelled_rows, run.method in ("KD", "PKD-Skip", "PKD-Last")) for run in apart] == [(120, True)]
    methods = ["FT", "KD", "PKD-Last", "PKD-Skip", "teacher", "teacher"]
    assert sorted(run.method for run in runs if run not in apart) == methods
    taught = [run.config["class_weights"] for run in runs if run.method == "teacher"]
    assert sorted(taught) == [[], ["balanced"]]
    report = json.loads((out / "onnx" / "export.json").read_text())
    assert report["student"] in {path.name for path in out.iterdir()} and set(report["classes"]) == kinds
    assert report["models"]["onnx"]["max_difference"] <= 1e-4


def test_another_csv_of_two_classes_becomes_a_classifier_by_parameters_alone(tmp_path):
    """Other columns, and none of what may be left out: the dev rows stand in, and nothing is labelled."""
    split = load_task("mini-sentiment", train_rows=60).splits["train"]
    opinion = [("bad", "good")[label] for label in split.labels]
    pd.DataFrame({"opinion": opinion, "review": split.texts[0]}).to_csv(tmp_path / "reviews.csv", index=False)
    run_notebook(
        COURSE / "09_your_own_classifier.ipynb", tmp_path / "09.ipynb",
        {
            "source": str(tmp_path / "reviews.csv"), "text_columns": ["review"], "label_column": "opinion",
            "metrics": ["f1"], "unlabelled": "", "held_out": "", "new_rows": "", "class_weights": "",
            "student_layers": 2, "num_train_epochs": 1, "output_dir": str(tmp_path / "out"),
        },
    )  # fmt: skip
    runs = load_records(tmp_path / "out" / "comparison.jsonl")
    assert sorted(run.method for run in runs) == ["FT", "KD", "PKD-Last", "PKD-Skip", "teacher"]
    assert runs[0].get_task().label_names == ("bad", "good") and set(runs[0].metrics["dev"]) == {"loss", "f1"}
    told = "".join(map(printed, code_cells(read(tmp_path / "09.ipynb"))))
    assert "no unlabelled texts are given" in told and "no new rows are given" in told
    assert (tmp_path / "out" / "onnx" / "export.json").is_file()


def test_the_similarity_files_hold_every_metric_and_every_student(executed):
    written = json.loads((executed / "similarity" / "similarity.json").read_text())
    assert written["settings"]["rows"] == 60
    assert sorted(written["layers_b_by_layers_a"]) == sorted(SIMILARITIES)
    assert all(len(matrix) == 3 and len(matrix[0]) == 12 for matrix in written["layers_b_by_layers_a"].values())
    table = pd.read_csv(executed / "similarity" / "similarity.csv")
    assert len(table) == len(SIMILARITIES) * 3 * 12
    row = table[(table["metric"] == "cka") & (table["layer_b"] == 3) & (table["layer_a"] == 12)]
    assert row["similarity"].item() == pytest.approx(written["layers_b_by_layers_a"]["cka"][2][11])
    matched = pd.read_csv(executed / "similarity" / "matched.csv")
    assert len(matched) == 4 * 2 * 2 * 2  # methods, seeds, maps, matched layers
    assert set(matched["method"]) == {"FT", "KD", "PKD-Skip", "PKD-Last"}


def test_the_benchmark_s_files_hold_every_timing_and_every_marker_of_the_chart(executed):
    written = json.loads((executed / "speed" / "speed.json").read_text())
    assert written["settings"]["layers"] == [4, 2] and written["settings"]["batch_size"] == 2
    assert len(written["latencies"]) == 2 * 2
    assert written["parameters"]["4 layers"]["transformer"] == 2 * written["parameters"]["2 layers"]["transformer"]
    assert {"machine", "versions", "created_at", "precision"} <= set(written)
    assert all([row["limit"] for row in rows] == [1, 2] for rows in written["speedups"].values())
    chart = pd.read_csv(executed / "speed" / "latency_accuracy.csv")
    assert sorted(chart["num_hidden_layers"]) == [3] * 4 + [6] * 4 + [12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "ckaa"}, r"metric = 'ckaa': must be one of centered_cosine, cosine, cka, rsa"),
        ({"rows": 3}, r"rows = 3: must be 0 for all rows or at least 4"),
    ],
)
def test_a_bad_comparison_of_layers_is_one_clear_line_before_any_work(changes, message, tmp_path):
    with pytest.raises(Exception, match=message):
        run_notebook(
            ROOT / "notebooks" / "06_cls_similarity.ipynb", tmp_path / "bad.ipynb",
            {"output_dir": str(tmp_path / "out")} | changes,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_the_paper_s_experiment_runs_on_a_local_folder_in_the_hub_s_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the kernel inherits both
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    pairs = small_data("mini-inference", train=32, dev=20, test=8).splits  # RTE's columns, three labels made two
    splits = {}
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        labels = [-1] * len(pairs[split]) if pairs[split].labels is None else (pairs[split].labels > 0).astype(int)
        columns = dict(zip(("sentence1", "sentence2"), pairs[split].texts, strict=True))
        splits[name] = pd.DataFrame(columns | {"label": labels, "idx": range(len(labels))})
    source = save_hub_dataset(tmp_path / "glue", "rte", splits)
    run_notebook(
        ROOT / "notebooks" / "08_reproduce_the_paper.ipynb", tmp_path / "rte.ipynb",
        {
            "task": "rte", "source": str(source), "preset_of": "", "student_layers": [6, 3], "seeds": [0, 1],
            "methods": ["FT", "PKD-Last"], "learning_rate_scale": 1, "output_dir": str(tmp_path / "out"),
        },
    )  # fmt: skip
    runs = load_results(tmp_path / "out" / "comparison.jsonl")
    assert len(runs) == 1 + 2 * 2 * 2 and set(runs["source"]) == {str(source)}
    settings = runs.groupby(["num_hidden_layers", "method"])[["learning_rate", "beta", "dev_accuracy"]].mean()
    assert settings["learning_rate"].to_dict() == {
        (12, "teacher"): 2e-5, (6, "FT"): 1e-5, (6, "PKD-Last"): 1e-5, (3, "FT"): 5e-5, (3, "PKD-Last"): 5e-5,
    }  # fmt: skip
    assert settings["beta"][6, "PKD-Last"] == pytest.approx(500 * 64 / 768)  # normalised states of width 64
    assert settings["beta"][3, "PKD-Last"] == 100 and settings["beta"][3, "FT"] == 0
    table = pd.read_csv(tmp_path / "out" / "beside_the_paper.csv", header=[0, 1], index_col=[0, 1])
    assert list(table.columns.get_level_values(0).unique()) == ["ours: rte, dev", "theirs: rte, for orientation only"]
    theirs = table["theirs: rte, for orientation only"]
    assert theirs.loc[(12, "teacher")].tolist() == [69.1, 69.4]
    assert theirs.loc[(6, "FT")].tolist() == [63.6, 66.1] and theirs.loc[(6, "PKD-Last")].tolist() == [65.0, 66.8]
    assert theirs.loc[(3, "FT")].tolist() == [55.2, 58.3] and theirs.loc[(3, "PKD-Last")].isna().all()
    ours = table["ours: rte, dev"].loc[(3, "FT")]
    assert ours["mean"] == pytest.approx(100 * settings["dev_accuracy"][3, "FT"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset_of": ""}, r"preset_of = '': must be one of sst2, mrpc, qqp, mnli, mnli-mm, qnli, rte"),
        ({"student_layers": [4]}, r"task = 'sst2', num_hidden_layers = 4: the authors' settings are for"),
    ],
)
def test_a_bad_reproduction_is_one_clear_line_before_any_work(changes, message, tmp_path):
    with pytest.raises(Exception, match=message):
        run_notebook(
            ROOT / "notebooks" / "08_reproduce_the_paper.ipynb", tmp_path / "bad.ipynb",
            {"output_dir": str(tmp_path / "out")} | changes,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["03_inside_the_loss", "04_better_teacher"])
def test_recorded_runs_are_shown_beside_runs_of_their_rows_and_settings_alone(executed, name):
    told = {path: "".join(map(printed, code_cells(read(path / f"{name}.ipynb")))) for path in (executed, COURSE)}
    assert re.search(r"^no recorded runs of this task, these rows.*: the runs above$", told[executed], re.MULTILINE)
    assert re.search("^recorded runs$", told[COURSE], re.MULTILINE)


def test_ablations_of_another_task_show_no_run_of_the_miniature_s_sizes(tmp_path):
    kinds = [(method, seed) for method in ("FT", "KD") for seed in (0, 1)]
    configs = [
        method_config(method, DistillConfig(num_hidden_layers=3), seed=seed).model_dump() for method, seed in kinds
    ]
    records = [
        make_record(
            f"{method}-{seed}", method=method, seed=seed, config=config, task="mini-inference",
            fingerprints={"weights": f"{method}-{seed}"},
        ) for (method, seed), config in zip(kinds, configs, strict=True)
    ]  # fmt: skip
    save_records(records, tmp_path / "own.jsonl")
    notebook, out = COURSE / "07_when_patience_pays.ipynb", tmp_path / "out"
    parameters = {"sources": [str(tmp_path / "own.jsonl")], "task": "mini-inference", "output_dir": str(out)}
    with pytest.raises(PapermillExecutionError, match=r"task = 'sst2': no runs of it in study = "):
        run_notebook(notebook, tmp_path / "07.ipynb", parameters | {"task": "sst2"})
    run_notebook(notebook, tmp_path / "07.ipynb", parameters)
    told = "".join(map(printed, code_cells(read(tmp_path / "07.ipynb"))))
    assert told.count("among these records") == 5  # other epochs, similarities, clean labels, dropout, rows
    assert (out / "learning_rate.csv").is_file() and not (out / "train_rows.csv").exists()


def test_the_same_runs_are_in_the_notebooks_collected_file(executed):
    collected = load_results(executed / "students" / "comparison.jsonl")
    one_by_one = load_results(executed / "students")
    assert sorted(collected["run_id"]) == sorted(one_by_one["run_id"])


def test_epoch_lines_of_many_runs_are_folded_into_a_line_a_run_without_bars(executed):
    notebook = read(executed / "02_distill_last_vs_skip.ipynb")
    told = [output.data["text/html"] for output in outputs(notebook) if "text/html" in output.get("data", {})]
    (folded,) = [html for html in told if "<summary>mini-sentiment " in html]
    assert folded.count("<summary>") == folded.count("<table") == 8 and folded.count(" in epoch 1 of 1, ") == 8
    lines = "".join(printed(cell) for cell in code_cells(notebook))
    assert "epoch 1/1" not in lines and "it/s" not in lines + folded


@pytest.mark.parametrize("name", ANSWERS)
def test_exercises_accept_the_right_answer_and_refuse_wrong_and_missing_ones(executed, name):
    cells = code_cells(read(executed / f"{name}.ipynb"))
    answered = {kind: [c for c in cells if kind in c.metadata.get("tags", [])] for kind in ("right", "wrong")}
    missing = [cell for cell in cells if re.match(r"answer_\d = None", cell.source)]
    assert len(answered["right"]) == len(missing) == len(ANSWERS[name])
    assert len(answered["wrong"]) == sum(len(answers) - 1 for answers in ANSWERS[name].values()) >= len(missing)
    assert all(printed(cell).startswith("right") for cell in answered["right"])
    assert all(printed(cell) == "not yet\n" for cell in missing)
    for cell in answered["wrong"]:
        told = printed(cell)
        assert told.startswith("not yet") and cell.metadata["hint"] in told, cell.source


def test_a_teacher_from_elsewhere_gives_the_very_students_in_a_notebook_and_in_a_grid(tmp_path):
    """Its classes stand in another order, and no record says what it was trained on."""
    raw = small_data("mini-inference", train=32, dev=16)
    for name in ("train", "dev"):
        split = raw.splits[name]
        labels = [raw.task.label_names[label] for label in split.labels]
        columns = dict(zip(raw.task.columns, split.texts, strict=True)) | {"label": labels}
        (tmp_path / "rows").mkdir(exist_ok=True)
        pd.DataFrame(columns).to_csv(tmp_path / "rows" / f"{name}.csv", index=False)
    backbone = str(save_backbone(tmp_path / "backbone"))
    data = encode_task(load_task("mini-inference", tmp_path / "rows"), load_tokenizer(backbone), 32)
    kit = fine_tune(data, validate(FineTuneConfig, backbone=backbone, num_train_epochs=1), tmp_path / "kit").model
    save_model(permuted(kit, [1, 2, 0]), tmp_path / "foreign")
    named = {"task": "mini-inference", "source": str(tmp_path / "rows"), "max_length": 32, "backbone": backbone}
    few = {"student_layers": [2], "methods": ["FT", "KD", "PKD-Skip"], "num_train_epochs": 1}
    for name, said in (("kit", {}), ("foreign", named)):
        folders = {"teacher_dir": str(tmp_path / name), "output_dir": str(tmp_path / f"{name}-students")}
        notebook = ROOT / "notebooks" / "02_distill_last_vs_skip.ipynb"
        run_notebook(notebook, tmp_path / f"{name}.ipynb", few | said | folders)
    ours, theirs = (load_records(tmp_path / f"{name}-students" / "comparison.jsonl") for name in ("kit", "foreign"))
    assert [record.fingerprints for record in ours] == [record.fingerprints for record in theirs]
    assert len({record.fingerprints["weights"] for record in ours}) == 3
    grid = {"notebook": "02_distill_last_vs_skip", "grid": {"methods": ["KD", "PKD-Skip"]}, "seeds": [0]}
    grid["parameters"] = named | {"teacher_dir": str(tmp_path / "foreign"), "student_layers": 2, "num_train_epochs": 1}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))  # JSON is YAML too
    assert main(["sweep", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "sweep"), "--threads", "1"]) == 0
    swept = {record.method: record.fingerprints for record in load_records(tmp_path / "sweep")}
    assert swept == {record.method: record.fingerprints for record in ours if record.method != "FT"}


def test_a_grid_with_a_teacher_from_elsewhere_names_its_data(tmp_path, capsys):
    names = TASKS["mini-sentiment"].label_names
    backbone = load_backbone(save_backbone(tmp_path / "backbone", bert_config(hidden=64)))  # as wide as 08's students
    folder = save_model(noisy_copy(backbone, names), tmp_path / "foreign")
    for notebook, fields in (("02_distill_last_vs_skip", "task, max_length, backbone"), ("08_reproduce_the_paper", "")):
        (tmp_path / "grid.yaml").write_text(f"notebook: {notebook}\nparameters: {{teacher_dir: {folder}}}\n")
        planned = main(["sweep", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out"), "--dry-run"])
        assert planned == (2 if fields else 0)  # 08 names its own data
        assert fields in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("02", {"student_layers": [6, 5]}, "student_layers = 6: must be at most 4, as "),
        ("03", {"student_layers": 5}, "student_layers = 5: must be at most 4, as "),
        ("03", {"student_layers": 2, "batch_rows": 33}, "batch_rows = 33: must be at most the 32 training rows"),
        ("04", {"student_layers": 5}, "student_layers = 5: must be at most 4, as "),
        ("04", {"student_layers": 3, "large_backbone": "{shallow}"}, "student_layers = 3: must be at most 2, as "),
        ("04", {"student_layers": 3, "large_backbone": "{backbone}"}, "large_backbone = "),
        ("04", {"student_layers": 3, "large_teacher_dir": "{teacher}"}, "large_teacher_dir = "),
    ],
)
def test_what_the_models_cannot_do_is_refused_before_any_training(name, changes, line, tmp_path):
    (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    cells, out = code_cells(read(path)), tmp_path / "out"
    save_model(noisy_copy(load_backbone(save_backbone(tmp_path / "backbone")), TASKS["mini-sentiment"].label_names),
               tmp_path / "teacher")  # fmt: skip
    save_backbone(tmp_path / "shallow", bert_config(2))
    spelled = {name: f"{tmp_path}/./{name}" for name in ("shallow", "backbone", "teacher")}
    changes = {key: value.format(**spelled) if isinstance(value, str) else value for key, value in changes.items()}
    values = {"display": print}
    with matplotlib.rc_context(), pytest.raises(ConfigError) as raised:
        for number, cell in enumerate(cells):
            exec(cell.source, values)
            if number == cell_number(cells, "parameters"):
                values |= {"task": "mini-sentiment", "train_rows": 32, "max_length": 32, "output_dir": str(out)}
                values |= {"backbone": str(tmp_path / "backbone"), "teacher_dir": str(tmp_path / "teacher")} | changes
    assert str(raised.value).startswith(line)
    assert not out.exists()


def commands(text):
    """The shell's words of every command in a text's indented blocks; a line that ends in a backslash goes on."""
    lines = re.findall(r"(?m)^ {4}(\S.*)$", re.sub(r"\\\n *", " ", text))
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("path", ["data/README.md", "notebooks/guide/real-data.md", "08_reproduce_the_paper"])
def test_the_commands_of_a_text_fit_the_notebooks_and_a_fresh_clone(path):
    text = (
        (ROOT / path).read_text()
        if path.endswith(".md")
        else read(ROOT / "notebooks" / f"{path}.ipynb").cells[2].source
    )
    made, checked = set(), 0
    for program, *words in commands(text):
        if program == "mkdir":
            made |= {words[-1]}
        if program == "papermill":
            notebook, executed, *rest = words
            assert str(Path(executed).parent) in made  # papermill makes no folder
            plain = [rest[at + 1 : at + 3] for at, word in enumerate(rest) if word == "-p"]
            given = {name: parse_scalar(value) for name, value in plain}
            for at in [at for at, word in enumerate(rest) if word == "-y"]:
                given |= YAML(typ="safe").load(rest[at + 1])
            template = read_template(Path(notebook).stem)
            assert set(given) <= set(template.defaults)
            template.check(given)
            checked += 1
        if program.endswith("python") and words[0] == "data/remake.py":
            options = [word for word in words if word.startswith("--")]
            assert set(options) <= set(re.findall(r'"(--[a-z-]+)"', (ROOT / "data" / "remake.py").read_text()))
        if program == "pkd" and words[0] == "sweep":
            assert (ROOT / "notebooks" / "grids" / f"{words[1]}.yaml").is_file() or Path(words[1]).suffix
    assert checked


def test_a_bad_parameter_stops_the_notebook_with_one_clear_line(executed, tmp_path):
    with pytest.raises(Exception, match=r"alpha = 1\.5: must be less than or equal to 1"):
        run_notebook(
            ROOT / "notebooks" / "02_distill_last_vs_skip.ipynb",
            tmp_path / "bad.ipynb",
            {"teacher_dir": str(executed / "teacher"), "output_dir": str(tmp_path / "out"), "alpha": 1.5},
        )
    assert not (tmp_path / "out").exists()


def test_the_page_holds_every_plot_and_fetches_nothing(executed, tmp_path):
    notebooks = [executed / path.name for path in NOTEBOOKS]
    page = tmp_path / "index.html"
    write_page(notebooks, page, "A title")
    html = page.read_text(encoding="utf-8")
    found = [output.get("data", {}) for path in notebooks for output in outputs(read(path))]
    plots = [data["image/png"] for data in found if "image/png" in data]
    shown = re.findall(r'<img[^>]*src="data:image/png;base64,([^"]+)"', html)
    assert len(plots) >= 8 and [base64.b64decode(image) for image in shown] == [base64.b64decode(p) for p in plots]
    assert not re.search(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)[^"]+"', html)
    assert "<title>A title</title>" in html
    assert html.count("<math") >= 4 and "\\frac" not in html


def test_pages_and_committed_outputs_leave_the_widgets_out(executed, tmp_path):
    path = executed / "00_start_here.ipynb"
    notebook = read(path)
    live = [output for output in outputs(notebook) if WIDGET in output.get("data", {})]
    assert live and "widgets" in notebook.metadata
    kept = [output for output in outputs(notebook) if output not in live]
    left = drop_widgets(notebook)
    assert outputs(left) == kept and "widgets" not in left.metadata
    write_page([path], tmp_path / "page.html", "A title")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert live[0].data["text/plain"][:9] == "Explorer(" and "Explorer(" not in html
    assert live[0].data[WIDGET]["model_id"] not in html
