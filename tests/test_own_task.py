"""A task of one's own, in no table: it trains, is read again from its record, is swept and reported."""

import csv
import json
from pathlib import Path

import pytest
from helpers import mini_tokenizer, read_task

from pkdlib import DistillConfig, distill, encode_task, fine_tune, load_records, load_task, reload_data, validate
from pkdlib.analysis.comparisons import comparisons
from pkdlib.config import FineTuneConfig
from pkdlib.engine.configs import ConfigError
from pkdlib.evaluation import evaluate
from pkdlib.records import RunRecord
from pkdlib.tasks import TASKS, Task, get_task

TASK = Task("tickets", ("text",), ("calm", "urgent"), ("f1", "accuracy"))
ROWS = {"train": 64, "dev": 40, "test": 24}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of the embedded task under other names: columns text and label, labels as words, in CSV files."""
    folder = tmp_path_factory.mktemp("tickets")
    for name, rows in ROWS.items():
        split = read_task("mini-sentiment").splits[name]
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((split.texts[0][row], TASK.label_names[split.labels[row]]) for row in range(rows))
    return folder


@pytest.fixture(scope="module")
def teacher_dir(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    data = encode_task(load_task(TASK, source), mini_tokenizer(), 64)
    config = validate(FineTuneConfig, num_hidden_layers=4, num_train_epochs=1)
    run = fine_tune(data, config, output_dir=out)
    assert run.model.config.id2label == {0: "calm", 1: "urgent"}
    return out


def test_no_table_knows_it() -> None:
    assert TASK.name not in TASKS and get_task(TASK) is TASK
    with pytest.raises(ValueError, match=r"task = 'tickets': must be one of sst2, "):
        get_task("tickets")


def test_its_record_carries_what_it_is(teacher_dir: Path) -> None:
    (record,) = load_records(teacher_dir)
    assert record.task == "tickets" and record.get_task() == TASK
    assert set(record.metrics["dev"]) == {"loss", "f1", "accuracy"} and record.eval_rows == {"dev": 40, "test": 24}
    definition = json.loads((teacher_dir / "result.json").read_text())["task_definition"]
    assert definition["label_names"] == ["calm", "urgent"] and definition["metrics"] == ["f1", "accuracy"]
    older = {**record.model_dump(), "task_definition": None, "task": "mini-sentiment"}
    assert RunRecord(**older).get_task() == TASKS["mini-sentiment"]


def test_it_is_read_again_distilled_and_compared(teacher_dir: Path, tmp_path: Path) -> None:
    data = reload_data(load_records(teacher_dir)[0])
    assert data.task == TASK and len(data.splits["train"]) == ROWS["train"]
    for method, changes in {"FT": {"alpha": 0, "beta": 0}, "KD": {"beta": 0}, "PKD-Skip": {}}.items():
        config = validate(DistillConfig, num_hidden_layers=2, num_train_epochs=1, **changes)
        run = distill(data, config, teacher_dir, output_dir=tmp_path / method, cache_dir=tmp_path / "cache")
        assert run.record.method == method
        assert evaluate(run.model, data.splits["test"], TASK) == pytest.approx(run.record.metrics["test"])
    (comparison,) = comparisons([*load_records(teacher_dir), *load_records(tmp_path)])
    assert comparison.task == "tickets" and comparison.metrics == ["test_f1", "test_accuracy"]
    assert len(comparison.records) == 3


def test_it_is_swept_and_reported(teacher_dir: Path, tmp_path: Path) -> None:
    """A grid over a teacher that one has: nothing names the task but the teacher's record."""
    from pkdlib.__main__ import main

    grid = tmp_path / "tickets.yaml"
    grid.write_text(
        "notebook: 02_distill_last_vs_skip\n"
        f"parameters: {{teacher_dir: {teacher_dir}, student_layers: 2, num_train_epochs: 1}}\n"
        "grid: {methods: [FT, PKD-Skip]}\nseeds: [0]\n"
    )
    out = tmp_path / "out"
    assert main(["sweep", str(grid), "--out", str(out), "--dry-run"]) == 0
    assert main(["sweep", str(grid), "--out", str(out), "--workers", "1"]) == 0
    records = load_records(out)
    assert sorted(record.method for record in records) == ["FT", "PKD-Skip"]
    assert {record.get_task() for record in records} == {TASK}
    assert main(["report", str(out)]) == 0
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "tickets, test f1" in page and "tickets, test accuracy" in page


def test_a_configuration_names_no_task_of_a_closed_table() -> None:
    """Settings of notebooks look a task up when they are checked; a task added to the table is one at once."""
    from pkdlib.analysis.settings import SimilarityConfig

    values = {"model_a": "a", "model_b": "b"}
    with pytest.raises(ConfigError, match=r"^task = 'tickets': must be one of sst2, .*mini-inference, custom$"):
        validate(SimilarityConfig, task="tickets", **values)
    TASKS["tickets"] = TASK
    try:
        assert validate(SimilarityConfig, task="tickets", **values).task == "tickets"
    finally:
        del TASKS["tickets"]
