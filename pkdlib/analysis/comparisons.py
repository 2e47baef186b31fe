"""Which runs may stand beside each other: those that differ in method, size and seed alone."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from hashlib import sha256
from math import lcm
from pathlib import Path
from typing import Any

import pandas as pd

from pkdlib.analysis.statistics import holm, paired_difference, size_warning
from pkdlib.analysis.tables import results_frame
from pkdlib.config import DistillConfig, FineTuneConfig
from pkdlib.records import RunRecord
from pkdlib.tasks import TASKS, get_task

SOFT = ("temperature", "alpha", "t_squared", "form")  # matter to a student with a teacher
PATIENT = ("beta", "normalize", "projection")  # matter to a patient one
FREE = ("seed", "num_hidden_layers", "strategy", *SOFT, *PATIENT)  # the strategy is in the method's name

Setting = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The runs of one task and setting, of any method, size and seed, and the teachers of those that have one."""

    task: str
    setting: Setting
    records: list[RunRecord]
    teachers: list[RunRecord]

    @property
    def metrics(self) -> list[str]:
        """Columns of the tidy table, the task's first metric first: on test where it is labelled, else on dev."""
        split = "test" if all("test" in record.metrics for record in self.records) else "dev"
        return [f"{split}_{name}" for name in get_task(self.task).metrics]

    @cached_property
    def methods(self) -> list[str]:
        return list(self._frame["method"].unique())

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
    """What must agree for two students to be compared, of what matters to the record's method.

    teachers: by the fingerprint of their weights; a teacher is known by its own settings, apart from the seed.
    """
    config = {**DistillConfig().model_dump(), **record.config}  # what an older record lacks was its default
    fields = () if record.method == "FT" else SOFT if record.method == "KD" else SOFT + PATIENT
    kept = {name: value for name, value in config.items() if name not in FREE or name in fields}
    kept |= {
        "task": record.task,
        "source": record.source,
        "max_length": record.max_length,
        "train_rows": record.train_rows,
    }
    kept |= {f"{split} rows": record.fingerprints.get(split) for split in record.metrics}
    weights = record.fingerprints.get("teacher_weights")
    if fields or config["init"] == "teacher":
        kept["teacher"] = teacher_name(teachers[weights]) if weights in teachers else f"weights {weights}"
    return kept


def teacher_name(teacher: RunRecord) -> str:
    """Its depth and backbone, and a hash of all its settings but the seed."""
    config = {**FineTuneConfig().model_dump(), **teacher.config, "seed": None}
    known = sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:4]
    return f"{config['num_hidden_layers']} layers of {Path(config['backbone']).name} ({known})"


def unique_runs(records: Iterable[RunRecord]) -> list[RunRecord]:
    """One record of every method, size, seed, setting, data and teacher: the latest, in its first one's place."""
    found: dict[str, RunRecord] = {}
    for record in records:
        same = [record.method, record.config["num_hidden_layers"], record.seed, _exact(record)]
        key = json.dumps(same, sort_keys=True)
        if key not in found or record.created_at > found[key].created_at:
            found[key] = record
    return list(found.values())


def comparisons(records: Iterable[RunRecord]) -> list[Comparison]:
    """Every comparison that unique runs allow, those of a task's most runs first; a run may be part of several.

    Plain fine-tuning has no temperature, so it stands beside the students of every temperature. Data and teacher may
    change with the seed, as long as all methods of a seed share them; otherwise they are part of the setting.
    """
    records = list(records)
    teachers = {r.fingerprints["weights"]: r for r in records if r.method == "teacher" and "weights" in r.fingerprints}
    students = [record for record in records if record.method != "teacher"]
    groups = []
    for setting, found in _groups(students, lambda record: setting_of(record, teachers)):
        groups += [(setting, found)] if _one_origin_a_seed(found) else _groups(found, _exact)
    made = []
    for setting, found in groups:
        weights = dict.fromkeys(record.fingerprints.get("teacher_weights") for record in _taught(found))
        known = [teachers[name] for name in weights if name in teachers]
        made.append(Comparison(setting["task"], setting, found, known))
    return sorted(made, key=lambda comparison: (list(TASKS).index(comparison.task), -len(comparison.records)))


def _exact(record: RunRecord) -> Setting:
    """The setting with the very rows and the very teacher."""
    return setting_of(record, {}) | {"training rows": record.fingerprints.get("train")}


def _groups(records: list[RunRecord], key: Callable[[RunRecord], Setting]) -> list[tuple[Setting, list[RunRecord]]]:
    """The most detailed settings, each with the records that agree with all of it that matters to them."""
    settings = [(record, key(record)) for record in records]
    distinct = {json.dumps(setting, sort_keys=True): setting for _, setting in settings}.values()
    detailed = [one for one in distinct if not any(one.items() < other.items() for other in distinct)]
    return [(one, [record for record, setting in settings if setting.items() <= one.items()]) for one in detailed]


def _taught(records: Iterable[RunRecord]) -> list[RunRecord]:
    return [record for record in records if "teacher" in setting_of(record, {})]


def _one_origin_a_seed(records: list[RunRecord]) -> bool:
    """Whether all runs of a seed have the same training rows and, where they have one, the same teacher."""
    for name, among in (("train", records), ("teacher_weights", _taught(records))):
        if len({(r.seed, r.fingerprints.get(name)) for r in among}) > len({r.seed for r in among}):
            return False
    return True


