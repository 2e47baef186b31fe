"""Comparisons as tables in the paper's layout, its own figures beside: texts in cells, ready to be shown."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pkdlib.analysis.comparisons import Comparison, most_specific, told_apart
from pkdlib.analysis.paper import COLUMNS, paper_table, reference_rows
from pkdlib.analysis.statistics import mean_interval, paired_difference
from pkdlib.analysis.tables import results_frame
from pkdlib.records import RunRecord

NONE = "–"
Columns = dict[tuple[str, str], dict[str, str]]  # (what was scored, whose) -> row -> text
OURS, PAPER, AUTHORS = "ours", "paper, test", "authors, dev"
MILLIONS = "parameters, millions"


SIGNS = {"−": "$-$", "→": r"$\rightarrow$", "–": "--", "<": "$<$", ">": "$>$"}  # that LaTeX does not print as text


def as_latex(table: pd.DataFrame, index: bool = True) -> str:
    """A tabular with booktabs' rules, whatever LaTeX takes for a command escaped."""
    style = table.style.format(escape="latex").hide(names=True)
    for axis in (0, 1):
        style = style.format_index(escape="latex", axis=axis)
    text = (style if index else style.hide(axis="index")).to_latex(hrules=True, multicol_align="c")
    return text.translate(str.maketrans(SIGNS))


def score_text(values: Iterable[float]) -> str:
    """Percent: mean [95 % interval] (number of seeds)."""
    return _score_text(tuple(values))


@cache  # the same runs of FT and KD stand beside the PKD runs of many settings
def _score_text(values: tuple[float, ...]) -> str:
    return _interval_text(*mean_interval(values), len(values))


def difference_text(row: dict[str, Any]) -> str:
    """Points: mean [95 % interval] (number of pairs)."""
    return _interval_text(row["difference"], row["low"], row["high"], row["pairs"], "+")


def _interval_text(mean: float, low: float, high: float, count: int, sign: str = "") -> str:
    interval = "" if np.isnan(low) else f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    return f"{100 * mean:{sign}.1f}{interval} ({count})"


def p_text(p: float) -> str:
    return NONE if np.isnan(p) else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def heading(task: str, metric: str) -> str:
    split, _, name = metric.partition("_")
    return f"{task}, {split} {name}"


def model_name(size: int, method: str) -> str:
    return f"BERT{size} teacher" if method == "teacher" else f"BERT{size}-{method}"


def model_table(mains: dict[str, Comparison]) -> pd.DataFrame:
    """Table 1: a row per model, teachers first; of every task and metric ours and, of GLUE's, theirs."""
    columns: Columns = {}
    places: dict[str, tuple] = {}
    for task, comparison in mains.items():
        models = results_frame([*comparison.teachers, *comparison.records]).groupby(["num_hidden_layers", "method"])
        places |= {model_name(*model): (model[1] != "teacher", -model[0], model[1]) for model in models.groups}
        for metric in comparison.metrics:
            scores = {model_name(*model): values.dropna() for model, values in models[metric]}
            columns[heading(task, metric), OURS] = {
                name: score_text(runs) for name, runs in scores.items() if len(runs)
            }
            columns |= _theirs(task, metric, heading(task, metric), models.groups)
    return _table(columns, sorted(places, key=places.__getitem__))


def _theirs(
    task: str, metric: str, top: str, models: Iterable[tuple[int, str]], name: Callable[[int, str], str] = model_name
) -> Columns:
    """The columns of the paper's and the authors' figures, where any of the models has one."""
    if task not in COLUMNS:
        return {}
    reference = reference_rows(task, metric.partition("_")[2]).set_index(["num_hidden_layers", "method"])
    reference = reference.reindex(list(models)).dropna(axis=1, how="all")
    return {
        (top, {"paper_test": PAPER, "authors_dev": AUTHORS}[column]): {
            name(*model): f"{value:.1f}" for model, value in reference[column].dropna().items()
        }
        for column in reference
    }


def _table(columns: Columns, index: Sequence[str] | None = None) -> pd.DataFrame:
    """Columns of two levels as a table with a dash in cells without a text; empty where there is no column."""
    if not columns:
        return pd.DataFrame()
    table = pd.DataFrame(columns)
    table.columns = pd.MultiIndex.from_tuples(columns)
    return table.reindex(table.index if index is None else index).fillna(NONE)


