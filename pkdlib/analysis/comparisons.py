"""Comparisons: groups of runs that differ in method, size and seed alone, and what varies between the groups."""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from pkdlib.analysis.statistics import holm, paired_difference, size_warning
from pkdlib.analysis.tables import results_frame
from pkdlib.config import DistillConfig, FineTuneConfig, Role, role_of, roles_of_method
from pkdlib.records import RunRecord
from pkdlib.tasks import TASKS

Setting = dict[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Comparison:
    """The runs of one task and setting, of any method, size and seed, and the teachers of these runs."""

    task: str
    setting: Setting
    records: list[RunRecord]
    teachers: list[RunRecord]

    @property
    def metrics(self) -> list[str]:
        """Columns of the tidy table, the task's first metric first: on test where it is labelled, else on dev."""
        split = "test" if all("test" in record.metrics for record in self.records) else "dev"
        return [f"{split}_{name}" for name in self.records[0].get_task().metrics]

    @property
    def methods(self) -> list[str]:
        return sorted({record.method for record in self.records})

    @property
    def sizes(self) -> list[int]:
        return sorted({record.config["num_hidden_layers"] for record in self.records}, reverse=True)

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return results_frame(self.records).sort_values("method", kind="stable", ignore_index=True)

    def frame(self, size: int | None = None) -> pd.DataFrame:
        """The tidy table of the runs, of one size where given; methods in the order FT, KD, PKD."""
        return self._frame if size is None else self._frame[self._frame["num_hidden_layers"] == size]


def setting_of(record: RunRecord, teachers: dict[str, RunRecord]) -> Setting:
    """Settings that two students must share to be comparable; those without effect on the record's method are left out.

    teachers: by the fingerprint of their weights; a teacher is known by its own settings, apart from the seed.
    """
    weights = record.fingerprints.get("teacher_weights")
    setting = {**DistillConfig().model_dump(), **record.config}  # what an older record lacks was its default
    setting |= {name: getattr(record, name) for name in ("task", "source", "max_length", "train_rows")}
    setting |= {f"{split} rows": record.fingerprints.get(split) for split in record.metrics}
    setting["teacher"] = teacher_name(teachers[weights]) if weights in teachers else f"weights {weights}"
    return _of_method(setting, record.method)


def _of_method(setting: Setting, method: str) -> Setting:
    """The part of a setting that has an effect on runs of the method."""
    roles, taught = roles_of_method(method), _is_taught(method, setting)
    return {name: value for name, value in setting.items() if role_of(name) in roles and (taught or name != "teacher")}


def _is_taught(method: str, config: Setting) -> bool:
    """Whether the teacher has an effect on runs of the method."""
    return Role.SOFT in roles_of_method(method) or config.get("init") == "teacher"


def _exact(record: RunRecord) -> Setting:
    """The setting together with the very training rows and the very teacher."""
    return setting_of(record, {}) | {"training rows": record.fingerprints.get("train")}


def teacher_name(teacher: RunRecord) -> str:
    """Its depth and backbone, and a hash of all its settings but the seed."""
    config = {**FineTuneConfig().model_dump(), **teacher.config, "seed": None}
    known = sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:4]
    return f"{config['num_hidden_layers']} layers of {Path(config['backbone']).name} ({known})"


