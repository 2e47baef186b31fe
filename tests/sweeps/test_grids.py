"""A grid file is read strictly and planned whole: every mistake is one line, before any kernel starts."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings

import matplotlib
import nbformat
import pytest
import torch
from helpers import bert_config, make_record, noisy_copy, save_backbone, save_model
from safetensors.torch import load_file, save_file

from pkdlib import ROOT
from pkdlib.__main__ import main
from pkdlib.engine.files import write_text
from pkdlib.models import load_backbone
from pkdlib.records import save_result
from pkdlib.sweeps import forks, runner
from pkdlib.sweeps import plan as plans
from pkdlib.sweeps.grid import GRIDS, GridError, grid_path, read_grid
from pkdlib.sweeps.notebooks import read_template
from pkdlib.sweeps.plan import plan, teachers_of
from pkdlib.tasks import TASKS, Task

GOOD = """
notebook: 02_distill_last_vs_skip
parameters: {teacher.train_rows: 64}
grid:
  methods: [FT, KD]
  student_layers: [3, 2]
seeds: [0, 1]
"""
# GLUE and BERT-base; rows and backbones that `data/remake.py` makes
NEEDS_MORE = {
    "glue_paper",
    "training_size",
    "unlabelled",
    "when_patience_pays",
    "another_task",
    "patience_tuning",
    "beyond",
    "beyond_tuning",
}


def planned(tmp_path, text, name="some.yaml"):
    file = tmp_path / name
    file.write_text(text)
    grid = read_grid(file)
    return plan(grid, grid, file.name)


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


# what is wrong -> (the file's text, what its one line says)
BAD = {
    "an unknown key": (GOOD + "sedes: [0]\n", r"sedes = \[0\]: unknown name; did you mean seeds\?"),
    "a key that is like no other": (GOOD + "x: 1\n", "x = 1: unknown name; known names are parameters, grid, list"),
    "an unknown key of the second stage": (
        GOOD + "then: {keep: [methods], besst: loss}\n", r"then.besst = 'loss': unknown name; did you mean best\?"),
    "an unknown parameter": (changed("methods:", "methds:"), r"grid.methds: unknown name; did you mean methods\?$"),
    "an unknown parameter of the teacher": (
        changed("teacher.train_rows", "teacher.rows"),
        "parameters.teacher.rows: unknown name; known names are task, source, .*train_rows, .*seed, log_with$"),
    "a parameter of nobody": (
        changed("teacher.train_rows", "master.rows"), "parameters.master.rows: no parameter of 02_.*given are teacher"),
    "a wrong type": (
        GOOD + "list: [{num_train_epochs: many}]\n",
        "list.num_train_epochs = 'many': must be a valid integer, not text: leave the quotes out$"),
    "a fraction of an epoch": (
        GOOD + "list: [{num_train_epochs: 1.5}]\n", "list.num_train_epochs = 1.5: must be a valid integer$"),
    "a number as text": (
        GOOD + "list: [{learning_rate: '2e-5'}]\n",
        "list.learning_rate = '2e-5': must be a valid number, not text: leave the quotes out$"),
    "a number that is none": (GOOD + "list: [{alpha: .nan}]\n", "list.alpha = nan: must be a finite number"),
    "a value out of range": (GOOD + "list: [{alpha: 1.5}]\n", "list.alpha = 1.5: must be less than or equal to 1"),
    "an unknown choice": (changed("KD", "DK"), "grid.methods = 'DK': must be one of FT, KD"),
    "an unknown precision": (GOOD + "list: [{mixed_precision: no}, {mixed_precision: half}]\n",
                             "list.mixed_precision = 'half': must be 'no', 'bf16', 'fp16' or 'auto'"),
    "a student deeper than its teacher": (
        changed("[3, 2]", "[3, 13]"), "grid.student_layers = 13: must be between 1 and the teacher's 12 layers"),
    "a patient student of one layer": (
        changed("[FT, KD]", "[PKD-Skip]").replace("[3, 2]", "[1]"),
        r"grid.methods = \['PKD-Skip'\]: a student of one layer has no layer to match"),
    "a notebook that is not there": (changed("02_distill", "02_destill"), "notebook = .*no such file; .*02_distill"),
    "a notebook without parameters": (changed("02_distill_last_vs_skip", "index.md"), "notebook = 'index.md': "),
    "rows that are not there": (
        GOOD.replace("{teacher", "{teacher.source: nowhere/at/all, teacher"),
        "parameters.teacher.source = 'nowhere/at/all': "),
    "more rows than there are": (changed("64", "2001"), "parameters.teacher.train_rows = 2001: must be between 1 and"),
    "a model that is not there": (
        GOOD.replace("{teacher", "{teacher.backbone: nowhere/bert, teacher"),
        "parameters.teacher.backbone = 'nowhere/bert': no such folder"),
    "a teacher that is not there": (
        "notebook: 02_distill_last_vs_skip\nparameters: {teacher_dir: nowhere}\n",
        "parameters.teacher_dir = 'nowhere': no result.json there"),
    "an axis named twice": (
        changed("  student_layers", "  methods"), 'line 6: no YAML: found duplicate key "methods"$'),
    "an axis in two places": (
        GOOD + "list: [{methods: KD}]\n", "list.methods: also in grid.methods; a name may stand in one place"),
    "a value that stands there twice": (changed("[FT, KD]", "[FT, FT]"), "grid.methods = .*'FT' stands there twice"),
    "an axis without values": (changed("[FT, KD]", "[]"), r"grid.methods = \[\]: List should have at least 1 item"),
    "an axis that is no list": (changed("[FT, KD]", "FT"), "grid.methods = 'FT': must be a valid list"),
    "entries that do not name the same": (
        GOOD + "list: [{beta: 1.0}, {alpha: 0.5}]\n", "list.1 = .*: every entry must name the same parameters"),
    "nothing left": (GOOD + "exclude: [{methods: FT}, {methods: KD}]\n", "exclude: leaves no run"),
    "an exclusion of nothing": (GOOD + "exclude: [{methods: PKD-Skip}]\n", "exclude.0 = .*: no combination is"),
    "an exclusion of no axis": (GOOD + "exclude: [{beta: 1}]\n", "exclude.0 = .*: must name axes: methods"),
    "a seed below zero": (changed("[0, 1]", "[-1]"), "seeds = -1: must be greater than or equal to 0"),
    "a seed that is no number": (changed("[0, 1]", "[one]"), "seeds = 'one': must be a valid integer"),
    "seeds as an axis": (changed("  methods: [FT, KD]", "  seeds: [0, 1]"), "grid.seeds: seeds have a key of"),
    "a folder for the results": (
        changed("{teacher", "{output_dir: here, teacher"), "parameters.output_dir: every run has a folder of its own"),
    "a billion runs": (  # of which none is made, to be excluded or not
        "notebook: 02_distill_last_vs_skip\ngrid:\n" + "".join(f"  a{axis}: {[*range(10)]}\n" for axis in range(8))
        + "seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\nexclude: [{a0: 11}]\n",
        "grid: stands for 1,000,000,000 runs: must be at most 10,000$"),
    "a second stage of too many runs": (
        GOOD + f"then: {{keep: [methods], grid: {{alpha: {[n / 5001 for n in range(5001)]}}}}}\n",
        "then.grid: stands for 10,002 runs: must be at most 10,000$"),
    "a bad value of the teacher's": (
        changed("train_rows: 64", "max_length: 4"), "parameters.teacher.max_length = 4: must be greater than or equal"),
    "a score that no task has": (
        "notebook: 07_when_patience_pays\nparameters: {metric: nonsense}\n",
        "parameters.metric = 'nonsense': must be one of"),
    "a score of other tasks": (
        "notebook: 07_when_patience_pays\nparameters: {metric: test_f1}\n",
        "parameters.metric = 'test_f1': must be a score that the task has$"),
    "records that are not there": (
        "notebook: 07_when_patience_pays\nparameters: {sources: [data/results, nowhere]}\n",
        "parameters.sources = 'nowhere': no such file or folder$"),
    "a best score that no run has": (
        GOOD + "then: {keep: [methods], best: nonsense, grid: {beta: [0.1]}}\n",
        "then.best = 'nonsense': must be one of dev_accuracy, test_accuracy$"),
    "the highest loss": (
        GOOD + "then: {keep: [methods], best: dev_loss, grid: {beta: [0.1]}}\n",
        "then.best = 'dev_loss': must be one of dev_accuracy, test_accuracy$"),
    "a best run among those without a score": (
        "notebook: 05_speed_benchmark\ngrid: {repeats: [2, 3]}\nthen: {keep: [repeats], parameters: {warmup: 2}}\n",
        "then.best = 'dev_accuracy': 05_speed_benchmark records no scores$"),
    "no notebook": ("seeds: [0]\n", "notebook: missing"),
    "no YAML": ("notebook: [\n", "line 2: no YAML: "),
    "an object of Python": ("notebook: !!python/name:os.system ''\n", "line 1: no YAML: could not determine"),
    "a character that no text holds": ("notebook: \x01\n", "no text in UTF-8: "),
    "nothing": ("", "content: must be a valid dictionary"),
    "a NUL": ("notebook: 02\0\n", "no text in UTF-8: unacceptable character"),
    "a NUL in a name": ('notebook: "02\\0"\n', "notebook = .*: no such file"),
    "brackets without end": ("[" * 3000, "nested too deeply$"),
    "no mapping": ("- 1\n", "content: must be a valid dictionary"),
    "a second stage that keeps no axis": (
        GOOD + "then: {keep: [beta], parameters: {alpha: 0.5}}\n", "then.keep = 'beta': no axis of the first stage"),
    "a mistake in the second stage": (
        GOOD + "then: {keep: [methods], grid: {beta: [-1.0]}}\n", "then.grid.beta = -1.0: must be greater"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_mistake_is_one_clear_line_and_starts_nothing(kind, tmp_path, capsys):
    text, message = BAD[kind]
    (tmp_path / "some.yaml").write_text(text)
    assert main(["sweep", str(tmp_path / "some.yaml"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("some.yaml: ")
    with pytest.raises(AssertionError, match=rf"^some.yaml: {message}"):
        raise AssertionError(line)
    assert not (tmp_path / "out").exists()


def test_every_mistake_is_told_at_once(tmp_path):
    with pytest.raises(GridError) as found:
        planned(tmp_path, changed("[FT, KD]", "[FT, DK]") + "list: [{alpha: 2.0}]\n")
    assert [line.split(" ")[1] for line in str(found.value).splitlines()] == ["list.alpha", "grid.methods"]


def test_a_file_that_is_not_there_names_those_that_are():
    with pytest.raises(GridError, match=r"^smoke2: no such grid file; shipped are another_task, .*when_patience_pays$"):
        grid_path("smoke2")


@pytest.mark.parametrize("option", ["workers", "threads", "runs_per_gpu"])
def test_a_bad_option_is_one_clear_line(option, tmp_path):
    with pytest.raises(GridError, match=f"^{option} = 0: must be at least 1$"):
        runner.run_sweep("smoke", tmp_path / "out", **{option: 0})


def test_numbers_and_words_are_read_as_a_person_means_them(tmp_path):
    run = planned(
        tmp_path, GOOD + "list: [{learning_rate: 2e-5, mixed_precision: no, alpha: 1, num_train_epochs: 010}]\n"
    )[0]
    assert run.parameters["learning_rate"] == 2e-5
    assert run.parameters["mixed_precision"] == "no"
    assert run.parameters["num_train_epochs"] == 10
    assert run.parameters["alpha"] == 1.0 and isinstance(run.parameters["alpha"], float)


def test_the_runs_are_every_combination_in_the_file_s_order_less_the_excluded(tmp_path):
    runs = planned(tmp_path, GOOD + "exclude: [{methods: FT, student_layers: 2}]\n")
    assert [tuple(run.axes.values()) for run in runs] == [
        ("FT", 3, 0), ("FT", 3, 1), ("KD", 3, 0), ("KD", 3, 1), ("KD", 2, 0), ("KD", 2, 1),
    ]  # fmt: skip
    assert runs[0].parameters["methods"] == ["FT"] and runs[0].parameters["student_layers"] == [3]
    assert runs[0].parameters["seeds"] == [0] and runs[1].parameters["seeds"] == [1]
    assert "output_dir" not in runs[0].parameters and "teacher_dir" not in runs[0].parameters


def test_the_guide_s_grid_is_planned(tmp_path):
    guide = ROOT / "notebooks" / "guide" / "sweeps.md"
    (text,) = re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    runs = planned(tmp_path, text)
    assert len(runs) == (2 * 2 * 2 - 2) * 5 and len(teachers_of(runs)) == 1


def test_values_that_change_together_make_no_product(tmp_path):
    runs = planned(tmp_path, GOOD + "list: [{alpha: 0.1, beta: 1.0}, {alpha: 0.2, beta: 2.0}]\n")
    assert len(runs) == 2 * 8
    assert {(run.parameters["alpha"], run.parameters["beta"]) for run in runs} == {(0.1, 1.0), (0.2, 2.0)}


def test_one_teacher_per_distinct_content(tmp_path):
    runs = planned(tmp_path, GOOD)
    (teacher,) = teachers_of(runs)
    assert teacher.parameters["train_rows"] == 64 and teacher.folder.startswith("teachers/")
    sizes = planned(tmp_path, GOOD.replace("parameters: {teacher.train_rows: 64}", "") + """
