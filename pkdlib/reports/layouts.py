"""Comparisons as tables in the paper's layout, its own figures beside: texts in cells, ready to be shown."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pkdlib.analysis.comparisons import Comparison, most_specific, told_apart
from pkdlib.analysis.paper import COLUMNS, paper_table, reference_rows
from pkdlib.analysis.statistics import mean_interval, paired_difference
from pkdlib.records import RunRecord

NONE = "–"
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
    mean, low, high = (100 * value for value in mean_interval(values))
    interval = "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"
    return f"{mean:.1f}{interval} ({len(values)})"


def difference_text(row: dict[str, Any]) -> str:
    """Points: mean [95 % interval] (number of pairs)."""
    interval = "" if np.isnan(row["low"]) else f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{100 * row['difference']:+.1f}{interval} ({row['pairs']})"


def figure_text(value: float | None) -> str:
    return NONE if value is None or np.isnan(value) else f"{value:.1f}"


def heading(task: str, metric: str) -> str:
    split, _, name = metric.partition("_")
    return f"{task}, {split} {name}"


def teacher_scores(teachers: Iterable[RunRecord], metric: str) -> list[float]:
    split, _, name = metric.partition("_")
    return [record.metrics[split][name] for record in teachers if split in record.metrics]


def model_table(mains: dict[str, Comparison]) -> pd.DataFrame:
    """Table 1: a row per model, teachers first; of every task and metric ours and, of GLUE's, theirs."""
    columns: dict[tuple[str, str], dict[str, str]] = {}
    rows: dict[str, tuple] = {}
    for task, comparison in mains.items():
        models: list[tuple[int, str]] = [(t.config["num_hidden_layers"], "teacher") for t in comparison.teachers]
        models += [(size, name) for size in comparison.sizes for name in comparison.frame(size)["method"].unique()]
        for size, method in models:
            rows[model_name(size, method)] = (method != "teacher", -size, method)
        for metric in comparison.metrics:
            ours = columns[heading(task, metric), OURS] = {}
            for size, method in models:
                frame = comparison.frame(size)
                values = frame.loc[frame["method"] == method, metric].tolist()
                if method == "teacher":
                    taught = [t for t in comparison.teachers if t.config["num_hidden_layers"] == size]
                    values = teacher_scores(taught, metric)
                ours[model_name(size, method)] = score_text(values) if values else NONE
            columns |= _theirs(task, metric, models)
    index = sorted(rows, key=rows.__getitem__)
    table = pd.DataFrame(columns).reindex(index).fillna(NONE)
    return _two_levels(table)


def model_name(size: int, method: str) -> str:
    return f"BERT{size} teacher" if method == "teacher" else f"BERT{size}-{method}"


def _theirs(task: str, metric: str, models: Iterable[tuple[int, str]]) -> dict[tuple[str, str], dict[str, str]]:
    """The columns of the paper's and the authors' figures, where any of the models has one."""
    if task not in COLUMNS:
        return {}
    reference = reference_rows(task, metric.partition("_")[2]).set_index(["num_hidden_layers", "method"])
    reference = reference.reindex(list(models)).dropna(axis=1, how="all")
    names = {"paper_test": PAPER, "authors_dev": AUTHORS}
    return {
        (heading(task, metric), names[column]): {
            model_name(*model): figure_text(value) for model, value in reference[column].items()
        }
        for column in reference
    }


def _two_levels(table: pd.DataFrame) -> pd.DataFrame:
    if len(table.columns) and table.columns.nlevels == 1:
        table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def last_skip_table(mains: dict[str, Comparison]) -> pd.DataFrame:
    """Table 2: PKD-Last, PKD-Skip and their difference on equal seeds, a column per task and size that has both."""
    columns: dict[tuple[str, str], dict[str, str]] = {}
    pair = ("PKD-Skip", "PKD-Last")
    for task, comparison in mains.items():
        for size in comparison.sizes:
            frame = comparison.frame(size)
            seeds = [set(frame.loc[frame["method"] == method, "seed"]) for method in pair]
            if not set.intersection(*seeds):
                continue
            for metric in comparison.metrics:
                found = paired_difference(frame, metric, *pair)
                cells = {name: score_text(frame.loc[frame["method"] == name, metric]) for name in reversed(pair)}
                cells |= {"Skip − Last, points": difference_text(found), "p": p_text(found["p"])}
                top = f"{heading(task, metric)}, {size} layers"
                columns[top, OURS] = cells
                for (_, whose), named in _theirs(task, metric, [(size, name) for name in pair]).items():
                    columns[top, whose] = {name: named[model_name(size, name)] for name in pair}
    return _two_levels(pd.DataFrame(columns).fillna(NONE)) if columns else pd.DataFrame()


