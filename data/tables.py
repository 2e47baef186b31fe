"""Write the result tables of the README and the guide anew from data/results: `python data/tables.py`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->` on the page that shows it; a test holds the pages to them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pkdlib import load_records
from pkdlib.analysis.similarity import most_similar_layers
from pkdlib.analysis.speed import benchmark_figures
from pkdlib.analysis.statistics import (
    decide,
    differences_by,
    mcnemar,
    mean_interval,
    nested_difference,
    paired_difference,
    summary,
)
from pkdlib.analysis.tables import load_results, several_tasks, variant_names

FOLDER = Path(__file__).parent / "results"
PROJECT = Path(__file__).parent.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "notebooks" / "guide").glob("*.md"))]
METHODS = ("FT", "KD", "PKD-Last", "PKD-Skip")
PAIRS = (("KD", "FT"), ("PKD-Skip", "FT"), ("PKD-Skip", "KD"), ("PKD-Skip", "PKD-Last"))
STARTS = {"pretrained": "pre-trained first layers", "random": "random weights"}
SPREAD = ("median", "low", "high")
MINI = {"tuned": "mini-sentiment-3-tuned.jsonl", "short of steps": "mini-sentiment-3-short.jsonl"}
SIZES = {  # layers of the students -> records; all have the tutorial's teacher and equal settings
    2: "mini-sentiment-ablations.jsonl",
    3: MINI["tuned"],
    4: "mini-sentiment-ablations.jsonl",
    6: "mini-sentiment-6.jsonl",
}
REAL = {"SST-2": "sst2-3.jsonl", "RTE": "rte-3.jsonl"}


def _percent(mean: float, low: float, high: float, sign: str = "", digits: int = 1) -> str:
    mean, low, high = (f"{100 * value:{sign}.{digits}f}" for value in (mean, low, high))
    return f"{mean} [{low}, {high}]"


def _claim(row: Mapping[str, Any]) -> str:
    """A difference of a table that `decide` has seen, in points with its interval; in bold if it is decided."""
    told = _percent(row["difference"], row["low"], row["high"], "+")
    return f"**{told}**" if row["decided"] else told


def comparison_table(frames: dict[str, pd.DataFrame], metric: str) -> str:
    """Mean and 95 % interval of every method, the teacher, and the paired differences, a column per frame."""
    columns = {}
    for name, frame in frames.items():
        teacher = frame[frame["method"] == "teacher"][metric].item()
        students = frame[frame["method"] != "teacher"]
        scores = summary(students, metric, ["method"]).set_index("method")
        column = {"teacher": f"{100 * teacher:.1f}"}
        column |= {method: _percent(*scores.loc[method, ["mean", "low", "high"]]) for method in METHODS}
        for method, baseline in PAIRS:
            pair = paired_difference(students, metric, method, baseline)
            column[f"{method} − {baseline}"] = _percent(pair["difference"], pair["low"], pair["high"], "+")
        columns[f"{name} ({students['seed'].nunique()} seeds)"] = column
    return _markdown(pd.DataFrame(columns))


def first_table(file: str, metric: str) -> str:
    """Mean and 95 % interval of every method of one student size, and its paired difference to FT."""
    frame = load_results(FOLDER / file)
    students = frame[frame["method"] != "teacher"]
    means = summary(students, metric, ["method"]).set_index("method")
    teacher = frame[frame["method"] == "teacher"]
    rows = {f"teacher, {teacher['num_hidden_layers'].item()} layers": [f"{100 * teacher[metric].item():.1f}", ""]}
    rows |= {method: [_percent(*means.loc[method, ["mean", "low", "high"]]), ""] for method in METHODS}
    for method in METHODS[1:]:
        pair = paired_difference(students, metric, method, "FT")
        rows[method][1] = _percent(pair["difference"], pair["low"], pair["high"], "+")
    return _markdown(pd.DataFrame(rows, index=["test accuracy", "minus FT"]).T)


def patience_table(metric: str) -> str:
    """PKD-Skip minus KD by the students' number of layers, and over all these pairs together."""
    rows, everything = {}, []
    for layers, file in SIZES.items():
        frame = load_results(FOLDER / file)
        frame = frame[frame["num_hidden_layers"] == layers].set_index(["method", "seed"])[metric]
        differences = (frame["PKD-Skip"] - frame["KD"]).dropna()
        rows[f"{layers} layers"] = [str(len(differences)), _percent(*mean_interval(differences), "+", 2)]
        everything += differences.tolist()
    rows["all of these"] = [str(len(everything)), _percent(*mean_interval(everything), "+", 2)]
    return _markdown(pd.DataFrame(rows, index=["pairs of runs", "PKD-Skip − KD"]).T)