list: [{teacher.train_rows: 32}, {teacher.train_rows: 48}]
""")  # fmt: skip
    assert [teacher.parameters["train_rows"] for teacher in teachers_of(sizes)] == [32, 48]
    large = planned(tmp_path, "notebook: 04_better_teacher\nparameters: {large_teacher.seed: 1}\n")
    assert sorted(large[0].teachers) == ["large_teacher_dir", "teacher_dir"]


def test_what_a_run_and_its_teacher_both_have_is_given_to_both(tmp_path):
    text = "notebook: 08_reproduce_the_paper\nparameters: {train_rows: 32, source: data, teacher.seed: 1}\n"
    (run,) = planned(tmp_path, text)
    teacher = run.teachers["teacher_dir"]
    assert (run.parameters["train_rows"], teacher.parameters["train_rows"]) == (32, 32)
    assert (run.parameters["source"], teacher.parameters["source"], teacher.parameters["seed"]) == ("data", "data", 1)


def test_a_run_s_identity_is_its_content(tmp_path, monkeypatch):
    backbone = save_backbone(tmp_path / "bert")
    text = GOOD.replace("{teacher", f"{{teacher.backbone: {backbone}, teacher").replace("[3, 2]", "[3]")
    before = planned(tmp_path, text)
    assert len({run.id for run in before}) == len(before) == 4
    assert [run.id for run in planned(tmp_path, text, "other.yaml")] == [run.id for run in before]
    spelled_out = planned(tmp_path, text.replace("parameters: {", "parameters: {beta: 0.3, "))
    assert [run.id for run in spelled_out] == [run.id for run in before]  # the notebook's own default
    another_axis = planned(tmp_path, text + "list: [{beta: 0.3}, {beta: 0.5}]\n")
    assert [run.folder for run in another_axis if run.parameters["beta"] == 0.3] == [run.folder for run in before]
    for change in ("beta: 0.4", "teacher.train_rows: 65", "teacher.seed: 1"):
        other = planned(tmp_path, text.replace("teacher.train_rows: 64", change))
        assert not {run.id for run in other} & {run.id for run in before}
    change_weights(backbone)
    changed_weights = {run.id for run in planned(tmp_path, text)}
    assert not changed_weights & {run.id for run in before}
    words = backbone / "tokenizer.json"
    words.write_text(words.read_text(encoding="utf-8").replace('"the"', '"teh"'), encoding="utf-8")
    changed_words = {run.id for run in planned(tmp_path, text)}
    assert not changed_words & changed_weights
    monkeypatch.setattr(forks, "library_fingerprint", lambda: "0123456789abcdef")  # a changed losses.py, say
    assert not {run.id for run in planned(tmp_path, text)} & changed_words


def test_files_that_a_parameter_names_belong_to_a_run_s_identity(tmp_path):
    parameters = ("folder = ''\nfiles = ['']\noutput_dir = ''", ["parameters"])
    notebook = save_notebook(tmp_path / "own.ipynb", parameters)
    own, one = tmp_path / "texts", tmp_path / "one.jsonl"
    (own / "student").mkdir(parents=True)
    files = (own / "a.txt", own / "b.jsonl.gz", own / "student" / "result.json", one)
    for file in files:
        file.write_text("{}")
    text = f"notebook: {notebook}\nparameters: {{folder: {own}, files: [{one}]}}\n"
    (before,) = planned(tmp_path, text)
    (own / "notes.log").write_text("of no effect")
    (own / ".hidden.txt").write_text("of no effect")
    assert planned(tmp_path, text)[0].id == before.id
    ids = {before.id}
    for file in files:
        file.write_text("{ }")
        ids.add(planned(tmp_path, text)[0].id)
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("file", "notebooks"),
    [
        ("figures.py", set()),
        ("widgets.py", set()),
        ("pkd.mplstyle", set()),
        ("similarity.py", {"01", "02", "06"}),
        ("paper.json", {"04", "05", "08"}),
        ("statistics.py", {"00", "01", "02", "03", "04", "05", "06", "07", "08", "09"}),
    ],
)
def test_the_code_of_analysis_that_a_notebook_s_results_depend_on_belongs_to_its_runs_identity(
    file, notebooks, tmp_path, monkeypatch
):
    shutil.copytree(ROOT / "pkdlib" / "analysis", tmp_path / "pkdlib" / "analysis")
    monkeypatch.setattr(forks, "__file__", str(tmp_path / "pkdlib" / "sweeps" / "forks.py"))
    course = sorted((ROOT / "notebooks").glob("0*.ipynb"))
    fixed = f"{{model_a: data/mini-bert-12, model_b: data/mini-bert-12, texts: {tmp_path}, students_dir: ''}}"
    text = f"notebook: 06_cls_similarity\nparameters: {fixed}\n"

    def codes():
        (run,) = planned(tmp_path, text)  # which forgets what the code was
        return {path.stem[:2]: forks.code_of(path) for path in course} | {"run of 06": run.id}

    before = codes()
    with open(tmp_path / "pkdlib" / "analysis" / file, "a") as changed:
        changed.write(" ")
    after, of_06 = codes(), {"run of 06"} if "06" in notebooks else set()
    assert {name for name in before if before[name] != after[name]} == notebooks | of_06


def test_a_notebook_without_analysis_depends_on_the_library_alone(tmp_path):
    assert forks.code_of(save_notebook(tmp_path / "own.ipynb", ("import pkdlib", []))) == forks.library_fingerprint()


@pytest.mark.parametrize("file", sorted(GRIDS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_grids_are_read_and_planned(file):
    assert file.read_text(encoding="utf-8").startswith("# ")  # says what it asks
    grid = read_grid(file)
    here = grid if file.stem not in NEEDS_MORE else grid.model_copy(update=stand_ins(grid))
    for stage in (here, *([here.then] if here.then else [])):
        kept = {name: here.grid[name][0] for name in stage.keep} if stage is here.then else None
        runs = plan(here, stage, file.name, kept)
        combinations = stage.model_copy(update={"seeds": here.seeds}).combinations()
        assert len({run.id for run in runs}) == len(runs) == len(list(combinations))
        assert all(run.teachers for run in runs) or file.stem == "many_tasks"  # whose notebook trains its teachers
        json.dumps(runs[0].parameters)


def stand_ins(grid):
    """The grid's values with what is in the project for what is not."""
    here = {"backbone": "data/mini-bert-12", "teacher.source": "", "teacher.max_length": 64, "preset_of": "sst2"}
    stands_in = {
        "teacher.train_rows": lambda rows: rows // 16,
        "unlabelled": lambda file: file and "data/mini-sentiment/test.tsv",
    }
    entries = [{name: stands_in.get(name, lambda v: v)(one) for name, one in entry.items()} for entry in grid.together]
    of_axes = {
        "task": ["mini-sentiment", "mini-inference"], "teacher.source": ["", "data"],
        "teacher.backbone": ["data/mini-bert-12", "data/mini-bert-24"],
    }  # fmt: skip
    axes = grid.grid | {name: values for name, values in of_axes.items() if name in grid.grid}
    parameters = {name: here.get(name, value) for name, value in grid.parameters.items()}
    return {"parameters": parameters, "together": entries, "grid": axes, "exclude": []}


