"""A model card: README.md beside a trained model, made of its record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkdlib.engine.files import HUB_ID, here, write_text
from pkdlib.engine.progress import say

MARK = "<!-- Written by pkdlib, anew after every training; without this line it is left as it is. -->"
SHOWN = (  # settings, where the record has them
    "num_hidden_layers", "strategy", "alpha", "beta", "temperature", "form", "init", "learning_rate",
    "num_train_epochs", "train_batch_size", "mixed_precision", "seed", "tasks", "sampling",
)  # fmt: skip


def write_card(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record's card as `folder`/README.md, unless one is there that is not ours; a fault is said, not raised.

    A trained model without a card is still a trained model.
    """
    path = Path(folder) / "README.md"
    try:
        if not path.exists() or MARK in path.read_text(encoding="utf-8"):
            path.unlink(missing_ok=True)  # of an earlier model
            write_text(path, card(record))
    except Exception as error:  # of any class, as huggingface_hub's and yaml's
        say(f"{path}: no model card written: {type(error).__name__}: {error}")


def card(record: Mapping[str, Any]) -> str:
    """A model card, with the hub's metadata, of a record as a dict."""
    from huggingface_hub import EvalResult, ModelCardData  # here, because it is slow to import

    config, method, task = record["config"], record["method"], record["task"]
    columns, classes = (record["task_definition"][name] for name in ("columns", "label_names"))
    kind, gives = "text-classification", "a class" if len(classes) > 1 else "a number"
    if len(columns) > 2:
        kind, gives = "multiple-choice", f"a choice of {len(classes)} texts for the first"
    taught = method != "FT" and "teacher_weights" in record["fingerprints"]
    tags = ["pkdlib", *(["knowledge-distillation"] if taught else [])]
    results = [
        EvalResult(kind, task, task, name, value, dataset_split=split)
        for split, scores in record["metrics"].items()
        for name, value in _shown(scores)
    ]
    hub = {"base_model": config["backbone"]} if _is_hub_id(config["backbone"]) else {}
    data = ModelCardData(
        library_name="transformers", pipeline_tag=kind, tags=tags, **hub,
        **({"model_name": record["run_id"], "eval_results": results} if results else {}),
    )  # fmt: skip
    what = f"a model for {task} of {config['num_hidden_layers']} layers and {record['num_parameters']:,} parameters"
    first = "its teacher's first layers" if config.get("init") == "teacher" else f"`{_public(config['backbone'])}`"
    start = f"It starts from {first}"
    if taught:
        weights = record["fingerprints"]["teacher_weights"]
        start += f" and was taught by a teacher whose weights have the fingerprint `{weights}`"
    rows = f"{record['train_rows']:,}"
    if record["unlabelled_rows"]:
        rows += f" labelled and {record['unlabelled_rows']:,} unlabelled"
    lines = [
        f"---\n{data.to_yaml()}\n---\n{MARK}\n\n# {record['run_id']}\n",
        f"This is {what}, trained by pkdlib with the method {method}. {start}.\n",
        f"- Texts: {', '.join(columns)}, at most {record['max_length']} tokens a row.",
        f"- It gives {gives}: {', '.join(classes)}.",
        f"- Data: {_public(record['source'])}, {rows} rows for training.",
        f"- Best epoch on dev: {record['best_epoch']} of {config.get('num_train_epochs', record['best_epoch'])}.\n",
        f"## Scores\n\n{_scores(record)}\n",
        "The interval is for other rows of the same kind (Wilson, of accuracy alone); the last column is the score of",
        "always naming the most frequent class.\n",
        f"## Settings\n\n{_table(('setting', 'value'), [(name, config[name]) for name in SHOWN if name in config])}\n",
        "## Limits\n",
        f"- One training with one seed ({record['seed']}) on one split: another seed gives other scores.",
        "- It was chosen by its dev score, which is therefore a little too good.",
        f"- Texts longer than {record['max_length']} tokens are cut.",
        "- It knows texts like those it was trained on; other languages and kinds of texts were not tried.",
        *(f"- {line}" for line in _one_class(record)),
    ]
    return "\n".join(lines) + "\n"


def wilson_interval(share: float, rows: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of so many rows."""
    middle, scale = share + z**2 / (2 * rows), 1 + z**2 / rows
    half = z * (share * (1 - share) / rows + z**2 / (4 * rows**2)) ** 0.5
    return (middle - half) / scale, (middle + half) / scale


def _scores(record: Mapping[str, Any]) -> str:
    rows = []
    for split, scores in record["metrics"].items():
        count = record["eval_rows"].get(split, 0)
        for name, value in _shown(scores):
            interval = wilson_interval(value, count) if name == "accuracy" and count else ()
            text = " to ".join(f"{end:.3f}" for end in interval)
            most = record["majority"].get(split, {}).get(name)
            rows.append((split, count, name, f"{value:.3f}", text, "" if most is None else f"{most:.3f}"))
    return _table(("split", "rows", "metric", "score", "95 % interval", "most frequent class"), rows)


def _one_class(record: Mapping[str, Any]) -> list[str]:
    """A line for each split on which the model scores as if it named one class alone."""
    return [
        f"On {split} its scores are those of always naming the most frequent class: it may name no other."
        for split, most in record["majority"].items()
        if most and dict(_shown(record["metrics"].get(split, {}))) == most
    ]


def _shown(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in scores.items() if name != "loss"]


def _table(header: tuple, rows: list[tuple]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _is_hub_id(name: str) -> bool:
    return bool(HUB_ID.fullmatch(name)) and not here(name)


def _public(name: str) -> str:
    """A hub id, or of a path the last folder: where it lies on this machine is nobody's concern."""
    return name if _is_hub_id(name) else Path(name).name
