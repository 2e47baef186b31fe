"""A grid file is read strictly and planned whole: every mistake is one line, before any kernel starts."""

import json
import re

import pytest
from helpers import save_backbone

from pkdlib import ROOT
from pkdlib.sweeps import plan
from pkdlib.sweeps.grid import GRIDS, GridError, grid_path, read_grid
from pkdlib.sweeps.plan import plan, teachers_of

GOOD = """
notebook: 02_distill_last_vs_skip
parameters: {teacher.train_rows: 64}
grid:
  methods: [FT, KD]
  student_layers: [3, 2]
seeds: [0, 1]
"""
NEEDS_MORE = {"glue_paper", "training_size"}  # GLUE and BERT-base; rows that `data/remake.py` makes


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
    "an unknown key": (GOOD + "sedes: [0]\n", "sedes: unknown key; known are parameters, grid, list"),
    "an unknown parameter": (changed("methods:", "methds:"), "grid.methds: unknown parameter of 02_.*mean methods"),
    "an unknown parameter of the teacher": (
        changed("teacher.train_rows", "teacher.rows"), "parameters.teacher.rows: unknown parameter of 01_"),
    "a parameter of nobody": (
        changed("teacher.train_rows", "master.rows"), "parameters.master.rows: no parameter of 02_.*given are teacher"),
    "a wrong type": (GOOD + "list: [{num_train_epochs: many}]\n", "list.num_train_epochs = 'many': must be a"),
    "a fraction of an epoch": (GOOD + "list: [{num_train_epochs: 1.5}]\n", "list.num_train_epochs = 1.5: must be a"),
    "a number as text": (
        GOOD + "list: [{learning_rate: '2e-5'}]\n",
        "list.learning_rate = '2e-5': must be a number, not text: leave the quotes out"),
    "a number that is none": (GOOD + "list: [{alpha: .nan}]\n", "list.alpha = '.nan': must be a number"),
    "a value out of range": (GOOD + "list: [{alpha: 1.5}]\n", "list.alpha = 1.5: must be less than or equal to 1"),
    "an unknown choice": (changed("KD", "DK"), "grid.methods = 'DK': must be 'FT', 'KD'"),
    "an unknown precision": (GOOD + "list: [{mixed_precision: no}, {mixed_precision: half}]\n",
                             "list.mixed_precision = 'half': must be 'no', 'bf16' or 'fp16'"),
    "a student deeper than its teacher": (
        changed("[3, 2]", "[3, 13]"), "grid.student_layers = 13: must be between 1 and the teacher's 12 layers"),
    "a patient student of one layer": (
        changed("[FT, KD]", "[PKD-Skip]").replace("[3, 2]", "[1]"), "grid.student_layers = 1: PKD-Skip has no layer"),
    "a notebook that is not there": (changed("02_distill", "02_destill"), "notebook = .*no such file; .*02_distill"),
    "a notebook without parameters": (changed("02_distill_last_vs_skip", "index.md"), "notebook = 'index.md': "),
    "rows that are not there": (
        GOOD.replace("{teacher", "{teacher.source: nowhere/at/all, teacher"),
        "parameters.teacher.source = 'nowhere/at/all': "),
    "more rows than there are": (changed("64", "2001"), "parameters.teacher.train_rows = 2001: must be between 1 and"),
    "a model that is not there": (
        GOOD.replace("{teacher", "{teacher.backbone: nowhere/bert, teacher"),
        "parameters.teacher.backbone = 'nowhere/bert': no such folder or model"),
    "a teacher that is not there": (
        "notebook: 02_distill_last_vs_skip\nparameters: {teacher_dir: nowhere}\n",
        "parameters.teacher_dir = 'nowhere': no result.json there"),
    "an axis named twice": (changed("  student_layers", "  methods"), "line 6: methods: named twice"),
    "an axis in two places": (
        GOOD + "list: [{methods: KD}]\n", "list.methods: also in grid.methods; a name may stand in one place"),
    "a value that stands there twice": (changed("[FT, KD]", "[FT, FT]"), "grid.methods = .*'FT' stands there twice"),
    "an axis without values": (changed("[FT, KD]", "[]"), "grid.methods = .*: an axis needs a value"),
    "an axis that is no list": (changed("[FT, KD]", "FT"), "grid.methods = 'FT': must be a valid list"),
    "entries that do not name the same": (
        GOOD + "list: [{beta: 1.0}, {alpha: 0.5}]\n", "list.1 = .*: every entry must name the same parameters"),
    "nothing left": (GOOD + "exclude: [{methods: FT}, {methods: KD}]\n", "exclude: leaves no run"),
    "an exclusion of nothing": (GOOD + "exclude: [{methods: PKD-Skip}]\n", "exclude.0 = .*: no combination is"),
    "an exclusion of no axis": (GOOD + "exclude: [{beta: 1}]\n", "exclude.0 = .*: must name axes: methods"),
    "a seed below zero": (changed("[0, 1]", "[-1]"), "seeds = .*: must be from 0"),
    "a seed that is no number": (changed("[0, 1]", "[one]"), "seeds.0 = 'one': must be a valid integer"),
    "seeds as an axis": (changed("  methods: [FT, KD]", "  seeds: [0, 1]"), "grid.seeds: seeds have a key of"),
    "a folder for the results": (
        changed("{teacher", "{output_dir: here, teacher"), "parameters.output_dir: every run has a folder of its own"),
    "no notebook": ("seeds: [0]\n", "notebook: missing"),
    "no YAML": ("notebook: [\n", "line 2: no YAML: "),
    "no mapping": ("- 1\n", "content = .*: must be a valid dictionary"),
    "a second stage that keeps no axis": (
        GOOD + "then: {keep: [beta], parameters: {alpha: 0.5}}\n", "then.keep = 'beta': no axis of the first stage"),
    "a mistake in the second stage": (
        GOOD + "then: {keep: [methods], grid: {beta: [-1.0]}}\n", "then.grid.beta = -1.0: must be greater"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_mistake_is_one_clear_line_and_starts_nothing(kind, tmp_path, capsys):
    text, message = BAD[kind]
    (tmp_path / "some.yaml").write_text(text)
    assert runner.main([str(tmp_path / "some.yaml"), "--out", str(tmp_path / "out")]) == 2
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
    with pytest.raises(GridError, match=r"^smoke2: no such grid file; shipped are better_teacher, .*training_size$"):
        grid_path("smoke2")


@pytest.mark.parametrize("option", ["workers", "threads", "runs_per_gpu"])
def test_a_bad_option_is_one_clear_line(option, tmp_path):
    with pytest.raises(GridError, match=f"^{option} = 0: must be at least 1$"):
        runner.run_sweep("smoke", tmp_path / "out", **{option: 0})


def test_numbers_and_words_are_read_as_a_person_means_them(tmp_path):
    run = planned(tmp_path, GOOD + "list: [{learning_rate: 2e-5, mixed_precision: no, alpha: 1}]\n")[0]
    assert run.parameters["learning_rate"] == 2e-5
    assert run.parameters["mixed_precision"] == "no"
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
    with open(backbone / "model.safetensors", "ab") as weights:
        weights.write(b"\0")
    assert not {run.id for run in planned(tmp_path, text)} & {run.id for run in before}
    monkeypatch.setattr(plans, "VERSION", "0.2.0")
    assert not {run.id for run in planned(tmp_path, GOOD)} & {run.id for run in before}


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
        assert all(run.teachers for run in runs)
        json.dumps(runs[0].parameters)


def stand_ins(grid):
    """The grid's values with what is in the project for what is not."""
    here = {"backbone": "data/mini-bert-12", "teacher.source": "", "teacher.max_length": 64, "preset_of": "sst2"}
    entries = [entry | {"teacher.train_rows": entry["teacher.train_rows"] // 16} for entry in grid.together]
    axes = grid.grid | ({"task": ["mini-sentiment", "mini-inference"]} if "task" in grid.grid else {})
    parameters = {name: here.get(name, value) for name, value in grid.parameters.items()}
    return {"parameters": parameters, "together": entries, "grid": axes}


def test_yaml_s_own_rules_are_kept_for_others():
    import yaml

    assert yaml.safe_load("a: no") == {"a": False}  # ours reads a word, and leaves the library's loader alone
    assert yaml.load("a: no", grid._Loader) == {"a": "no"}