def save_notebook(path, *cells):
    """A notebook of these code cells, with their tags."""
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": [*tag]}) for source, tag in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


PARAMETERS = ("alpha = 0.7  # weight\nlayers = [3]\noutput_dir = ''", ["parameters"])


def planned_with(tmp_path, imports, settings, values="{alpha: 7.0}", later=""):
    cells = ((imports, []), PARAMETERS, ("1 + 1", []), (settings, ["settings"]), (later, []))
    notebook = save_notebook(tmp_path / "own.ipynb", *cells)
    return planned(tmp_path, f"notebook: {notebook}\nparameters: {values}\n")


@pytest.mark.parametrize(
    ("imports", "settings"),
    [
        ("from pkdlib import DistillConfig as D, validate", "validate(D, alpha=alpha)"),
        ("import pkdlib as p", "p.validate(p.DistillConfig, alpha=alpha)"),
        ("import pkdlib\nC = pkdlib.DistillConfig", "C(alpha=alpha)"),
    ],
)
def test_a_configuration_by_another_name_refuses_what_it_refuses(imports, settings, tmp_path, capsys):
    with pytest.raises(GridError) as found:
        planned_with(tmp_path, imports, settings)
    assert str(found.value) == "some.yaml: parameters.alpha = 7.0: must be less than or equal to 1"
    arguments = ["sweep", str(tmp_path / "some.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"{found.value}\n")


def test_a_configuration_that_is_only_spoken_of_is_not_applied(tmp_path):
    (run,) = planned_with(tmp_path, "import pkdlib", "# pkdlib.DistillConfig(alpha=alpha) would refuse it")
    assert run.parameters["alpha"] == 7.0
    planned_with(tmp_path, "import pkdlib", "", later="pkdlib.DistillConfig(alpha=alpha)")  # no settings any more


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ("raise KeyError('a')", ["settings cell of own: KeyError: 'a'"]),
        ("raise ValueError()", ["settings cell of own: ValueError: "]),
        ("import sys; sys.exit('no')", ["settings cell of own: SystemExit: no"]),
        ("layers[7]", ["settings cell of own: IndexError: list index out of range"]),
        ("raise ValueError('alpha = 7.0: too much\\nlayers.0 = 3: odd')",
         ["parameters.alpha = 7.0: too much", "layers.0 = 3: odd"]),
        ("raise ValueError('these do not go together')", ["these do not go together"]),
    ],
)  # fmt: skip
def test_whatever_a_settings_cell_raises_is_a_line(settings, lines, tmp_path):
    with pytest.raises(GridError) as found:
        planned_with(tmp_path, "", settings)
    assert str(found.value).splitlines() == [f"some.yaml: {line}" for line in lines]


