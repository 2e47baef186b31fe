"""Records of runs as tables, and the runs among them that belong together."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from helpers import make_record, small_task
from papermill.exceptions import PapermillExecutionError

from pkdlib import ROOT, DistillConfig, FineTuneConfig, fine_tune, load_records, method_config, predict, validate
from pkdlib.analysis.tables import (
    covers,
    disagreements,
    epoch_tables,
    folded_epochs,
    history_frame,
    load_results,
    matching,
    scores_frame,
    students_of,
    varied,
)
from pkdlib.config import method_name
from pkdlib.data import Split
from pkdlib.records import RunRecord, save_result
from pkdlib.sweeps.notebooks import run_notebook
from pkdlib.tasks import Task


def test_a_results_table_has_a_row_per_run_with_configuration_scores_and_seconds(tmp_path: Path) -> None:
    save_result(make_record("a"), tmp_path / "a")
    save_result(make_record("b", layer_map=[], metrics={"dev": {"accuracy": 0.5}}), tmp_path / "b")
    frame = load_results(tmp_path)
    assert frame["run_id"].tolist() == ["a", "b"]
    first = frame.iloc[0]
    assert first["dev_accuracy"] == 0.75
    assert first["test_accuracy"] == 0.7
    assert math.isnan(frame.iloc[1]["test_accuracy"])
    assert (first["training_s"], first["teacher_outputs_s"]) == (1.5, 0.25)
    assert (first["num_hidden_layers"], first["seed"], first["alpha"], first["layer_map"]) == (3, 1, 0.7, [4, 8])
    assert set(DistillConfig.model_fields) < set(frame.columns)


def test_the_majority_s_scores_are_columns_where_a_record_has_them(tmp_path: Path) -> None:
    save_result(make_record("new", majority={"dev": {"accuracy": 0.6}, "test": {"accuracy": 0.55}}), tmp_path / "new")
    save_result(make_record("old"), tmp_path / "old")
    frame = load_results(tmp_path).set_index("run_id")
    assert (frame.loc["new", "dev_accuracy_majority"], frame.loc["new", "test_accuracy_majority"]) == (0.6, 0.55)
    assert math.isnan(frame.loc["old", "dev_accuracy_majority"])
    assert not load_results(tmp_path / "old").columns.str.endswith("_majority").any()


def test_a_history_table_has_a_row_per_epoch_of_every_run() -> None:
    frame = history_frame([make_record("a"), make_record("b", method="FT", seed=2)])
    assert frame.to_dict("list") == {
        "run_id": ["a", "a", "b", "b"],
        "method": ["PKD-Skip", "PKD-Skip", "FT", "FT"],
        "num_hidden_layers": [3] * 4,
        "seed": [1, 1, 2, 2],
        "epoch": [1, 2, 1, 2],
        "dev_accuracy": [0.6, 0.75, 0.6, 0.75],
    }


def test_disagreements_are_the_rows_to_which_two_models_give_different_classes_the_surest_first() -> None:
    task, split = Task("t", ("text",), ("no", "yes")), Split("dev", (["a", "b", "c"],), np.array([0, 1, 1]))
    teacher, student = torch.tensor([[2.0, 0.0]] * 3), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])
    frame = disagreements(split, task, {"teacher": teacher, "student": student})
    assert frame[["text", "label", "teacher", "student"]].to_numpy().tolist() == [
        ["c", "yes", "no", "yes"], ["a", "no", "no", "yes"],
    ]  # fmt: skip
    assert frame["student's probability"].tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1))])
    assert frame["teacher's probability"].tolist() == pytest.approx([1 / (1 + math.exp(-2))] * 2)


def test_scores_of_runs_are_those_of_their_records_and_of_other_rows() -> None:
    data = small_task(train=16)
    run = fine_tune(data, validate(FineTuneConfig, num_hidden_layers=1, num_train_epochs=1))
    frame = scores_frame({"mine": run}, data.splits["train"], data.task)
    right = (predict(run.model, data.splits["train"]).argmax(dim=1).numpy() == data.splits["train"].labels).mean()
    assert frame.loc["mine"].to_dict() == {
        "dev accuracy": run.record.metrics["dev"]["accuracy"], "held-out accuracy": right,
    }  # fmt: skip


def test_students_are_found_by_their_teacher_s_weights(tmp_path: Path) -> None:
    save_result(make_record("teacher", fingerprints={"weights": "abc"}), tmp_path / "teacher")
    students = tmp_path / "students"
    save_result(make_record("ours", fingerprints={"weights": "1", "teacher_weights": "abc"}), students / "ours")
    save_result(make_record("another's", fingerprints={"weights": "2", "teacher_weights": "xyz"}), students / "another")
    save_result(make_record("nobody's", fingerprints={"weights": "3"}), students / "nobody")
    ((folder, found),) = students_of(tmp_path / "teacher", students)
    assert (folder, found.run_id) == (students / "ours", "ours")


def test_no_students_are_no_error(tmp_path: Path) -> None:
    save_result(make_record("teacher", fingerprints={"weights": "abc"}), tmp_path / "teacher")
    assert students_of(tmp_path / "teacher", tmp_path / "nowhere") == []
    (tmp_path / "no-record-here").mkdir()
    assert students_of(tmp_path / "no-record-here", tmp_path) == []


def test_matching_finds_the_runs_of_a_setting_whatever_their_seed(tmp_path: Path) -> None:
    recorded = load_records(ROOT / "data" / "results" / "mini-sentiment-3-tuned.jsonl")
    base = validate(DistillConfig, num_hidden_layers=3, seed=77)
    found = matching(recorded, base)
    assert sorted(record.seed for record in found) == list(range(10))
    assert {record.method for record in found} == {"PKD-Skip"}
    assert len(matching(recorded, method_config("KD", base))) == 10
    # These fields are younger than the records, which stand for their defaults.
    assert "shuffle" not in found[0].config
    assert matching(recorded, validate(DistillConfig, num_hidden_layers=3, shuffle=False)) == []
    # A teacher's settings may be a student's but for what only students have.
    teacher = next(record for record in recorded if record.method == "teacher")
    same = validate(DistillConfig, **teacher.config, alpha=0, beta=0)
    assert matching([teacher], same) == []


def test_recorded_runs_cover_those_of_their_task_rows_models_and_settings_alone() -> None:
    recorded = load_records(ROOT / "data" / "results" / "mini-sentiment-3-quirks.jsonl")
    teacher = next(record for record in recorded if record.method == "teacher")
    student = matching(recorded, validate(DistillConfig, num_hidden_layers=3))[0]

    def changed(record: RunRecord, **changes: object) -> RunRecord:
        return record.model_copy(update=changes)

    spelled = student.config | {"backbone": str(ROOT / "data" / ".." / "data" / "mini-bert-12"), "seed": 77}
    assert covers(recorded, [teacher, changed(student, seed=77, config=spelled)])
    for other in (
        [changed(teacher, config=teacher.config | {"num_train_epochs": 1}), student],
        [changed(teacher, history=[]), student],  # of a teacher from elsewhere nobody knows its settings
        [teacher, changed(student, task="mini-inference")],
        [teacher, changed(student, fingerprints=student.fingerprints | {"train": "0"})],
        [teacher, changed(student, config=student.config | {"backbone": "data/mini-bert-24"})],
        [teacher, changed(student, config=student.config | {"learning_rate": 2e-3})],
    ):
        assert not covers(recorded, other)


def test_varied_runs_differ_from_the_setting_in_one_field_alone() -> None:
    base = validate(DistillConfig, num_hidden_layers=3)
    settings = {
        "base": {}, "other seed": {"seed": 4}, "warmer": {"temperature": 10}, "KD": {"beta": 0}, "eager": {"beta": 3},
        "both": {"beta": 3, "temperature": 10}, "last": {"strategy": "last"},
    }  # fmt: skip
    runs = [
        make_record(name, method=method_name(config), config=config.model_dump(), seed=config.seed)
        for name, changes in settings.items()
        for config in [validate(DistillConfig, **base.model_dump() | changes)]
    ]
    names = lambda field: [run.run_id for run in varied(runs, base, field)]  # noqa: E731
    assert names("beta") == ["base", "other seed", "KD", "eager"]
    assert names("temperature") == ["base", "other seed", "warmer"]
    assert names("strategy") == ["base", "other seed", "last"]
    assert names("seed") == names("train_rows") == ["base", "other seed"]


PRINTED = """A: resumes after epoch 1/3
A: epoch 2/3, train loss 0.5000, dev accuracy 0.7000, 1.5 s
A: epoch 3/3, train loss 0.4000, dev accuracy 0.7000, 1.0 s
A: epoch 1/1, train loss 0.6000, dev accuracy 0.6000, 0.2 s
B, seed 0: epoch 1/2, train loss 9.0000, dev loss 0.2000, 4.0 s
"""


def test_epochs_become_a_table_for_each_run_with_a_line_that_names_the_best() -> None:
    (first, table), (again, _), (other, _) = epoch_tables(PRINTED)  # two runs of one name, one of which was resumed
    assert first == "A: dev accuracy 0.7000 in epoch 2 of 3, 2 s"  # of equals the first, as training keeps it
    assert table.to_dict("list") == {
        "epoch": ["2", "3"], "train loss": ["0.5000", "0.4000"], "dev accuracy": ["0.7000"] * 2,
        "seconds": ["1.5", "1.0"],
    }  # fmt: skip
    assert again == "A: dev accuracy 0.6000 in epoch 1 of 1, 0 s"
    assert other == "B, seed 0: dev loss 0.2000 in epoch 1 of 2, 4 s"
    assert epoch_tables("nothing of the kind\n") == []


def test_a_training_s_own_lines_are_read(capsys) -> None:
    with folded_epochs():  # outside of a notebook nothing changes
        run = fine_tune(small_task(), validate(FineTuneConfig, num_hidden_layers=2, num_train_epochs=2))
    ((line, table),) = epoch_tables(capsys.readouterr().out)
    assert line.startswith("mini-sentiment teacher 2 layers seed 0: dev accuracy ")
    assert table["dev accuracy"].tolist() == [f"{epoch['dev_accuracy']:.4f}" for epoch in run.record.history]


def test_a_notebook_keeps_a_line_for_each_run_and_the_log_a_line_for_each_epoch(tmp_path: Path, capsys) -> None:
    source = f"print({PRINTED!r}, end='')"
    setup = "from pkdlib.analysis.tables import folded_epochs"
    cells = [
        setup,
        f"print('before')\nwith folded_epochs():\n    {source}",
        f"with folded_epochs():\n    {source}\n    1 / 0",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    with pytest.raises(PapermillExecutionError, match="division by zero"):
        run_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {})
    assert capsys.readouterr().out == f"before\n{PRINTED}{PRINTED}"
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    folded, failed = [cell for cell in cells if cell.cell_type == "code"][-2:]
    (output,) = folded.outputs
    assert output.data["text/html"].count("<summary>") == 3
    assert "<pre>A: resumes after epoch 1/3\n</pre>" in output.data["text/html"]
    assert failed.outputs[0].text == PRINTED
