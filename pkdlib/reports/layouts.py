"""Comparisons as tables in the paper's layout, its own figures beside, and as drawings, ready to be shown."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pkdlib.analysis.comparisons import Comparison, most_specific, sensitivities, told_apart
from pkdlib.analysis.figures import plot_ablation
from pkdlib.analysis.paper import COLUMNS, paper_table, reference_rows
from pkdlib.analysis.statistics import mean_interval, paired_difference
from pkdlib.analysis.tables import results_frame
from pkdlib.config import METHODS
from pkdlib.readers.records import flat
from pkdlib.records import RunRecord

NONE = "–"
MAJORITY = (0, "most frequent class")  # in the place of a model's layers and method
OURS, PAPER, AUTHORS = "ours", "paper, test", "authors, dev"
Columns = dict[tuple[str, str], pd.Series]  # (what was scored, whose) -> row -> text
Drawing = tuple[str, Callable[[Axes], Any]]  # a caption, and what draws the figure
SIGNS = {"−": "$-$", "→": r"$\rightarrow$", "–": "--", "<": "$<$", ">": "$>$"}  # that LaTeX does not print as text
START = ("teacher", "backbone", "projection")  # what Table 5 varies


def as_latex(table: pd.DataFrame, index: bool = True) -> str:
    """A tabular with booktabs' rules, whatever LaTeX takes for a command escaped."""
    style = table.style.format(escape="latex").hide(names=True)
    style = style.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    text = (style if index else style.hide(axis="index")).to_latex(hrules=True, multicol_align="c")
    return text.translate(str.maketrans(SIGNS))


def score_text(scores: pd.Series) -> str:
    """Percent: mean [95 % interval] (number of seeds)."""
    scores = scores.dropna()
    return NONE if scores.empty else _interval_text(*mean_interval(scores), len(scores))


def difference_text(row: dict[str, Any]) -> str:
    """Points: mean [95 % interval] (number of pairs)."""
    return _interval_text(row["difference"], row["low"], row["high"], row["pairs"], "+")


def _interval_text(mean: float, low: float, high: float, count: int, sign: str = "") -> str:
    interval = "" if np.isnan(low) else f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    return f"{100 * mean:{sign}.1f}{interval} ({count})"


def p_text(p: float) -> str:
    return NONE if np.isnan(p) else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def heading(task: str, metric: str) -> str:
    return f"{task}, {metric.replace('_', ' ', 1)}"


def _columns(task: str, metric: str, ours: pd.Series, top: str = "") -> Columns:
    """Our texts, and the columns of the paper's and the authors' figures, in percent, that have one in a row of ours.

    ours: by (layers, method), or by the row's name in Table 5; top: stands above the columns, after task and metric.
    """
    top, name, figures = heading(task, metric) + top, metric.partition("_")[2], pd.DataFrame(index=ours.index)
    if task in COLUMNS and ours.index.nlevels > 1:
        rows = reference_rows(task, name).set_index(["num_hidden_layers", "method"])
        figures = rows.reindex(ours.index).set_axis([PAPER, AUTHORS], axis=1)
    elif task in COLUMNS:
        tests, dev = COLUMNS[task]
        table_5 = paper_table("table_5").rename(index=lambda row: row.partition(": ")[2])  # without its number
        rows = {PAPER: table_5.get(tests[name]), AUTHORS: paper_table("dev").get(dev if name == "accuracy" else None)}
        # BERT-base or -large by the backbone's name
        theirs = ours.index.str.replace(r"\[.*(base|large).*\]", lambda size: f"[{size[1].title()}]", regex=True)
        theirs = theirs.str.replace(" → ", " to ").str.replace("PKD-Skip", "PKD")
        figures = pd.DataFrame(rows).reindex(theirs).set_axis(ours.index)
    figures = figures.dropna(axis=1, how="all").map("{:.1f}".format, na_action="ignore")
    return {(top, OURS): ours} | {(top, whose): figures[whose] for whose in figures}


def model_table(mains: dict[str, Comparison]) -> pd.DataFrame:
    """Table 1: a row per model, teachers first; of every task and metric ours and, of GLUE's, theirs.

    The last row, where the records have it, is the score of the most frequent class.
    """
    columns: Columns = {}
    for task, comparison in mains.items():
        frame = results_frame([*comparison.teachers, *comparison.records])
        for metric in comparison.metrics:
            ours = frame.groupby(["num_hidden_layers", "method"])[metric].agg(score_text)
            if f"{metric}_majority" in frame:
                ours[MAJORITY] = f"{100 * frame[f'{metric}_majority'].mean():.1f}"
            columns |= _columns(task, metric, ours)
    table = pd.DataFrame(columns).fillna(NONE)
    models = sorted(table.index, key=lambda model: (model[1] != "teacher", -model[0], model[1]))
    names = [f"BERT{size}{' ' if method == 'teacher' else '-'}{method}" if size else method for size, method in models]
    return table.reindex(models).set_axis(names)