def test_the_first_cell_after_the_parameters_is_the_settings_cell_where_none_is_tagged(tmp_path):
    cells = (PARAMETERS, ("assert alpha < 1", []), ("assert False, 'not reached'", []))
    text = f"notebook: {save_notebook(tmp_path / 'own.ipynb', *cells)}\nparameters: {{alpha: 0.5}}\n"
    assert len(planned(tmp_path, text)) == 1
    with pytest.raises(GridError, match=r"settings cell of own: AssertionError: $"):
        planned(tmp_path, text.replace("0.5", "1.5"))
    save_notebook(tmp_path / "own.ipynb", PARAMETERS)  # and nothing to check them
    assert planned(tmp_path, text.replace("0.5", "1.5"))[0].parameters["alpha"] == 1.5


def test_cells_that_are_executed_in_the_plan_leave_no_trace(tmp_path, capfd):
    imports = """
%matplotlib inline
import os, sys, warnings
import matplotlib
print("out"); print("err", file=sys.stderr)
os.environ["LEFT_BY_A_NOTEBOOK"] = "1"
del os.environ["KEPT"]
matplotlib.rcParams["lines.linewidth"] = 9
warnings.simplefilter("error")
def check(alpha):
    seen.append(alpha)
seen, state = [], []
"""
    settings = """
!ls
display(alpha); print("out")
assert matplotlib.rcParams["lines.linewidth"] != 9 and not state
state = [1]; layers.append(4); check(alpha)
assert output_dir
"""
    before = dict(matplotlib.rcParams), list(sys.path), list(warnings.filters), os.getcwd()
    os.environ["KEPT"] = "here"
    runs = planned_with(tmp_path, imports, settings, "{}\ngrid: {alpha: [0.1, 0.2]}")
    assert os.environ.pop("KEPT") == "here" and "LEFT_BY_A_NOTEBOOK" not in os.environ
    assert (dict(matplotlib.rcParams), list(sys.path), list(warnings.filters), os.getcwd()) == before
    assert capfd.readouterr() == ("", "")
    assert [run.parameters for run in runs] == [{"alpha": alpha, "layers": [3]} for alpha in (0.1, 0.2)]


