"""Comparisons: groups of runs that differ in method, size and seed alone, and what varies between the groups."""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, groupby, product
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from pkdlib.analysis.statistics import holm, paired_difference, size_warning
from pkdlib.analysis.tables import results_frame
from pkdlib.config import DistillConfig, FineTuneConfig, roles_of_method
from pkdlib.engine.configs import Role, role_of
from pkdlib.records import RunRecord
from pkdlib.tasks import TASKS

Setting = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The runs of one task and setting, of any method, size and seed, and the teachers of these runs."""

    task: str
    setting: Setting
    records: list[RunRecord]
    teachers: list[RunRecord]

    @property
    def metrics(self) -> list[str]:
        """Columns of the tidy table, the task's first metric first: on test where all have it, else on dev."""
        split = "test" if all("test" in run.metrics for run in self.records) else "dev"
        return [f"{split}_{name}" for name in self.records[0].get_task().metrics]

    @property
    def dev_metric(self) -> str:
        """The column of the task's first metric on dev, by which settings are chosen."""
        return f"dev_{self.records[0].get_task().metrics[0]}"

    @property
    def mean_on_dev(self) -> float:
        """The mean of that score over all runs that have it, 0 where none has."""
        name, scores = self.dev_metric.removeprefix("dev_"), [run.metrics.get("dev", {}) for run in self.records]
        return fmean([own[name] for own in scores if name in own] or [0.0])

    @property
    def sizes(self) -> list[int]:
        return sorted({record.config["num_hidden_layers"] for record in self.records}, reverse=True)

    def frame(self, size: int | None = None) -> pd.DataFrame:
        """The tidy table of the runs, of one size where given; methods in the order FT, KD, PKD."""
        table = results_frame(self.records).sort_values("method", kind="stable", ignore_index=True)
        return table if size is None else table[table["num_hidden_layers"] == size]


def setting_of(record: RunRecord) -> Setting:
    """What a student's score depends on, but for method, size and seed: its settings, its data and its teacher."""
    setting = {**DistillConfig().model_dump(), "sampling": "size", **record.config}  # what a record lacks: its default
    setting["tasks"] = " + ".join(record.config.get("tasks", [record.task]))  # that one encoder learned
    setting |= {name: getattr(record, name) for name in ("task", "source", "max_length", "train_rows", "processes")}
    setting |= {f"{split} rows": record.fingerprints.get(split) for split in record.metrics}
    if record.task not in TASKS:  # another of the same name may have other columns, metrics or rows
        setting["task"] = f"{record.get_task()} {record.fingerprints.get('dev')}"
    setting["unlabelled"] = ""
    if record.unlabelled_rows:
        setting["unlabelled"] = f"{record.unlabelled_rows} texts ({record.fingerprints.get('unlabelled')})"
    setting["teacher"] = f"weights {record.fingerprints.get('teacher_weights')}"
    if "teacher_config" in record.fingerprints:  # which older records lack
        setting["teacher"] += f", config {record.fingerprints['teacher_config']}"
    setting["training rows"] = record.fingerprints.get("train")
    if "other_rows" in record.fingerprints:  # of the other tasks that the student learnt
        setting["training rows"] = f"{setting['training rows']}, others {record.fingerprints['other_rows']}"
        setting["teacher"] += f", others {record.fingerprints['other_teachers']}"
    if setting["distance"] == "raw":  # by another name
        setting |= {"distance": "squared", "normalize": False}
    return _of_method(setting, record.method)


def _of_method(setting: Setting, method: str) -> Setting:
    """The part of a setting that has an effect on runs of the method."""
    roles = roles_of_method(method)
    taught = Role.SOFT in roles or setting["init"] == "teacher"
    of_the_teacher = () if taught else ("teacher", "unlabelled")
    kept = {name: value for name, value in setting.items() if name not in of_the_teacher}
    return {name: value for name, value in kept.items() if role_of(name, DistillConfig) in roles}


def _task_names(students: Iterable[tuple[RunRecord, Setting]]) -> dict[str, str]:
    """What each task is called, by what a setting says of it; of tasks of one name, what tells a later one apart."""
    definitions: dict[str, dict[str, Setting]] = defaultdict(dict)
    for run, setting in students:
        own = {name: ", ".join(v) if isinstance(v, tuple) else v for name, v in vars(run.get_task()).items()}
        own |= {"source": run.source, "dev_fraction": run.dev_fraction}
        definitions[run.task].setdefault(setting["task"], own)
    names = {}
    for name, alike in definitions.items():
        for number, (key, own) in enumerate(alike.items(), start=1):
            told = told_apart(own, next(iter(alike.values()))) or "other rows"
            names[key] = name if number == 1 else f"{name} ({number}: {told})"
    return names


