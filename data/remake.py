"""Remake this folder's task files and its miniature BERTs: `python data/remake.py` (an hour of one CPU core).

`--task mini-sentiment --train-rows 32000 --out FOLDER` writes one task with a larger training split instead:
its dev and test rows stay the same, and a larger training split begins with a smaller one's rows.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from random import Random

import grammar

FOLDER = Path(__file__).parent
TASKS = ("mini-sentiment", "mini-inference")
MODELS = ("mini-bert-12", "mini-bert-24")
ROWS = {"dev": 1000, "test": 3000, "train": 2000}  # train last: it may grow
OWN = "mini-tickets"  # rows as people have them: files of one table each, and no dev split
OWN_ROWS = {"labelled": 1500, "unlabelled": 2400, "held_out": 500, "new": 300}
OWN_COLUMNS = {"unlabelled": ("text",), "new": ("id", "text")}  # of the others: id, text, kind
LABEL_NOISE = 0.1  # share of training labels replaced by another class


def sentiment_row(rng: Random) -> tuple[tuple[str, ...], str]:
    positive = rng.random() < 0.5
    return (grammar.review(rng, positive)[0],), str(int(positive))


def inference_row(rng: Random) -> tuple[tuple[str, ...], str]:
    label = rng.choice(grammar.INFERENCE_LABELS)
    return grammar.inference_pair(rng, label, edits=1), label  # two are as hard for a teacher as for its students


LAYOUT: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable]] = {  # text columns, labels, a random row
    "mini-sentiment": (("sentence",), ("0", "1"), sentiment_row),
    "mini-inference": (("sentence1", "sentence2"), grammar.INFERENCE_LABELS, inference_row),
}


def write_task(name: str, folder: Path, train_rows: int = ROWS["train"], seed: int = 0) -> None:
    """train.tsv, dev.tsv and test.tsv in GLUE's layout; no text stands in two splits, nor twice in one.

    train.tsv has a last column `clean_label`, what `label` was before the noise.
    """
    columns, labels, draw = LAYOUT[name]
    seen: set[tuple[str, ...]] = set()
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (ROWS | {"train": train_rows}).items():
        rng = Random(f"{name} {split} {seed}")
        lines = ["\t".join((*columns, "label", *(["clean_label"] if split == "train" else [])))]
        while len(lines) <= rows:
            texts, label = draw(rng)
            if texts in seen:
                continue
            seen.add(texts)
            fields = [*texts, label]
            if split == "train":
                flipped = rng.random() < LABEL_NOISE
                fields = [
                    *texts,
                    rng.choice([other for other in labels if other != label]) if flipped else label,
                    label,
                ]
            lines.append("\t".join(fields))
        (folder / f"{split}.tsv").write_bytes(("\n".join(lines) + "\n").encode())


def write_own(folder: Path, seed: int = 0) -> None:
    """A CSV for each of OWN_ROWS; no text stands in two of them, nor twice in one, and no label is wrong."""
    seen: set[str] = set()
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in OWN_ROWS.items():
        rng, last = Random(f"{OWN} {name} {seed}"), len(seen) + rows
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            columns = OWN_COLUMNS.get(name, ("id", "text", "kind"))
            table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            while len(seen) < last:
                text, kind = grammar.ticket(rng)
                if text not in seen:
                    seen.add(text)
                    table.writerow({"id": len(seen), "text": text, "kind": kind})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the folders are written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", choices=(*TASKS, OWN), help="this task alone, and no models")
    parser.add_argument("--model", choices=MODELS, help="this miniature BERT alone, and no tasks")
    parser.add_argument("--train-rows", type=int, default=ROWS["train"])
    options = parser.parse_args()
    for name in [options.task] if options.task else () if options.model else (*TASKS, OWN):
        if name == OWN:
            write_own(options.out / name, options.seed)
        else:
            write_task(name, options.out / name, options.train_rows, options.seed)
        print(f"wrote {name}", flush=True)
    if options.task is None:
        import pretrain  # here, because the task files need neither torch nor transformers

        for name in [options.model] if options.model else MODELS:
            pretrain.pretrain(name, options.out / name, options.seed)


if __name__ == "__main__":
    main()