def test_a_notebook_whose_first_cells_fail_is_told_in_one_line(tmp_path):
    with pytest.raises(GridError) as found:
        planned_with(tmp_path, "import no_such_module", "")
    assert re.fullmatch(
        r"some\.yaml: notebook = '.*own\.ipynb': cannot be run with parameters: "
        "ModuleNotFoundError: No module named 'no_such_module'",
        str(found.value),
    )
    with pytest.raises(GridError, match=r"own\.ipynb': cannot be run with parameters: SyntaxError: "):
        planned_with(tmp_path, "", "alpha =")
    save_notebook(tmp_path / "own.ipynb", ("raise SystemError('executed')", []), ("output_dir = ''", []))
    with pytest.raises(GridError, match=r"has no cell tagged parameters with an output_dir in it$"):
        planned(tmp_path, f"notebook: {tmp_path / 'own.ipynb'}\n")  # and none of its cells was executed


def test_a_run_is_checked_within_about_a_millisecond(tmp_path):
    template = read_template("02_distill_last_vs_skip")
    template.check({})
    started = time.process_time()
    for number in range(100):
        template.check({"alpha": number / 100})
    assert time.process_time() - started < 100 * 5e-3  # a busy machine is slower


def test_teachers_left_to_the_sweep_are_paths_where_nothing_lies(tmp_path):
    parameters = ("teacher_dir = ''\nlarge_teacher_dir = ''\noutput_dir = ''", ["parameters"])
    check = "from pathlib import Path\nassert all(f and not Path(f).exists() for f in (teacher_dir, large_teacher_dir))"
    notebook = save_notebook(tmp_path / "own.ipynb", parameters, (check, []))
    (run,) = planned(tmp_path, f"notebook: {notebook}\n")
    assert sorted(run.teachers) == ["large_teacher_dir", "teacher_dir"] and not run.parameters


