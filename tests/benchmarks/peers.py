"""Times a whole distillation, the teacher's pass included: this kit beside the authors' recipe and TextBrewer.

Figures are ratios of runs in one process, of the same task, model, seed and threads. As all cost grows with the rows,
some of them are enough, and times are compared per row; the limits are the ratios if time were tokens times layers.
The authors' dropout ends with the first epoch, which saves them time; with `--same-dropout`, this kit's does too.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

from pkdlib.engine.batches import LengthGroupedBatches, make_loader
from pkdlib.engine.progress import say
from tests.benchmarks.common import Figure, arguments, figure, ratio_figures, take_turns, write
from tests.benchmarks.contenders import HAS_TEXTBREWER, Case, authors, kit, random_case, read_rows, textbrewer

# Rows of each contender: this kit's are a group of length-sorted batches, or most of one. Contenders that pad every row
# to the limit, or batches as they come, cost as much per row on fewer.
ROWS = {
    "sst2": {"kit": 1600, "authors": 160, "TextBrewer shuffled": 480, "TextBrewer grouped": 800, "kit warm": 800},
    "rte": {"kit": 1280, "authors": 128},
}
ON_CUDA = 16_000  # of every contender, or all there are: this kit records its steps first, which is not per row
QUICK = {"mini-sentiment": dict.fromkeys(ROWS["sst2"], 64), "mini-inference": dict.fromkeys(ROWS["rte"], 64)}


def compare(task: str, rows: dict[str, int], given: argparse.Namespace) -> list[Figure]:
    """Time every contender in turn on one task; seconds are those of 1,000 rows."""
    name, theirs = task.replace("-", "_"), "authors_same_dropout" if given.same_dropout else "authors"
    settings = {"num_train_epochs": 1 if given.quick else 4, "dropout_epochs": 1 if given.same_dropout else None}
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            size: random_case(
                read_rows(task, given.glue, given.backbone, size),
                given.backbone, Path(folder) / f"backbone-{size}", **settings,
            )
            for size in set(rows.values())
        }  # fmt: skip
        warm = Path(folder) / "cache"
        contenders = {"kit": partial(kit, cases[rows["kit"]]), "authors": partial(authors, cases[rows["authors"]])}
        if HAS_TEXTBREWER and "kit warm" in rows:
            kit(cases[rows["kit warm"]], warm)
            contenders |= {
                "TextBrewer shuffled": partial(textbrewer, cases[rows["TextBrewer shuffled"]]),
                "TextBrewer grouped": partial(textbrewer, cases[rows["TextBrewer grouped"]], grouped=True),
                "kit warm": partial(kit, cases[rows["kit warm"]], warm),
            }
        times = take_turns(contenders, given.rounds)
        limits = token_limits(cases[rows["kit"]])
        sizes = {contender: len(cases[size].data.splits["train"]) for contender, size in rows.items()}
    for column in ("seconds", "processor_s"):
        times[column] *= 1000 / times["contender"].map(sizes)
    figures = ratio_figures(f"{name}_vs_{theirs}", times, "authors", "kit")
    figures.append(figure(f"{name}_vs_{theirs}_limit", limits["authors"], "x"))
    if "kit warm" in contenders:
        figures += ratio_figures(f"{name}_vs_textbrewer_shuffled", times, "TextBrewer shuffled", "kit")
        figures.append(figure(f"{name}_vs_textbrewer_shuffled_limit", limits["shuffled"], "x"))
        figures += ratio_figures(f"{name}_vs_textbrewer_same_batches_warm", times, "TextBrewer grouped", "kit warm")
        figures.append(figure(f"{name}_vs_textbrewer_same_batches_warm_limit", limits["warm"], "x"))
    seconds = times.groupby("contender")["seconds"]
    return figures + [figure(f"{name}_seconds_per_1000_rows {contender}", values, "s") for contender, values in seconds]


def token_limits(case: Case) -> dict[str, float]:
    """The ratios if time were layers times tokens: a forward pass 1, forward and backward 3, no padding in this kit."""
    split, config = case.data.splits["train"], case.config
    teacher, student = case.teacher.config.num_hidden_layers, 3 * config.num_hidden_layers
    ours = student + teacher / config.num_train_epochs  # layer passes per token and epoch
    mixed = LengthGroupedBatches(split.lengths, config.train_batch_size, 0, shuffle=False)  # any order of lengths
    padded = sum(batch["input_ids"].numel() for batch in make_loader(split, mixed))
    return {
        "authors": case.data.max_length / split.lengths.mean(),
        "shuffled": (student + teacher) / ours * padded / split.lengths.sum(),
        "warm": (student + teacher) / student,
    }


def main() -> None:
    given = arguments("peers", __doc__, "glue", "backbone", "rounds", "same-dropout")
    if not HAS_TEXTBREWER:
        say("textbrewer is not installed: left out (see tests/benchmarks/README.md)")
    rows = ROWS if given.glue and not given.quick else QUICK
    if torch.cuda.is_available() and not given.quick:
        rows = {task: dict.fromkeys(contenders, ON_CUDA) for task, contenders in rows.items()}
    if given.glue and given.quick:
        rows = dict(zip(ROWS, QUICK.values(), strict=True))
    name = "peers"
    if given.same_dropout:
        name = "peers_same_dropout"
        rows = {task: {contender: sizes[contender] for contender in ("kit", "authors")} for task, sizes in rows.items()}
    figures = [one for task in rows for one in compare(task, rows[task], given)]
    write(name, figures, given, rows=rows, epochs=1 if given.quick else 4, layers="12 to 6, random weights")


if __name__ == "__main__":
    main()