def main_comparisons(found: Iterable[Comparison]) -> dict[str, Comparison]:
    """The comparison of most runs of each task."""
    mains: dict[str, Comparison] = {}
    for comparison in found:
        mains.setdefault(comparison.task, comparison)
    return mains


def told_apart(setting: Setting, other: Setting) -> str:
    """In which fields a setting differs from another, of those that it has; "" in none."""
    changed = {name: value for name, value in setting.items() if name in other and value != other[name]}
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in changed.items())


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else Path(str(value)).name  # a backbone may be a long path


def evaluation_rows(records: Iterable[RunRecord], split: str) -> int:
    """Rows of the split that the records share; of older records, the fewest that give all their accuracies."""
    records = list(records)
    known = [record.eval_rows[split] for record in records if split in record.eval_rows]
    if known:
        return known[0]
    accuracies = [record.metrics[split]["accuracy"] for record in records]
    return lcm(*(Fraction(accuracy).limit_denominator(100_000).denominator for accuracy in accuracies))


def method_pairs(methods: Iterable[str]) -> list[tuple[str, str]]:
    """(method, baseline): everything against FT, patience against KD, Skip against Last."""
    methods = list(dict.fromkeys(methods))
    pairs = [(method, "FT") for method in methods if method != "FT"]
    pairs += [(method, "KD") for method in methods if method.startswith("PKD")] + [("PKD-Skip", "PKD-Last")]
    return [pair for pair in pairs if set(pair) <= set(methods)]


def all_differences(found: Iterable[Comparison]) -> pd.DataFrame:
    """`paired_difference` of the methods of every comparison and size, each once; Holm's p is over all of a task."""
    found, seen, rows = list(found), set(), []
    mains = main_comparisons(found)
    for comparison in found:
        metric = comparison.metrics[0]
        split = metric.partition("_")[0]
        for size in comparison.sizes:
            frame = comparison.frame(size)
            for method, baseline in method_pairs(frame["method"]):
                both = frame[frame["method"].isin([method, baseline])]
                key = (comparison.task, method, baseline, *sorted(both["run_id"]))
                if key in seen or not set.intersection(*(set(runs["seed"]) for _, runs in both.groupby("method"))):
                    continue
                seen.add(key)
                row = paired_difference(frame, metric, method, baseline)
                counted = evaluation_rows(comparison.records, split)
                own = _of_method(comparison.setting, method)
                rows.append(
                    {"task": comparison.task, "metric": metric,
                     "setting": told_apart(own, mains[comparison.task].setting) or "main", "num_hidden_layers": size}
                    | row | {"rows": counted, "warning": size_warning(row["difference"], counted)}
                )  # fmt: skip
    table = pd.DataFrame(rows)
    if rows:
        corrected = table.groupby("task")["p"].transform(lambda p_values: holm(p_values))
        table.insert(table.columns.get_loc("p") + 1, "p_holm", corrected)
    return table


def _of_method(setting: Setting, method: str) -> Setting:
    """What of a setting matters to the method."""
    alone = (*SOFT, *PATIENT, *(() if setting.get("init") == "teacher" else ("teacher",)))
    unused = {"FT": alone, "KD": PATIENT}.get(method, ())
    return {name: value for name, value in setting.items() if name not in unused}


def sensitivities(found: Iterable[Comparison]) -> list[tuple[Comparison, str, int | None, pd.DataFrame]]:
    """(a comparison, field, size, tidy table) wherever one field varies while all others that matter are equal.

    The field is a column of the table; methods that it does not concern are left out. A size of None: it varies.
    """
    found, made = list(found), []
    for field in dict.fromkeys(name for comparison in found for name in comparison.setting):
        having = [one for one in found if field in one.setting and field != "task" and not field.endswith(" rows")]
        alike: dict[str, list[Comparison]] = {}
        for one in having:
            for method in one.methods:
                if field in _of_method(one.setting, method):
                    alike.setdefault(_rest(one.setting, field, method), []).append(one)
        seen: list[set[str]] = []
        for first in having:
            for size in sorted({size for comparison in having for size in comparison.sizes}, reverse=True):
                table = _slice(first, field, size, alike)
                if len(table) and not any(set(table["run_id"]) <= known for known in seen):
                    seen.append(set(table["run_id"]))
                    made.append((first, field, size, table))
    deep = [one for one in main_comparisons(found).values() if len(one.sizes) > 1]
    return made + [(one, "num_hidden_layers", None, one.frame()) for one in deep]


def _rest(setting: Setting, field: str, method: str) -> str:
    """The method, and all that matters to it but the field."""
    own = {name: value for name, value in _of_method(setting, method).items() if name != field}
    return json.dumps([method, own], sort_keys=True)


def _slice(first: Comparison, field: str, size: int, alike: dict[str, list[Comparison]]) -> pd.DataFrame:
    """The runs of one size in which the field alone differs from `first`, of methods with two values or more."""
    frames = []
    for method in dict.fromkeys(method for others in alike.values() for one in others for method in one.methods):
        others = alike.get(_rest(first.setting, field, method), [])
        if len({json.dumps(one.setting[field]) for one in others}) < 2:
            continue
        for one in others:
            frame, value = one.frame(size), one.setting[field]
            frame = frame[frame["method"] == method]
            frames.append(frame.assign(**{field: ["none" if value is None else value] * len(frame)}))
    if not frames:
        return pd.DataFrame()
    table = pd.concat(frames, ignore_index=True).drop_duplicates("run_id")
    return table[table.groupby("method")[field].transform("nunique") > 1]