def starts_table(file: str, metric: str) -> str:
    """Of each start means and differences, decided ones in bold, and how many seeds McNemar's test parts at 5 %."""
    frame = load_results(FOLDER / f"{file}.jsonl")
    right = json.loads((FOLDER / f"{file}-right.json").read_text(encoding="utf-8"))  # run -> a digit for each row
    teachers, students = frame[frame["method"] == "teacher"], frame[frame["method"] != "teacher"]
    columns, pairs = {}, [*PAIRS, ("PKD-Skip", "PKD-Reverse")]
    claims = decide(differences_by(students, metric, "init", pairs)).set_index(["init", "method", "baseline"])
    for start, runs in students.groupby("init"):
        means = summary(runs, metric, ["method"]).set_index("method")
        column = {"teacher": _percent(*mean_interval(teachers[metric]))}
        column |= {name: _percent(*means.loc[name, ["mean", "low", "high"]]) for name in (*METHODS, "PKD-Reverse")}
        rows_of, seeds = runs.set_index(["method", "seed"])["run_id"].map(right), runs["seed"].unique()
        for pair in pairs:
            each = [
                mcnemar([1] * len(rows_of[pair[0], s]), *([*map(int, rows_of[name, s])] for name in pair))
                for s in seeds
            ]
            told = f", {sum(one['p'] < 0.05 for one in each)} of {len(seeds)}"
            column[f"{pair[0]} − {pair[1]}"] = _claim(claims.loc[start, *pair]) + told
        columns[STARTS[start]] = column
    return _markdown(pd.DataFrame(columns))


def study_table(file: str, metric: str, task: str) -> str:
    """Differences from each start by the mixed model, its detectable one, and those decided over the table in bold."""
    frame = load_results(FOLDER / file).query("task == @task and init in @STARTS")
    pairs = [("KD", "FT"), *(("PKD-Skip", name) for name in ("KD", "PKD-Last", "PKD-Reverse", "PKD-One"))]
    table = decide(differences_by(frame, metric, "init", pairs, nested_difference))
    rows = {f"{method} − {baseline}": [""] * len(STARTS) for method, baseline in pairs}
    for row in table.to_dict("records"):
        told = f"{_claim(row)}, {100 * row['detectable']:.1f}"
        rows[f"{row['method']} − {row['baseline']}"][list(STARTS).index(row["init"])] = told
    counts = [f"{row['pairs']} of {row['backbones']} and {row['teachers']}" for row in table.to_dict("records")]
    rows["pairs of backbones and teachers"] = [counts[list(table["init"]).index(start)] for start in STARTS]
    return _markdown(pd.DataFrame(rows, index=[STARTS[start] for start in STARTS]).T)


def beyond_table(file: str, study: str, metric: str) -> str:
    """Every other distance, map and objective against PKD-Skip by the mixed model; in bold what the table decides."""
    own, others = load_results(FOLDER / study), load_results(FOLDER / file)
    others = others.assign(method=variant_names(others))
    frame = pd.concat([own[own["method"] == "PKD-Skip"], others])
    pairs = [(name, "PKD-Skip") for name in dict.fromkeys(others["method"])]
    table = decide(differences_by(frame[frame["init"].isin(STARTS)], metric, "init", pairs, nested_difference))
    rows = {name: [""] * len(STARTS) for name, _ in pairs}
    for row in table.to_dict("records"):
        told = f"{_claim(row)}, {100 * row['detectable']:.1f}"
        rows[row["method"]][list(STARTS).index(row["init"])] = told
    return _markdown(pd.DataFrame(rows, index=[STARTS[start] for start in STARTS]).T)


