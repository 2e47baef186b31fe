"""Records of runs as tidy tables, and the runs among them that belong together."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from html import escape
from io import StringIO
from pathlib import Path

import pandas as pd
from torch import Tensor

from pkdlib.config import DistillConfig, FineTuneConfig
from pkdlib.data import EncodedSplit, Split
from pkdlib.engine.checkpoints import weights_fingerprint
from pkdlib.engine.configs import Role, fields_with_role, pick
from pkdlib.engine.files import here
from pkdlib.evaluation import evaluate
from pkdlib.models import load_classifier
from pkdlib.readers.records import flat, load_records
from pkdlib.readers.teachers import record_of
from pkdlib.records import RESULT_FILE, RunRecord
from pkdlib.tasks import Task
from pkdlib.training import Run

# What a training prints of an epoch: its name, epoch, epochs in all, training loss, dev metric, its value, seconds.
EPOCH = re.compile(r"^(.+): epoch (\d+)/(\d+), train loss (\S+), (dev .+) (\S+), (\S+) s\n", re.MULTILINE)


def students_of(teacher: str | Path, students_dir: Path) -> list[tuple[Path, RunRecord]]:
    """(folder, record) of every student below students_dir that this very teacher taught; none is no error."""
    students = [(file.parent, load_records(file)[0]) for file in sorted(Path(students_dir).rglob(RESULT_FILE))]
    # One of several tasks has a record alone until `write_task` puts its model beside it.
    students = [one for one in students if "tasks" not in one[1].config or (one[0] / "config.json").is_file()]
    record = record_of(teacher)
    weights = {record.fingerprints["weights"]} if record else set()
    for names in {student.get_task().label_names for _, student in students} if not record else ():
        with suppress(OSError, ValueError):  # no classifier, or one of other classes: it taught none of these
            weights.add(weights_fingerprint(load_classifier(teacher, names)))
    return [student for student in students if student[1].fingerprints.get("teacher_weights") in weights]


def matching(records: Iterable[RunRecord], config: DistillConfig) -> list[RunRecord]:
    """The distillations that were run with `config` but for the seed; what an older record lacked was its default."""
    return varied(records, config, "seed")


def place_of(model: str) -> str:
    """The same of every spelling of a model's folder, and of no other model's; of a hub id too."""
    return os.path.realpath((here(model) or [model])[0])


def covers(records: Iterable[RunRecord], runs: Iterable[RunRecord]) -> bool:
    """Whether each run has one like it among the records: of its method, task, rows and settings, whatever the seed."""

    def kind(run: RunRecord) -> str:
        config = FineTuneConfig() if run.method == "teacher" else DistillConfig()
        used = config.model_dump() | run.config | dict.fromkeys(["seed", *fields_with_role(config, Role.SPEED)])
        used["backbone"] = place_of(used["backbone"])
        rows = {split: run.fingerprints.get(split) for split in ("train", "dev", "test")}
        # A teacher from elsewhere has no history, and nobody knows its settings.
        return json.dumps([run.method, run.task, run.max_length, rows, used, bool(run.history)], sort_keys=True)

    return {kind(run) for run in runs} <= {kind(record) for record in records}


def varied(records: Iterable[RunRecord], config: DistillConfig, field: str) -> list[RunRecord]:
    """The distillations like `config` in all but the seed and a field, one of DistillConfig's or train_rows."""
    pick("field", field, [*DistillConfig.model_fields, "train_rows"])
    defaults, names = DistillConfig().model_dump(), [field, "seed", *fields_with_role(config, Role.SPEED)]
    free = dict.fromkeys(names)
    alike = [record for record in records if defaults | record.config | free == config.model_dump() | free]
    return [record for record in alike if record.method != "teacher"]  # whose settings may equal a student's


def load_results(folder: Path) -> pd.DataFrame:
    """A row per run: what it was, its configuration's fields, and "<split>_<metric>" columns in 0..1.

    A column that ends in "_majority" is the score of the most frequent class; older records lack it.
    """
    return results_frame(load_records(folder))


def results_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """`load_results` of records at hand."""
    rows, names = [], "run_id method task source max_length train_rows best_epoch num_parameters layer_map".split()
    for record in records:
        row = {name: getattr(record, name) for name in names} | record.config | flat(record.metrics)
        row |= {f"{name}_majority": score for name, score in flat(record.majority).items()}
        row |= {f"{name}_s": seconds for name, seconds in record.durations_s.items()}
        row |= {"teacher": record.fingerprints.get("teacher_weights", "")}  # its weights' fingerprint
        rows.append(row | {"device": record.device, "created_at": record.created_at})
    return pd.DataFrame(rows)