def finished_teacher(folder, **changes):
    """A finished teacher's folder: a model of four layers and its record, which names it as its own backbone."""
    record = make_record("teacher", method="teacher", **{"config": {"backbone": str(folder)}} | changes)
    backbone = load_backbone(save_backbone(folder))
    save_model(noisy_copy(backbone, record.get_task().label_names), folder)
    save_result(record, folder)
    return folder


def change_weights(folder, **changes):
    """Move every weight of a folder's model; or change some by name, None to leave one out."""
    weights = load_file(folder / "model.safetensors")
    weights = weights | changes if changes else {name: 2 * tensor for name, tensor in weights.items()}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def test_the_loss_is_looked_at_with_a_teacher_of_the_sweep(tmp_path):
    text = (
        "notebook: 03_inside_the_loss\nparameters: {teacher.train_rows: 64}\ngrid: {beta: [0.1, 0.2]}\nseeds: [0, 1]\n"
    )
    runs = planned(tmp_path, text)
    assert [run.parameters["seeds"] for run in runs] == [[0], [1], [0], [1]]
    assert len(teachers_of(runs)) == 1
    with pytest.raises(GridError) as found:
        planned(tmp_path, text.replace("beta: [0.1, 0.2]", "batch_rows: [0]"))
    assert str(found.value) == "some.yaml: grid.batch_rows = 0: must be greater than or equal to 1"


def test_similarity_is_swept_over_models_that_lie_in_folders(tmp_path):
    a, b = finished_teacher(tmp_path / "a"), save_backbone(tmp_path / "b", bert_config(layers=2))
    fixed = f"{{model_a: {a}, model_b: {b}, students_dir: ''}}"
    text = f"notebook: 06_cls_similarity\nparameters: {fixed}\ngrid: {{metric: [cka, rsa]}}\nseeds: [0, 1]\n"
    runs = planned(tmp_path, text)
    assert len({run.id for run in runs}) == 4 and not teachers_of(runs)
    change_weights(b)
    assert not {run.id for run in runs} & {run.id for run in planned(tmp_path, text)}  # another model
    with pytest.raises(GridError) as found:
        planned(tmp_path, text.replace("rsa", "csa").replace("seeds: [0, 1]", ""))
    assert str(found.value).startswith("some.yaml: grid.metric = 'csa': must be one of ")
    with pytest.raises(GridError, match=r"^some.yaml: parameters.model_b = .*/c': no such folder"):
        planned(tmp_path, text.replace(str(b), str(tmp_path / "c")))


def test_students_of_a_teacher_of_an_own_task_are_planned(tmp_path):
    task = Task("colours", ("phrase",), ("cold", "warm"))
    assert task.name not in TASKS
    teacher = finished_teacher(tmp_path / "teacher", task=task.name, task_definition=task, source=str(tmp_path))
    text = (
        f"notebook: 02_distill_last_vs_skip\nparameters: {{teacher_dir: {teacher}, student_layers: 3}}\nseeds: [0, 1]\n"
    )
    runs = planned(tmp_path, text)
    assert [run.parameters["teacher_dir"] for run in runs] == [str(teacher)] * 2 and not teachers_of(runs)
    with pytest.raises(GridError) as found:
        planned(tmp_path, text.replace("student_layers: 3", "student_layers: 5"))
    assert str(found.value) == "some.yaml: parameters.student_layers = 5: must be between 1 and the teacher's 4 layers"


def test_the_command_is_registered_without_what_a_sweep_needs():
    probe = """
import sys
from pkdlib.__main__ import main
try:
    main(["sweep", "--help"])
except SystemExit as end:
    assert end.code == 0
heavy = {"torch", "pandas", "papermill", "nbformat", "pydantic", "matplotlib", "transformers", "dask", "scipy"}
sys.exit(str(heavy & set(sys.modules) or ""))
"""
    result = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert "--dry-run" in result.stdout and result.stderr.strip() == ""


def test_a_parameter_may_have_any_name(tmp_path):
    parameters = ("_own = copy = model_config = 1\noutput_dir = ''", ["parameters"])
    text = f"notebook: {save_notebook(tmp_path / 'own.ipynb', parameters)}\nparameters: {{model_config: 2, _own: 3}}\n"
    assert planned(tmp_path, text)[0].parameters == {"_own": 3, "copy": 1, "model_config": 2}