def last_skip_table(mains: dict[str, Comparison]) -> pd.DataFrame:
    """Table 2: PKD-Last, PKD-Skip and their difference on equal seeds, a column per task and size that has both."""
    columns: Columns = {}
    for task, comparison in mains.items():
        for size, metric in product(comparison.sizes, comparison.metrics):
            scores = comparison.frame(size).pivot(index="seed", columns="method", values=metric)
            scores = scores.reindex(columns=["PKD-Last", "PKD-Skip"])
            if scores.dropna().empty:
                continue
            difference = paired_difference(comparison.frame(size), metric, "PKD-Skip", "PKD-Last")
            texts = {method: score_text(runs) for method, runs in scores.items()}
            texts |= {"Skip − Last, points": difference_text(difference), "p": p_text(difference["p"])}
            ours = pd.Series({(size, row): text for row, text in texts.items()})
            added = _columns(task, metric, ours, f", {size} layers")
            columns |= {column: cells.droplevel(0) for column, cells in added.items()}
    return pd.DataFrame(columns).fillna(NONE)


def settings_table(compared: Sequence[Comparison], mains: dict[str, Comparison]) -> pd.DataFrame:
    """Every setting and size: what it has other than the task's main one, and each method's first metric.

    On dev, which is there to choose by; on test at the main setting alone. Empty where there are main settings alone.
    """
    rows, shown = [], set()
    for comparison in compared if len(compared) > len(mains) else ():
        main = mains[comparison.task]
        metrics = dict.fromkeys([comparison.dev_metric, *comparison.metrics[:1] * (comparison is main)])
        setting = told_apart(comparison.setting, main.setting) or "main"
        for size in comparison.sizes:
            frame = comparison.frame(size)
            if shown.issuperset(frame["run_id"]):  # students of another setting's, none of its own at this size
                continue
            shown.update(frame["run_id"])
            for metric in metrics:
                scores = frame.groupby("method", sort=False)[metric].agg(score_text)
                row = {"what was scored": heading(comparison.task, metric), "setting": setting, "layers": size}
                rows.append(row | dict.fromkeys(sorted(METHODS)) | scores.to_dict())
    return pd.DataFrame(rows).dropna(axis=1, how="all").fillna(NONE)


def teacher_table(compared: Iterable[Comparison]) -> pd.DataFrame:
    """Table 5: teacher → student [start], objective, wherever one task has several teachers or starts."""
    columns: Columns = {}
    # A start that has KD alone has no beta, and stands beside those that have patience too.
    for _, bucket in most_specific(compared, lambda one: {k: v for k, v in one.setting.items() if k not in START}):
        firsts, teachers = {}, {}
        for teacher in (one for each in bucket for one in each.teachers):
            config, depth = teacher.config | {"seed": None}, teacher.config["num_hidden_layers"]
            unlike = told_apart(config, firsts.setdefault(depth, config))  # the first one so deep
            teachers[teacher.fingerprints["weights"]] = (depth, f"({unlike})") if unlike else (depth,)
        runs = pd.DataFrame(_route(run, teachers) for one in bucket for run in one.records)
        runs = runs.drop_duplicates(["run_id", "row"]).sort_values(["size", "start", "method", "teacher"])
        sizes = runs[runs["teacher"].astype(bool)].drop_duplicates(["size", "start", "teacher"])["size"]
        runs = runs[runs["size"].isin(sizes[sizes.duplicated()])]
        for metric in bucket[0].metrics if len(runs) else ():
            ours, task = runs.groupby("row", sort=False)[metric].agg(score_text), bucket[0].task
            number = f" ({len(columns)})" if (heading(task, metric), OURS) in columns else ""
            columns |= _columns(task, metric, ours, number)
    return pd.DataFrame(columns).fillna(NONE)


def _route(record: RunRecord, teachers: dict[str, tuple]) -> dict[str, Any]:
    """How a student came to be, and its scores; teachers: by weights' fingerprints, their layers and what is unlike."""
    config, method = record.config, record.method
    size, start = config["num_hidden_layers"], Path(config["backbone"]).name
    start += ", fine-tuned" if config.get("init") == "teacher" else ""
    teacher = () if method == "FT" else teachers.get(record.fingerprints.get("teacher_weights", ""), ())
    taught = "no teacher" if method == "FT" else " ".join(map(str, teacher)) or "unknown"
    projection = ", projection" if method.startswith("PKD") and config.get("projection") else ""
    row = f"{taught} → {size} [{start}], {method}{projection}"
    route = {"size": size, "start": start, "method": method, "teacher": teacher, "row": row}
    return {"run_id": record.run_id, **route, **flat(record.metrics)}


def sensitivity_figures(compared: Sequence[Comparison], mains: dict[str, Comparison]) -> dict[str, list[Drawing]]:
    """Under "main" where all but one field is as in the task's main setting; a full grid has many "other" ones.

    Scores are those on dev, which is there to choose by.
    """
    drawings: dict[str, list[Drawing]] = {"main": [], "other": []}
    for comparison, name, size, table in sensitivities(compared):
        if table[name].dtype.kind not in "iuf":
            table = table.assign(**{name: table[name].astype(str)})  # so that values can be ordered
        rest = {field: value for field, value in comparison.setting.items() if field != name}
        changed = told_apart(rest, mains[comparison.task].setting)
        caption = f"{comparison.task}{f', {size} layers' if size else ''}: {name.replace('_', ' ')}"
        draw = partial(plot_ablation, table, name, comparison.dev_metric)
        drawings["other" if changed else "main"].append((f"{caption}; {changed}" if changed else caption, draw))
    return drawings