def tasks_table(file: str, metric: str) -> str:
    """One student for several tasks beside one for each: means, and together minus alone on equal seeds."""
    frame = several_tasks(load_results(FOLDER / file))
    pairs = [("by size", "alone"), ("by root", "alone"), ("by size", "alone, longer")]
    table = decide(differences_by(frame, metric, "case", pairs))
    shown = set(zip(table["method"], table["baseline"], strict=True))
    pairs = [pair for pair in pairs if pair in shown]
    rows = {case: [""] * len(pairs) for case in dict.fromkeys(table["case"])}
    for row in table.to_dict("records"):
        rows[row["case"]][pairs.index((row["method"], row["baseline"]))] = _claim(row)
    return _markdown(pd.DataFrame(rows, index=[f"{method} − {baseline}" for method, baseline in pairs]).T)


def learning_rate_table(file: str, metric: str) -> str:
    """Mean of every method at every learning rate."""
    frame = load_results(FOLDER / file)
    means = frame.pivot_table(index="method", columns="learning_rate", values=metric).loc[list(METHODS)]
    columns = {f"{rate:g}": [f"{100 * mean:.1f}" for mean in means[rate]] for rate in means.columns}
    return _markdown(pd.DataFrame(columns, index=list(METHODS)))


def layers_table(file: str) -> str:
    """Each method's mean accuracy, and the teacher layer most similar to each student layer over all seeds."""
    scores = load_results(FOLDER / f"{file}.jsonl").groupby("method")["test_accuracy"].mean()
    entries = json.loads((FOLDER / f"{file}-similarity.json").read_text(encoding="utf-8"))
    rows = {}
    for method in METHODS:
        matrices = [entry["centered_cosine"] for entry in entries if entry["method"] == method]
        nearest = most_similar_layers(torch.tensor(matrices).mean(dim=0))
        rows[method] = [f"{100 * scores[method]:.1f}", ", ".join(map(str, nearest))]
    return _markdown(pd.DataFrame(rows, index=["accuracy", "most similar teacher layer, student layers 1 to 6"]).T)


def teachers_table(file: str, metric: str) -> str:
    """Mean and interval by method and teacher, a column per backbone that the students start from."""
    records = load_records(FOLDER / file)
    teachers = {record.fingerprints["weights"]: record for record in records if record.method == "teacher"}
    split, name = metric.split("_")
    cells: dict[str, dict[str, list[float]]] = {}
    for record in [record for record in records if record.method != "teacher"]:
        teacher = teachers.get(record.fingerprints.get("teacher_weights"))
        row = record.method if teacher is None else f"{record.method}, teacher of {teacher.config['num_hidden_layers']}"
        start = f"{record.config['num_hidden_layers']} layers of {Path(record.config['backbone']).name}"
        cells.setdefault(start, {}).setdefault(row, []).append(record.metrics[split][name])
    table = {
        start: {row: _percent(*mean_interval(scores)) for row, scores in rows.items()} for start, rows in cells.items()
    }
    own = {Path(record.config["backbone"]).name: record.metrics[split][name] for record in teachers.values()}
    for start, rows in table.items():
        rows["its own teacher"] = f"{100 * own[start.split()[-1]]:.1f}"
    return _markdown(pd.DataFrame(table))


def unlabelled_table(file: str, metric: str) -> str:
    """Mean and interval by training rows and epochs, and what the texts add to either; a column per method."""
    records = [record for record in load_records(FOLDER / file) if record.method != "teacher"]
    arms = {
        (False, 6): "2,000 labelled rows, 6 epochs",
        (True, 6): "the same and 8,000 texts, 6 epochs",
        (False, 30): "2,000 labelled rows, 30 epochs",
    }
    split, name = metric.split("_")
    columns = {}
    for method in sorted({record.method for record in records}):
        scores: dict[tuple[bool, int], dict[int, float]] = {arm: {} for arm in arms}
        for record in [record for record in records if record.method == method]:
            arm = record.unlabelled_rows > 0, record.config["num_train_epochs"]
            scores[arm][record.seed] = record.metrics[split][name]
        column = {words: _percent(*mean_interval([*scores[arm].values()])) for arm, words in arms.items()}
        for words, other in (("the texts, at 6 epochs", (False, 6)), ("the texts, at as many updates", (False, 30))):
            added = [score - scores[other][seed] for seed, score in scores[True, 6].items()]
            column[words] = _percent(*mean_interval(added), "+")
        columns[f"{method} ({len(added)} seeds)"] = column
    return _markdown(pd.DataFrame(columns))