def test_defaults_that_say_little_of_the_type_take_what_fits(tmp_path):
    parameters = ("limit = None\nnames = []\nweights = {}\noutput_dir = ''", ["parameters"])
    notebook = save_notebook(tmp_path / "own.ipynb", parameters)
    text = f"notebook: {notebook}\nparameters: {{limit: 3, names: [1, x], weights: {{a: 0.5}}}}\n"
    assert planned(tmp_path, text)[0].parameters == {"limit": 3, "names": [1, "x"], "weights": {"a": 0.5}}
    with pytest.raises(GridError, match=r"^some.yaml: parameters.weights = 3: must be a valid dictionary$"):
        planned(tmp_path, text.replace("{a: 0.5}", "3"))


def test_a_grid_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "some.yaml").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(GridError, match=r"^some.yaml: no text in UTF-8: 'utf-8' codec can't decode byte 0x8b"):
        read_grid(tmp_path / "some.yaml")


def test_a_second_stage_s_runs_are_counted_with_the_first_one_s_seeds(tmp_path):
    text = (
        f"notebook: own\nseeds: {[*range(100)]}\ngrid: {{a: [1]}}\nthen: {{keep: [a], grid: {{b: {[*range(101)]}}}}}\n"
    )
    (tmp_path / "some.yaml").write_text(text)
    with pytest.raises(GridError, match=r"^some.yaml: then.grid: stands for 10,100 runs: must be at most 10,000$"):
        read_grid(tmp_path / "some.yaml")
    (tmp_path / "some.yaml").write_text(text.replace(", 100]}}", "]}}"))
    assert read_grid(tmp_path / "some.yaml").then is not None  # 10,000


# what a model's folder lacks -> (how it is made so, the parameter that names it, what the line says)
SPOILT = {
    "a layer": (
        lambda folder: change_weights(folder, **{"encoder.layer.3.output.dense.bias": None}),
        "teacher.backbone", "its file of weights lacks encoder.layer.3.output.dense.bias and 0 more$"),
    "the shape of its configuration": (
        lambda folder: change_weights(folder, **{"embeddings.word_embeddings.weight": torch.zeros(7, 32)}),
        "teacher.backbone", "cannot be loaded: "),
    "weights": (lambda folder: (folder / "model.safetensors").unlink(), "teacher.backbone", "cannot be loaded: "),
    "whole weights": (
        lambda folder: os.truncate(folder / "model.safetensors", 9_000), "teacher.backbone", "cannot be loaded: "),
    "a tokenizer": (
        lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "teacher.backbone", "cannot be loaded: "),
    "a configuration that can be read": (
        lambda folder: (folder / "config.json").write_text("{"), "teacher.backbone", "no such folder or model: "),
    "a head": (lambda folder: change_weights(folder, **{"classifier.weight": None}), "teacher_dir",
               "its file of weights lacks classifier.weight and 0 more$"),
    "weights of a teacher": (
        lambda folder: (folder / "model.safetensors").unlink(), "teacher_dir", "cannot be loaded: "),
    "the task's classes": (
        lambda folder: save_result(make_record("teacher", method="teacher", task="rte"), folder), "teacher_dir",
        "its classes are negative, positive: must be entailment, not_entailment, in any order$"),
    "a record that can be read": (
        lambda folder: (folder / "result.json").write_text("{}"), "teacher_dir", ".*/result.json, record 1: "),
}  # fmt: skip


@pytest.mark.parametrize("lack", SPOILT)
def test_a_model_that_cannot_be_loaded_is_refused_in_the_plan(lack, tmp_path):
    spoil, parameter, line = SPOILT[lack]
    folder = finished_teacher(tmp_path / "m") if parameter == "teacher_dir" else save_backbone(tmp_path / "m")
    text = f"notebook: 02_distill_last_vs_skip\nparameters: {{{parameter}: {folder}, student_layers: 3}}\n"
    assert len(planned(tmp_path, text)) == 1
    spoil(folder)
    with pytest.raises(GridError) as found:
        planned(tmp_path, text)
    assert re.match(rf"some.yaml: parameters.{parameter} = '{folder}': {line}", str(found.value)), found.value
    assert "\n" not in str(found.value)


def other_words(folder):
    """The tokenizer of a folder, with other numbers for its words."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    places = sorted(words, key=words.get)
    content["model"]["vocab"] = {word: place for place, word in enumerate([*places[:5], *places[12:], *places[5:12]])}
    file.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of models by name: what is wrong with them, beside mini-bert-12 of twelve layers and width 64."""
    out = tmp_path_factory.mktemp("models")
    mini = {"config": {"backbone": "data/mini-bert-12"}}
    folders = {
        "shallow": save_backbone(out / "shallow"),
        "foreign": other_words(save_backbone(out / "foreign", bert_config(12, 64))),
        "narrow teacher": finished_teacher(out / "narrow", **mini),
        "foreign teacher": other_words(finished_teacher(out / "foreign-teacher", **mini)),
        "mini": ROOT / "notebooks" / ".." / "data" / "mini-bert-12",
    }
    return {name.replace(" ", "_"): str(folder) for name, folder in folders.items()}