def p_text(p: float) -> str:
    return NONE if np.isnan(p) else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def settings_table(found: Sequence[Comparison], mains: dict[str, Comparison]) -> pd.DataFrame:
    """Every setting and size: what it has other than the task's main one, and each method's first metric.

    Empty where there are main settings alone.
    """
    if len(found) == len(mains):
        return pd.DataFrame()
    rows, shown = [], set()
    for comparison in found:
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


def teacher_table(compared: Iterable[Comparison]) -> pd.DataFrame:
    """Table 5: teacher → student [start], objective, wherever one task has several teachers or starts."""
    columns: dict[tuple[str, str], dict[str, str]] = {}
    # A start that has KD alone has no beta, and stands beside those that have patience too.
    for _, bucket in most_specific(compared, _rest):
        rows: dict[tuple, dict[str, RunRecord]] = {}
        for comparison in bucket:
            depths = {t.fingerprints["weights"]: t.config["num_hidden_layers"] for t in comparison.teachers}
            for record in comparison.records:
                rows.setdefault(_route(record, depths), {})[record.run_id] = record
        sizes = {size for *_, size, _, _, _ in rows}
        several = {size for size in sizes if len({(r[0], r[2]) for r in rows if r[1] == size and r[0]}) > 1}
        rows = {route: runs for route, runs in rows.items() if route[1] in several}
        if not rows:
            continue
        first = bucket[0]
        for metric in first.metrics:
            split, _, name = metric.partition("_")
            top = heading(first.task, metric)
            top += f" ({len(columns)})" if (top, OURS) in columns else ""
            ordered = sorted(rows, key=lambda route: (route[1], route[2], route[3] != "FT", route[3], route[0] or 0))
            columns[top, OURS] = {
                _route_text(route): score_text([run.metrics[split][name] for run in rows[route].values()])
                for route in ordered
            }
            columns |= _theirs_of_routes(first.task, metric, top, rows)
    return _two_levels(pd.DataFrame(columns).dropna(how="all").fillna(NONE)) if columns else pd.DataFrame()


def _rest(comparison: Comparison) -> dict[str, Any]:
    """The setting but for the fields that Table 5 varies."""
    return {name: value for name, value in comparison.setting.items() if name not in START}


def _route(record: RunRecord, depths: dict[str, int]) -> tuple[int | None, int, str, str, bool]:
    """(teacher's layers or None, student's layers, start, method, projection)."""
    config = record.config
    teacher = None if record.method == "FT" else depths.get(record.fingerprints.get("teacher_weights"))
    start = Path(config["backbone"]).name + (", fine-tuned" if config.get("init") == "teacher" else "")
    patient = record.method.startswith("PKD")
    return teacher, config["num_hidden_layers"], start, record.method, patient and config.get("projection", False)


def _route_text(route: tuple) -> str:
    teacher, size, start, method, projection = route
    taught = "no teacher" if method == "FT" else f"{teacher or 'unknown'}"
    return f"{taught} → {size} [{start}], {method}{', projection' if projection else ''}"


def _theirs_of_routes(task: str, metric: str, top: str, routes: Iterable[tuple]) -> dict[tuple[str, str], dict]:
    """Table 5 and the dev figures of the routes that the paper has: BERT-base or -large by the backbone's name."""
    if task not in COLUMNS:
        return {}
    tests, dev = COLUMNS[task]
    name = metric.partition("_")[2]
    tables = {PAPER: (paper_table("table_5"), tests.get(name)), AUTHORS: (paper_table("dev"), dev)}
    if name != "accuracy":
        del tables[AUTHORS]
    found: dict[tuple[str, str], dict[str, str]] = {}
    for whose, (table, column) in tables.items():
        for route in routes:
            teacher, size, start, method, projection = route
            width = "Large" if "large" in start else "Base" if "base" in start else None
            ending = f"{teacher} to {size} [{width}], {method.replace('PKD-Skip', 'PKD')}"
            row = next((row for row in table.index if row.endswith(ending)), None)
            if row is not None and column in table and not projection:
                found.setdefault((top, whose), {})[_route_text(route)] = figure_text(table.loc[row, column])
    return found


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
    return _two_levels(pd.DataFrame.from_dict(rows, orient="index").fillna(NONE))
