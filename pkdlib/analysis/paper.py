"""The paper's tables and the authors' settings, read from paper.json beside this file, where each names its source."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pkdlib.analysis.statistics import paired_difference
from pkdlib.engine.configs import pick, whole
from pkdlib.losses import FORMS, Form

PAPER: dict[str, Any] = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))
# task -> column of the test tables by metric, column of the authors' dev figures, which are accuracies
COLUMNS: dict[str, tuple[dict[str, str], str | None]] = PAPER["tasks"]
FIXED = {name: PAPER["fixed"][name] for name in "train_batch_size num_train_epochs weight_decay warmup_ratio".split()}
WIDTH = 768  # of BERT-base's states: what the authors' beta is meant for


def paper_table(name: str) -> pd.DataFrame:
    """A table of the paper, or "dev", the authors' dev figures; a row per model, its title and source in `attrs`."""
    return _table(pick("name", name, {key: entry for key, entry in PAPER.items() if "rows" in entry}))


def later_table(name: str) -> pd.DataFrame:
    """A table of works after the paper: "matching", "replications" or "tinybert"; `attrs["read"]` says where read."""
    return _table(pick("name", name, PAPER["later"]))


def _table(entry: dict[str, Any]) -> pd.DataFrame:
    table = pd.DataFrame.from_dict(entry["rows"], orient="index", columns=entry["columns"], dtype=float)
    table.attrs = {key: text for key, text in entry.items() if isinstance(text, str)}
    return table


def paper_presets() -> pd.DataFrame:
    """Every setting of the authors' best runs on a dev split, a row each with its source."""
    return pd.DataFrame(PAPER["presets"])


def paper_preset(task: str, num_hidden_layers: int, hidden_size: int = WIDTH) -> dict[str, Any]:
    """The authors' best setting for a student of that size, as fields of DistillConfig; ValueError names those known.

    Losses are those of the authors' code. On normalised states of another width, beta is rescaled to weigh the same.
    The strategy is Skip, as the paper says, also with 3 layers, where the authors' script takes the last ones.
    """
    presets = {(entry["task"], entry["num_hidden_layers"]): entry for entry in PAPER["presets"]}
    preset = presets.get(("mnli" if task == "mnli-mm" else task, num_hidden_layers))
    if preset is None:
        known = ", ".join(f"{name} {layers}" for name, layers in sorted(presets))
        raise ValueError(f"{task = }, {num_hidden_layers = }: the authors' settings are for {known}")
    own = {field: value for field, value in preset.items() if field not in ("task", "source", "note")}
    beta = own["beta"] * hidden_size / WIDTH if own["normalize"] else own["beta"]
    return {**own, "beta": beta, **FIXED, "form": "official", "t_squared": True, "strategy": "skip"}


def paper_teacher() -> dict[str, Any]:
    """The authors' settings of their 12-layer teachers, the same for every task, as fields of FineTuneConfig."""
    return {"learning_rate": PAPER["teacher"]["learning_rate"], **FIXED}


def paper_length(task: str) -> int:
    """The tokens of a row in the authors' runs of a task."""
    return PAPER["fixed"]["max_length_of"].get(task, PAPER["fixed"]["max_length"])


def convert_beta(beta: float, num_matched_layers: int, hidden_size: int, source: Form, target: Form) -> float:
    """Beta of equal weight, for squared distances: beta_paper = beta_official / (M d), M matched layers of width d."""
    pick("source", source, FORMS), pick("target", target, FORMS)
    whole("num_matched_layers", num_matched_layers, 1), whole("hidden_size", hidden_size, 1)
    elements = 1 if source == target else num_matched_layers * hidden_size  # the paper sums, the code averages
    return beta / elements if target == "paper" else beta * elements


def reference_rows(task: str, metric: str = "accuracy") -> pd.DataFrame:
    """The paper's test and the authors' dev figures, in percent, of every model of one task; NaN for none."""
    tests, dev_column = pick("task", task, COLUMNS)
    column = pick("metric", metric, tests)
    test = pd.concat([paper_table(name) for name in ("table_1", "table_2", "table_3")])[column].dropna()
    dev = paper_table("dev").get(dev_column if metric == "accuracy" else None, pd.Series(dtype=float))
    models = pd.DataFrame(PAPER["models"])  # "PKD" stands as PKD-Skip, as Table 1's caption says
    figures = {"paper_test": models["test_row"].map(test), "authors_dev": models["dev_row"].map(dev)}
    return models[["num_hidden_layers", "method"]].assign(**figures)


def differences_beside_paper(frame: pd.DataFrame, metric: str, task: str) -> pd.DataFrame:
    """`paired_difference` of every method and size of one setting to FT, beside the paper's; all in 0..1."""
    reference = reference_rows(task, metric.split("_")[-1]).set_index(["num_hidden_layers", "method"]) / 100
    rows = []
    for layers, runs in frame[frame["method"] != "teacher"].groupby("num_hidden_layers", sort=False):
        methods = list(runs["method"].unique())
        for method in [name for name in methods if name != "FT" and "FT" in methods]:
            theirs = reference.reindex([(layers, "FT"), (layers, method)]).diff().iloc[-1].to_dict()
            rows.append({"num_hidden_layers": layers} | paired_difference(runs, metric, method, "FT") | theirs)
    return pd.DataFrame(rows, columns=None if rows else ["num_hidden_layers", "method"])