def _teacher_name(teacher: RunRecord) -> str:
    """Its depth and backbone, and a hash of all its settings but the seed."""
    config = {**FineTuneConfig().model_dump(), **teacher.config, "seed": None}
    known = sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:4]
    return f"{config['num_hidden_layers']} layers of {Path(config['backbone']).name} ({known})"


def _weights(teacher: Any) -> str:
    """Of a setting's teacher, its weights alone, which its own record names."""
    return str(teacher).partition(", config ")[0]


def _key(setting: Setting) -> frozenset[tuple[str, Hashable]]:
    return frozenset((name, v if isinstance(v, Hashable) else json.dumps(v)) for name, v in setting.items())


def unique_runs(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The latest record of every method, size, seed, setting, data and teacher, in the place of the first.

    A record whose run was scored on fewer splits than another's of the same gives way to that. Of teachers with equal
    settings each stays that has students here.
    """
    records = list(records)
    taught = {run.fingerprints.get("teacher_weights") for run in records}
    same: dict[Hashable, dict[frozenset, RunRecord]] = defaultdict(dict)
    for run in records:
        setting = setting_of(run)
        scored = frozenset((f"{split} rows", setting.pop(f"{split} rows")) for split in run.metrics)
        weights = run.fingerprints.get("weights")
        itself = weights if run.method == "teacher" and weights in taught else ""
        latest = same[run.method, run.config["num_hidden_layers"], run.seed, _key(setting), itself]
        latest[scored] = max(latest.get(scored, run), run, key=lambda run: run.created_at)
    return [run for latest in same.values() for own, run in latest.items() if not any(own < other for other in latest)]


def comparisons(records: Iterable[RunRecord]) -> list[Comparison]:
    """All comparisons among runs that `unique_runs` gave, a task's largest first, of equals the best on dev.

    A run may be in several: plain fine-tuning has no temperature, so it stands beside all temperatures. Data and
    teacher may change with the seed, as long as all methods of a seed share them; else they are part of the setting.
    """
    records, made = list(records), []
    teachers = {f"weights {run.fingerprints.get('weights', '')}": run for run in records if run.method == "teacher"}
    names = {weights: _teacher_name(teacher) for weights, teacher in teachers.items()}
    students = [(run, setting_of(run)) for run in records if run.method != "teacher"]
    tasks = _task_names(students)
    for group in most_specific(
        students,
        lambda student: {k: names.get(_weights(v), v) for k, v in student[1].items() if k != "training rows"},
    ):
        trained = {(run.seed, own["training rows"]) for run, own in group[1]}
        taught = {(run.seed, own["teacher"]) for run, own in group[1] if "teacher" in own}
        one_origin_a_seed = len(dict(trained)) == len(trained) and len(dict(taught)) == len(taught)
        for setting, same in [group] if one_origin_a_seed else most_specific(group[1], lambda student: student[1]):
            weights = dict.fromkeys(_weights(own.get("teacher")) for _, own in same)
            known = [teachers[name] for name in weights if name in teachers]
            made.append(Comparison(tasks[setting["task"]], setting, [run for run, _ in same], known))
    places = {name: place for place, name in enumerate(TASKS)}  # tasks of one's own come last, by name
    return sorted(
        made, key=lambda one: (places.get(one.task, len(places)), one.task, -len(one.records), -one.mean_on_dev)
    )


def most_specific(items: Iterable[Any], setting: Callable[[Any], Setting]) -> list[tuple[Setting, list[Any]]]:
    """The most specific settings of the items, each with the items compatible with it; in order of appearance.

    One that has all fields of another with equal values, and some more, is more specific. There are few sets of fields
    (FT's, KD's, PKD's): each setting is cut down to those and looked up, instead of comparing all pairs.
    """
    items, settings, places = list(items), {}, defaultdict(list)
    for place, own in enumerate(map(setting, items)):
        settings.setdefault(_key(own), own)
        places[_key(own)].append(place)
    shapes = {frozenset(own) for own in settings.values()}
    parts = {key: {frozenset(each for each in key if each[0] in shape) for shape in shapes} for key in settings}
    covered = {part for key, own_parts in parts.items() for part in own_parts if part != key}
    members = {key: sorted(place for part in parts[key] for place in places.get(part, ())) for key in settings}
    return [(own, [items[place] for place in members[key]]) for key, own in settings.items() if key not in covered]


def main_comparisons(compared: Iterable[Comparison]) -> dict[str, Comparison]:
    """Each task's comparison of most runs, of equals the best on dev: the first of those that `comparisons` gave."""
    return {task: next(ones) for task, ones in groupby(compared, lambda one: one.task)}


def told_apart(setting: Setting, other: Setting) -> str:
    """Each field of `setting` that has another value in `other`, with its value; "" where there is none."""
    changed = {name: value for name, value in setting.items() if value != other.get(name, value)}
    texts = {k: f"{v:g}" if isinstance(v, float) else Path(str(v)).name for k, v in changed.items()}  # no long paths
    return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in texts.items())


def method_pairs(methods: Iterable[str]) -> list[tuple[str, str]]:
    """(method, baseline): everything against FT, patience against KD, Skip against Last."""
    methods = list(dict.fromkeys(methods))
    pairs = [(method, "FT") for method in methods if method != "FT"]
    pairs += [(method, "KD") for method in methods if method.startswith("PKD")] + [("PKD-Skip", "PKD-Last")]
    return [pair for pair in pairs if set(pair) <= set(methods)]


def all_differences(compared: Iterable[Comparison]) -> pd.DataFrame:
    """`paired_difference` of the methods of every comparison and size, each once; Holm's p is over all of a task."""
    compared, seen, rows = list(compared), set(), []
    mains = main_comparisons(compared)
    for one, size in [(each, size) for each in compared for size in each.sizes]:
        metric = one.metrics[0]
        split, frame = metric.partition("_")[0], one.frame(size)[["run_id", "method", "seed", metric]]
        in_rows = metric.partition("_")[2] in ("accuracy", "f1")  # of other scores, a row is worth what it may
        counted = next((run.eval_rows[split] for run in one.records if split in run.eval_rows), None)  # None: unknown
        for pair in method_pairs(frame["method"]):
            both = frame[frame["method"].isin(pair)]
            if (key := (*pair, frozenset(both["run_id"]))) in seen or not both["seed"].duplicated().any():
                continue
            seen.add(key)
            setting = told_apart(_of_method(one.setting, pair[0]), mains[one.task].setting) or "main"
            row = {"task": one.task, "metric": metric, "setting": setting, "num_hidden_layers": size}
            row |= paired_difference(both, metric, *pair) | {"rows": counted}
            rows.append(row | {"warning": size_warning(row["difference"], counted) if counted and in_rows else ""})
    table = pd.DataFrame(rows)
    if rows:
        table["rows"] = table["rows"].astype("Int64")  # whole numbers, also where one is missing
        table.insert(table.columns.get_loc("p") + 1, "p_holm", table.groupby("task")["p"].transform(holm))
    return table


def sensitivities(compared: Iterable[Comparison]) -> list[tuple[Comparison, str, int | None, pd.DataFrame]]:
    """Every field that varies while all others that matter are equal: (a comparison, field, size, tidy table).

    The field is a column of the table; methods on which it has no effect are left out. A size of None: it varies.
    """
    compared, made = list(compared), []
    methods = sorted({run.method for one in compared for run in one.records})
    settings = [{method: _of_method(one.setting, method) for method in methods} for one in compared]
    for field in dict.fromkeys(name for one in compared for name in one.setting):
        if field == "task" or field.endswith(" rows") or len({repr(one.setting.get(field)) for one in compared}) == 1:
            continue
        rests = [  # of each comparison: method -> all that matters to it but the field
            {method: _key(own | {field: method}) for method, own in owns.items() if field in own} for owns in settings
        ]
        alike: dict[Hashable, dict[str, tuple]] = defaultdict(dict)  # rest, size -> run_id -> (run, value of the field)
        for one, rest in zip(compared, rests, strict=True):
            value = "none" if one.setting.get(field) is None else one.setting[field]
            value = value if isinstance(value, Hashable) else json.dumps(value)  # a list of class weights
            for run in (run for run in one.records if run.method in rest):
                alike[rest[run.method], run.config["num_hidden_layers"]][run.run_id] = (run, value)
        varied = {key: runs for key, runs in alike.items() if len({value for _, value in runs.values()}) > 1}
        sizes, shown = sorted({size for _, size in varied}, reverse=True), []
        for (one, rest), size in product(zip(compared, rests, strict=True), sizes):
            runs = dict(chain.from_iterable(varied.get((key, size), {}).items() for key in rest.values()))
            if runs and not any(runs.keys() <= earlier.keys() for earlier in shown):
                shown.append(runs)
                records, values = zip(*runs.values(), strict=True)
                made.append((one, field, size, results_frame(records).assign(**{field: values})))
    deep = [one for one in main_comparisons(compared).values() if len(one.sizes) > 1]
    return made + [(one, "num_hidden_layers", None, one.frame()) for one in deep]