# what does not fit -> (the notebook, its parameters, what the line says)
UNFIT = {
    "a larger model of few layers": (
        "04", "large_backbone: {shallow}", "student_layers = 6: must be between 1 and the large_backbone's 4 layers$"),
    "a larger model of other words": (
        "04", "large_backbone: {foreign}, large_teacher.seed: 1",
        "parameters.large_backbone = '{foreign}': its tokenizer gives other tokens than the rows have, first of '"),
    "the same model once more": (
        "04", "large_backbone: {mini}, large_teacher.seed: 1",
        "parameters.large_backbone = '{mini}': must be another model than data/mini-bert-12"),
    "the same teacher once more": (
        "04", "large_backbone: data/mini-bert-24", "large_teacher: the very teacher of teacher_dir; .*backbone$"),
    "a larger teacher of other words": (
        "04", "large_teacher.backbone: {foreign}", "parameters.large_teacher.backbone = '{foreign}': its tokenizer"),
    "a teacher of other words": (
        "02", "teacher_dir: {foreign_teacher}, student_layers: 3, methods: KD",
        "parameters.teacher_dir = '{foreign_teacher}': its tokenizer gives other tokens"),
    "a narrow teacher of patient students": (
        "02", "teacher_dir: {narrow_teacher}, student_layers: 3, methods: PKD-Skip",
        "parameters.teacher_dir = '{narrow_teacher}': is 32 wide, its students 64: PKD needs equal widths$"),
    "a teacher of narrow patient students": (
        "08", "backbone: {shallow}, teacher.backbone: data/mini-bert-12, student_layers: 3, methods: PKD-Last",
        "parameters.teacher.backbone = 'data/mini-bert-12': is 64 wide, its students 32: PKD needs equal widths$"),
    "layers of two widths by their cosines": (
        "06", "model_a: {shallow}, model_b: data/mini-bert-12, students_dir: '', metric: centered_cosine",
        "parameters.metric = 'centered_cosine': needs models of equal widths; model_a's is 32, model_b's 64$"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_models_that_do_not_fit_are_refused_in_the_plan(kind, models, tmp_path):
    name, parameters, line = UNFIT[kind]
    (notebook,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    text = f"notebook: {notebook.stem}\nparameters: {{{parameters.format(**models)}}}\n"
    with pytest.raises(GridError) as found:
        planned(tmp_path, text)
    assert re.match(f"some.yaml: {line.format(**models)}", str(found.value)), found.value
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("02", "teacher_dir: {narrow_teacher}, student_layers: 3, methods: KD"),
        ("02", "teacher_dir: {narrow_teacher}, student_layers: 3, methods: PKD-Skip, init: teacher"),
        ("02", "teacher_dir: {narrow_teacher}, student_layers: 3, methods: PKD-Skip, beta: 0.0"),
        ("04", "large_teacher.seed: 1"),
        ("06", "model_a: {shallow}, model_b: data/mini-bert-12, students_dir: '', metric: rsa"),
    ],
)
def test_models_of_two_widths_are_planned_where_nothing_compares_them(name, parameters, models, tmp_path):
    (notebook,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    text = f"notebook: {notebook.stem}\nparameters: {{{parameters.format(**models)}}}\n"
    assert len(planned(tmp_path, text)) == 1


def test_the_scores_of_a_run_are_its_task_s_on_labelled_splits(tmp_path):
    text = "notebook: 02_distill_last_vs_skip\nparameters: {teacher.train_rows: 64}\n"
    assert plans.scores_of(planned(tmp_path, text)[0]) == ["dev_accuracy", "test_accuracy"]
    teacher = finished_teacher(tmp_path / "teacher", metrics={"dev": {"f1": 0.5, "accuracy": 0.6, "loss": 0.7}})
    (run,) = planned(
        tmp_path, f"notebook: 02_distill_last_vs_skip\nparameters: {{teacher_dir: {teacher}, student_layers: 3}}\n"
    )
    assert plans.scores_of(run) == ["dev_f1", "dev_accuracy"]
    notebook = save_notebook(tmp_path / "own.ipynb", ("output_dir = ''", ["parameters"]))
    assert plans.scores_of(planned(tmp_path, f"notebook: {notebook}\n")[0]) is None


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("run.json", "{", "Expecting property name enclosed in double quotes"),
        ("run.json", "[]", "must be an object of JSON, not list"),
        ("run.json", "{}", "seconds: missing"),
        ("run.json", "\0", "Expecting value"),
        ("failure.json", "{}", "cause: missing"),
        ("failure.json", "", "Expecting value"),
    ],
)
def test_a_broken_file_of_a_run_is_one_line_of_every_command(file, content, line, tmp_path, capsys):
    (tmp_path / "some.yaml").write_text("notebook: 05_speed_benchmark\n")
    (run,) = planned(tmp_path, "notebook: 05_speed_benchmark\n")
    out = tmp_path / "out"
    write_text(out / run.folder / file, content)
    write_text(out / "sweep.json", json.dumps({"grid": "some", "runs": [{"folder": run.folder}], "teachers": []}))
    sweep = ["sweep", str(tmp_path / "some.yaml"), "--out", str(out)]
    started = [] if file == "failure.json" else [sweep]  # a run that goes on writes its failure anew
    for command in ([*sweep, "--dry-run"], ["report", str(out)], *started):
        assert main(command) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith(f"{out / run.folder / file}: {line}")