def speed_table() -> str:
    """The recorded benchmarks' figures: median and range over rounds, and the limit, a pair of columns per device."""
    columns = {}
    for device, frame in benchmark_figures().dropna(subset="label").groupby("device"):
        rows = frame.set_index("label")
        columns[device] = {label: _measured(row) for label, row in rows.iterrows()}
        columns[f"{device}: limit"] = {label: f"{limit:.2f}" for label, limit in rows["limit"].dropna().items()}
    return _markdown(pd.DataFrame(columns).reindex(list(columns["cpu"])).fillna(""))


def costs_table(file: str) -> str:
    """A distillation's time with every other distance, map and objective, as times of PKD-Skip's own."""
    figures = json.loads((FOLDER / "benchmarks" / f"{file}.json").read_text(encoding="utf-8"))["figures"]
    own = {re.fullmatch(r"distil_(\w+?)_vs_skip_processor", one["name"]): one for one in figures}
    rows = {name[1]: [_measured(pd.Series(one))] for name, one in own.items() if name}
    return _markdown(pd.DataFrame(rows, index=["times PKD-Skip's processor time"]).T)


def _measured(row: pd.Series) -> str:
    median, low, high = (f"{row[name]:.2f}" if row["unit"] == "x" else f"{row[name]:.3g}" for name in SPREAD)
    return f"{median}{'' if row['unit'] == 'x' else ' ' + row['unit']} [{low}, {high}]"


def _markdown(table: pd.DataFrame) -> str:
    lines = ["| | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in zip(table.index, table.to_numpy(), strict=True)]
    text = "\n".join(lines)
    return re.sub(r"\[(\S+), (\S+)\]", "[\\1,\u00a0\\2]", text)  # an interval is not broken over two lines


def tables() -> dict[str, str]:
    mini, real = ({name: load_results(FOLDER / file) for name, file in files.items()} for files in (MINI, REAL))
    sizes = load_results(FOLDER / "mini-sentiment-3-sizes.jsonl").groupby("train_rows")
    return {
        "first": first_table(MINI["tuned"], "test_accuracy"),
        "mini": comparison_table(mini, "test_accuracy"),
        "mini-sizes": comparison_table({f"{rows:,} rows": frame for rows, frame in sizes}, "test_accuracy"),
        "mini-patience": patience_table("test_accuracy"),
        "mini-study": study_table("study/students.jsonl", "test_accuracy", "mini-sentiment"),
        "mini-study-inference": study_table("study/students.jsonl", "test_accuracy", "mini-inference"),
        "mini-beyond": beyond_table("beyond/variants.jsonl", "study/students.jsonl", "test_accuracy"),
        "variant-costs": costs_table("variants"),
        "mini-tasks": tasks_table("beyond/tasks.jsonl", "test_accuracy"),
        "mini-learning-rate": learning_rate_table("mini-sentiment-3-learning-rate.jsonl", "dev_accuracy"),
        "mini-layers": layers_table("mini-sentiment-6"),
        "mini-teachers": teachers_table("mini-sentiment-better-teacher.jsonl", "test_accuracy"),
        "mini-unlabelled": unlabelled_table("mini-sentiment-3-unlabelled.jsonl", "test_accuracy"),
        "real": comparison_table(real, "dev_accuracy"),
        "real-tasks": tasks_table("beyond/real_tasks.jsonl", "dev_accuracy"),
        "real-starts": starts_table("sst2-3-all", "dev_accuracy"),
        "speed": speed_table(),
    }


def fill(text: str) -> str:
    """The text with every table renewed."""
    for name, table in tables().items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(pattern, lambda ends, table=table: f"{ends[1]}{table}\n{ends[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