def scores_frame(runs: Mapping[str, Run], split: EncodedSplit, task: Task, name: str = "held-out") -> pd.DataFrame:
    """A row per run: its scores on the dev rows, which chose its epoch, and those on a labelled split of that name."""
    rows = {}
    for run_name, run in runs.items():
        of_split = evaluate(run.model, split, task)
        rows[run_name] = {f"dev {metric}": run.record.metrics["dev"][metric] for metric in task.metrics}
        rows[run_name] |= {f"{name} {metric}": of_split[metric] for metric in task.metrics}
    return pd.DataFrame.from_dict(rows, orient="index")


def disagreements(split: Split, task: Task, logits: Mapping[str, Tensor]) -> pd.DataFrame:
    """The labelled rows to which two models give different classes; that of which the second is surest comes first.

    logits: by each model's name, (rows, classes). A model has two columns, its class and that class's probability.
    """
    frame = pd.DataFrame(dict(zip(task.columns, split.texts, strict=True)))
    frame["label"] = [task.show(label) for label in split.labels]
    for name, of in logits.items():
        sure, classes = of.softmax(dim=-1).max(dim=-1)
        frame[name], frame[f"{name}'s probability"] = [task.show(one) for one in classes], sure.numpy()
    first, second = logits
    return frame[frame[first] != frame[second]].sort_values(f"{second}'s probability", ascending=False)


def history_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """A row per epoch of every run: run_id, method, num_hidden_layers, seed, epoch and its figures."""
    rows = []
    for run in records:
        key = {"run_id": run.run_id, "method": run.method, "num_hidden_layers": run.config["num_hidden_layers"]}
        rows += [key | {"seed": run.seed} | epoch for epoch in run.history]
    return pd.DataFrame(rows)


def variant_names(frame: pd.DataFrame) -> pd.Series:
    """Each run's method, but PKD-Skip with another distance than the paper's by that distance's name."""
    distance = frame["distance"].where(frame["normalize"] | (frame["distance"] != "squared"), "raw")
    return frame["method"].where((frame["method"] != "PKD-Skip") | (distance == "squared"), distance)


def several_tasks(frame: pd.DataFrame) -> pd.DataFrame:
    """The students: `case` is their task and method, `method` how each learned: with other tasks, alone, or longer."""
    frame = frame[frame["method"] != "teacher"]
    together, epochs = frame["tasks"].notna(), frame["num_train_epochs"]
    ways = frame["sampling"].map({"size": "by size", "sqrt": "by root"}).where(together, "alone")
    ways = ways.mask(~together & (epochs > epochs[together].max()), "alone, longer")
    return frame.assign(case=frame["task"] + ", " + frame["method"], method=ways)


@contextmanager
def folded_epochs() -> Iterator[None]:
    """Around the trainings of a notebook's cell: once they are done, a line a run, which opens its table of epochs.

    Until then, in logs, and outside of notebooks, their lines stand as printed. What the cell showed before goes.
    """
    if "ipykernel" not in sys.modules:
        yield
        return
    from IPython.display import clear_output, display  # here, because only notebooks have it
    from IPython.utils.io import Tee

    with closing(Tee(StringIO())) as told:  # printed, and kept
        yield
        printed = told.file.getvalue()
    others, runs = EPOCH.sub("", printed), epoch_tables(printed)
    html = [f"<details><summary>{escape(run)}</summary>{table.to_html(index=False)}</details>" for run, table in runs]
    clear_output(wait=True)
    plain = others + "\n".join(run for run, _ in runs)
    display({"text/plain": plain, "text/html": f"<pre>{escape(others)}</pre>" * bool(others) + "".join(html)}, raw=True)


def epoch_tables(printed: str) -> list[tuple[str, pd.DataFrame]]:
    """Of each training that was printed: a line that names its best epoch, and its epochs as a table."""
    columns = ["run", "epoch", "epochs", "train loss", "metric", "score", "seconds"]
    lines, tables = pd.DataFrame(EPOCH.findall(printed), columns=columns), []
    starts = (lines["run"] != lines["run"].shift()) | (lines["epoch"] == "1")  # two runs may have one name
    for _, table in lines.groupby(starts.cumsum()):
        best, seconds = table.loc[table["score"].astype(float).idxmax()], table["seconds"].astype(float).sum()
        line = "{run}: {metric} {score} in epoch {epoch} of {epochs}".format(**best)
        shown = table[["epoch", "train loss", "score", "seconds"]].rename(columns={"score": best["metric"]})
        tables.append((f"{line}, {seconds:.0f} s", shown))
    return tables