def unique_runs(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The latest record of every method, size, seed, setting, data and teacher, in the place of the first."""
    latest: dict[Hashable, RunRecord] = {}
    for record in records:
        key = (record.method, record.config["num_hidden_layers"], record.seed, _values(_exact(record)))
        if key not in latest or record.created_at > latest[key].created_at:
            latest[key] = record
    return list(latest.values())


def comparisons(records: Iterable[RunRecord]) -> list[Comparison]:
    """All comparisons among runs that `unique_runs` gave, a task's largest first; a run may be in several.

    Plain fine-tuning has no temperature, so it stands beside the students of every temperature. Data and teacher may
    change with the seed, as long as all methods of a seed share them; otherwise they are part of the setting.
    """
    records = list(records)
    teachers = {r.fingerprints["weights"]: r for r in records if r.method == "teacher" and "weights" in r.fingerprints}
    students = [record for record in records if record.method != "teacher"]
    groups = []
    for setting, runs in most_specific(students, lambda record: setting_of(record, teachers)):
        groups += [(setting, runs)] if _one_origin_a_seed(runs) else most_specific(runs, _exact)
    made = []
    for setting, runs in groups:
        weights = dict.fromkeys(record.fingerprints.get("teacher_weights") for record in _taught(runs))
        made.append(
            Comparison(setting["task"], setting, runs, [teachers[name] for name in weights if name in teachers])
        )
    places = {name: place for place, name in enumerate(TASKS)}  # tasks of one's own come last, by name
    return sorted(made, key=lambda one: (places.get(one.task, len(places)), one.task, -len(one.records)))


def most_specific(items: Iterable[Item], setting: Callable[[Item], Setting]) -> list[tuple[Setting, list[Item]]]:
    """The most specific settings of the items, each with the items compatible with it; in order of appearance.

    A setting is more specific than another whose fields it has with equal values, and some more. Settings have few
    different sets of fields (FT's, KD's, PKD's): each is cut down to those and looked up, so that the cost grows with
    the number of settings, where comparing all pairs would take its square.
    """
    places: dict[Hashable, list[int]] = defaultdict(list)
    distinct: dict[Hashable, Setting] = {}
    items = list(items)
    for place, own in enumerate(map(setting, items)):
        places[_values(own)].append(place)
        distinct.setdefault(_values(own), own)
    shapes = {frozenset(own) for own in distinct.values()}
    agreeing = {  # with each setting: itself and all less specific ones
        key: [less for fields in shapes if fields <= own.keys() and (less := _values(own, fields)) in distinct]
        for key, own in distinct.items()
    }
    covered = {less for key, others in agreeing.items() for less in others if less != key}
    members = {key: sorted(place for less in agreeing[key] for place in places[less]) for key in distinct}
    return [(own, [items[place] for place in members[key]]) for key, own in distinct.items() if key not in covered]


def _values(setting: Setting, fields: Collection[str] | None = None) -> Hashable:
    """A setting, or its part in the given fields, as a key of a dict."""
    kept = setting.items() if fields is None else [(name, setting[name]) for name in fields]
    return frozenset((name, value if isinstance(value, Hashable) else json.dumps(value)) for name, value in kept)


def _taught(records: Iterable[RunRecord]) -> list[RunRecord]:
    return [record for record in records if _is_taught(record.method, record.config)]


def _one_origin_a_seed(records: list[RunRecord]) -> bool:
    """Whether all runs of a seed have the same training rows and, where they have one, the same teacher."""
    for name, among in (("train", records), ("teacher_weights", _taught(records))):
        if len({(r.seed, r.fingerprints.get(name)) for r in among}) > len({r.seed for r in among}):
            return False
    return True


def main_comparisons(compared: Iterable[Comparison]) -> dict[str, Comparison]:
    """The comparison of most runs of each task."""
    mains: dict[str, Comparison] = {}
    for one in compared:
        mains.setdefault(one.task, one)
    return mains


def told_apart(setting: Setting, other: Setting) -> str:
    """Each field of `setting` that has another value in `other`, with its value; "" where there is none."""
    changed = {name: value for name, value in setting.items() if value != other.get(name, value)}
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in changed.items())


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else Path(str(value)).name  # a backbone may be a long path


def method_pairs(methods: Iterable[str]) -> list[tuple[str, str]]:
    """(method, baseline): everything against FT, patience against KD, Skip against Last."""
    methods = list(dict.fromkeys(methods))
    pairs = [(method, "FT") for method in methods if method != "FT"]
    pairs += [(method, "KD") for method in methods if method.startswith("PKD")] + [("PKD-Skip", "PKD-Last")]
    return [pair for pair in pairs if set(pair) <= set(methods)]


def all_differences(compared: Iterable[Comparison]) -> pd.DataFrame:
    """`paired_difference` of the methods of every comparison and size, each once; Holm's p is over all of a task.

    rows: how many the split has that was scored; missing, with no warning, where the records do not say.
    """
    compared, seen, rows = list(compared), set(), []
    mains = main_comparisons(compared)
    for one in compared:
        metric = one.metrics[0]
        split, _, name = metric.partition("_")
        counted = next((record.eval_rows[split] for record in one.records if split in record.eval_rows), None)
        for size in one.sizes:
            runs = [record for record in one.records if record.config["num_hidden_layers"] == size]
            for method, baseline in method_pairs(sorted(record.method for record in runs)):
                both = [record for record in runs if record.method in (method, baseline)]
                ours, theirs = ({r.seed for r in both if r.method == side} for side in (method, baseline))
                key = (one.task, method, baseline, frozenset(record.run_id for record in both))
                if key in seen or not ours & theirs:
                    continue
                seen.add(key)
                scores = [(record.method, record.seed, record.metrics[split][name]) for record in both]
                frame = pd.DataFrame(scores, columns=["method", "seed", metric])
                row = paired_difference(frame, metric, method, baseline)
                setting = told_apart(_of_method(one.setting, method), mains[one.task].setting) or "main"
                warning = size_warning(row["difference"], counted) if counted else ""
                row = {"setting": setting, "num_hidden_layers": size, **row, "rows": counted, "warning": warning}
                rows.append({"task": one.task, "metric": metric, **row})
    table = pd.DataFrame(rows)
    if rows:
        table["rows"] = table["rows"].astype("Int64")  # whole numbers, also where one is missing
        corrected = table.groupby("task")["p"].transform(lambda p_values: holm(p_values))
        table.insert(table.columns.get_loc("p") + 1, "p_holm", corrected)
    return table


def sensitivities(compared: Iterable[Comparison]) -> list[tuple[Comparison, str, int | None, pd.DataFrame]]:
    """Every field that varies while all others that matter are equal: (a comparison, field, size, tidy table).

    The field is a column of the table; methods on which it has no effect are left out. A size of None: it varies.
    """
    compared, made = list(compared), []
    for field in dict.fromkeys(name for one in compared for name in one.setting):
        having = [one for one in compared if field in one.setting and field != "task" and not field.endswith(" rows")]
        if _varies(field, having):
            made += _slices(field, having)
    deep = [one for one in main_comparisons(compared).values() if len(one.sizes) > 1]
    return made + [(one, "num_hidden_layers", None, one.frame()) for one in deep]


def _varies(field: str, compared: Iterable[Comparison]) -> bool:
    return len({json.dumps(one.setting[field]) for one in compared}) > 1


def _slices(field: str, having: list[Comparison]) -> list[tuple[Comparison, str, int, pd.DataFrame]]:
    """`sensitivities` of one field, among the comparisons that have it."""

    def rest(one: Comparison, method: str) -> tuple[str, Hashable]:  # all that matters to the method but the field
        own = _of_method(one.setting, method)
        return method, _values(own, own.keys() - {field})

    alike: dict[tuple[str, Hashable], list[Comparison]] = defaultdict(list)
    for one in having:
        for method in one.methods:
            if field in _of_method(one.setting, method):
                alike[rest(one, method)].append(one)
    varied = {key for key, others in alike.items() if _varies(field, others)}
    methods = dict.fromkeys(method for others in alike.values() for one in others for method in one.methods)
    sizes = sorted({size for one in having for size in one.sizes}, reverse=True)
    made, tried, holding = [], set(), defaultdict(set)  # holding: run -> places in `made` of the tables that have it
    for first in having:
        keys = tuple(key for method in methods if (key := rest(first, method)) in varied)
        for size in sizes if keys not in tried else ():
            table = _slice(field, size, {key[0]: alike[key] for key in keys})
            runs = set() if table.empty else set(table["run_id"])
            if runs and not set.intersection(*sorted((holding[run] for run in runs), key=len)):  # in no table before
                for run in runs:
                    holding[run].add(len(made))
                made.append((first, field, size, table))
        tried.add(keys)
    return made


def _slice(field: str, size: int, alike: dict[str, list[Comparison]]) -> pd.DataFrame:
    """The runs of one size of each method's comparisons, those of methods with two values of the field or more."""
    runs: dict[str, tuple[RunRecord, Any]] = {}
    for method, others in alike.items():
        for one in others:
            for record in one.records:
                if (record.method, record.config["num_hidden_layers"]) == (method, size):
                    runs.setdefault(record.run_id, (record, one.setting[field]))
    if not runs:
        return pd.DataFrame()
    values = ["none" if value is None else value for _, value in runs.values()]
    table = results_frame(record for record, _ in runs.values()).assign(**{field: values})
    return table[table.groupby("method")[field].transform("nunique") > 1]