def last_skip_table(mains: dict[str, Comparison]) -> pd.DataFrame:
    """Table 2: PKD-Last, PKD-Skip and their difference on equal seeds, a column per task and size that has both."""
    columns: Columns = {}
    for task, comparison in mains.items():
        for size in comparison.sizes:
            frame = comparison.frame(size)
            skip, last = (frame[frame["method"] == method] for method in ("PKD-Skip", "PKD-Last"))
            for metric in comparison.metrics if set(skip["seed"]) & set(last["seed"]) else ():
                difference = paired_difference(frame, metric, "PKD-Skip", "PKD-Last")
                top = f"{heading(task, metric)}, {size} layers"
                columns[top, OURS] = {
                    "PKD-Last": score_text(last[metric]),
                    "PKD-Skip": score_text(skip[metric]),
                    "Skip − Last, points": difference_text(difference),
                    "p": p_text(difference["p"]),
                }
                pair = [(size, "PKD-Skip"), (size, "PKD-Last")]
                columns |= _theirs(task, metric, top, pair, lambda _, method: method)
    return _table(columns)


def settings_table(compared: Sequence[Comparison], mains: dict[str, Comparison]) -> pd.DataFrame:
    """Every setting and size: what it has other than the task's main one, and each method's first metric.

    Empty where there are main settings alone.
    """
    if len(compared) == len(mains):
        return pd.DataFrame()
    rows, shown = [], set()
    for comparison in compared:
        main = mains[comparison.task]
        for size in comparison.sizes:
            frame = comparison.frame(size)
            own = frozenset(frame["run_id"])
            if own <= shown:  # students of another setting's, none of its own at this size
                continue
            shown |= own
            metric = comparison.metrics[0]
            row = {
                "what was scored": heading(comparison.task, metric),
                "setting": told_apart(comparison.setting, main.setting) or "main",
                "layers": size,
            }
            rows.append(row | {name: score_text(runs[metric]) for name, runs in frame.groupby("method", sort=False)})
    table = pd.DataFrame(rows).fillna(NONE)
    methods = [name for name in ("FT", "KD", "PKD-Last", "PKD-Skip") if name in table]
    return table[[*table.columns[:3], *methods, *[name for name in table.columns[3:] if name not in methods]]]


def differences_table(differences: pd.DataFrame, main: bool) -> pd.DataFrame:
    """`all_differences` for a reader, at the main settings or at the others: points, p, and p corrected for number."""
    rows = [
        {
            "what was scored": heading(row["task"], row["metric"]),
            **({} if main else {"setting": row["setting"]}),
            "layers": row["num_hidden_layers"],
            "difference": f"{row['method']} − {row['baseline']}",
            "points [95 %] (pairs)": difference_text(row),
            "p": p_text(row["p"]),
            "p, Holm": p_text(row["p_holm"]),
            "scored rows": row["rows"],
            "warning": row["warning"],
        }
        for row in differences.to_dict("records")
        if (row["setting"] == "main") == main
    ]
    return pd.DataFrame(rows)


# -------------------------------------------------------------------------------------------- better teacher
START = ("teacher", "backbone", "projection")  # what Table 5 varies


class Route(NamedTuple):
    """How a student came to be: its own and its teacher's layers, what it starts from, objective, projection."""

    size: int
    start: str
    method: str
    projection: bool
    teacher: int | None  # None: no teacher, or an unknown one

    @property
    def text(self) -> str:
        taught = "no teacher" if self.method == "FT" else self.teacher or "unknown"
        return f"{taught} → {self.size} [{self.start}], {self.method}{', projection' * self.projection}"


def _routes(bucket: Iterable[Comparison]) -> dict[Route, dict[str, RunRecord]]:
    """The runs of each route by their id, of sizes with several teachers or starts."""
    routes: dict[Route, dict[str, RunRecord]] = {}
    for comparison in bucket:
        depths = {t.fingerprints["weights"]: t.config["num_hidden_layers"] for t in comparison.teachers}
        for record in comparison.records:
            config, teacher = record.config, depths.get(record.fingerprints.get("teacher_weights"))
            start = Path(config["backbone"]).name + (", fine-tuned" if config.get("init") == "teacher" else "")
            projection = record.method.startswith("PKD") and config.get("projection", False)
            taught = None if record.method == "FT" else teacher
            route = Route(config["num_hidden_layers"], start, record.method, projection, taught)
            routes.setdefault(route, {})[record.run_id] = record
    several = Counter(
        size for size, _, _ in {(route.size, route.start, route.teacher) for route in routes if route.teacher}
    )
    order = sorted(routes, key=lambda r: (r.size, r.start, r.method != "FT", r.method, r.teacher or 0))
    return {route: routes[route] for route in order if several[route.size] > 1}


def teacher_table(compared: Iterable[Comparison]) -> pd.DataFrame:
    """Table 5: teacher → student [start], objective, wherever one task has several teachers or starts."""
    columns: Columns = {}
    # A start that has KD alone has no beta, and stands beside those that have patience too.
    for _, bucket in most_specific(compared, lambda one: {k: v for k, v in one.setting.items() if k not in START}):
        routes = _routes(bucket)
        for metric in bucket[0].metrics if routes else ():
            split, _, name = metric.partition("_")
            top = heading(bucket[0].task, metric)
            top += f" ({len(columns)})" if (top, OURS) in columns else ""
            columns[top, OURS] = {
                route.text: score_text(run.metrics[split][name] for run in runs.values())
                for route, runs in routes.items()
            }
            tests, dev = COLUMNS.get(bucket[0].task, ({}, None))
            theirs = {PAPER: ("table_5", tests.get(name)), AUTHORS: ("dev", dev if name == "accuracy" else None)}
            for whose, (table, column) in theirs.items():
                if figures := _theirs_of_routes(paper_table(table).get(column), routes):
                    columns[top, whose] = figures
    return _table(columns)


def _theirs_of_routes(figures: pd.Series | None, routes: Iterable[Route]) -> dict[str, str]:
    """The figures of the routes that the paper has: BERT-base or -large by the backbone's name."""
    theirs: dict[str, str] = {}
    for route in routes if figures is not None else ():
        width = "Large" if "large" in route.start else "Base" if "base" in route.start else None
        ending = f"{route.teacher} to {route.size} [{width}], {route.method.replace('PKD-Skip', 'PKD')}"
        row = next((row for row in figures.index if row.endswith(ending)), None)
        if row is not None and not route.projection:
            theirs[route.text] = NONE if np.isnan(figures[row]) else f"{figures[row]:.1f}"
    return theirs


# --------------------------------------------------------------------------------------------------- speed
def speed_table(record: dict[str, Any]) -> pd.DataFrame:
    """Table 4 from what notebook 05 writes: millions of parameters by part, times of one batch, the paper's beside."""
    parts, rows = record["parameters"], {}
    largest = max(part["total"] for part in parts.values())
    paper = paper_table("table_4")
    for model, part in sorted(parts.items(), key=lambda entry: entry[1]["total"]):
        row = {(MILLIONS, name): f"{part[name] / 1e6:.2f}" for name in ("embedding", "transformer", "total")}
        row[MILLIONS, "times smaller"] = f"{largest / part['total']:.2f}"
        for clock, entries in record["speedups"].items():
            entry = next(entry for entry in entries if entry["model"] == model)
            unit = next(name for name in ("latency_ms", "processor_ms") if name in entry)
            row[clock, "one batch, s"] = f"{entry[unit] / 1000:.2f}"
            row[clock, "times faster"] = f"{entry['speedup']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"
        theirs = f"BERT{model.split()[0]}"
        if theirs in paper.index and record["settings"]["hidden_size"] == 768:
            shown = {"total, millions": "total", "time, s": "time, s", "times faster": "times faster"}
            figures = {name: paper.loc[theirs, column] for column, name in shown.items()}
            row |= {("paper", name): NONE if np.isnan(value) else f"{value:g}" for name, value in figures.items()}
        rows[model] = row
    return pd.DataFrame.from_dict(rows, orient="index").fillna(NONE)


def references(tasks: Iterable[str], speed: bool) -> pd.DataFrame:
    """Source and note of every table of the paper's and the authors' that may stand beside ours."""
    names = ["table_1", "table_2", "table_5", "dev"] * bool(set(tasks) & set(COLUMNS)) + ["table_4"] * speed
    table = pd.DataFrame([paper_table(name).attrs for name in names], columns=["title", "source", "note"])
    return table.set_index("title").fillna("")
