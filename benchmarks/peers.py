"""A whole distillation, the teacher's pass included: this kit beside the authors' recipe and TextBrewer.

Figures are ratios of runs in one process, on the same rows, model, seed and threads. As all cost goes with the rows, a
part of them is enough; the limits, beside, are what real tokens and layers alone would give.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.common import Figure, arguments, figure, ratio_figures, take_turns, write
from benchmarks.contenders import HAS_TEXTBREWER, Case, authors, kit, random_case, read_rows, textbrewer
from pkdlib.data import LengthGroupedBatches, make_loader
from pkdlib.progress import say

ROWS = {"sst2": 1600, "rte": 640, "mini-sentiment": 64, "mini-inference": 64}  # one group of length-sorted batches


def compare(task: str, found: argparse.Namespace) -> list[Figure]:
    """Every contender in turn on one task."""
    name = task.replace("-", "_")
    rows = 64 if found.quick else found.rows or ROWS[task]
    data = read_rows(task, found.glue, found.backbone, rows)
    with tempfile.TemporaryDirectory() as folder:
        case = random_case(data, found.backbone, Path(folder) / "backbone", num_train_epochs=1 if found.quick else 4)
        warm = Path(folder) / "cache"
        kit(case, warm)
        contenders = {"kit": partial(kit, case), "authors": partial(authors, case)}
        if HAS_TEXTBREWER and task in ("sst2", "mini-sentiment"):
            contenders |= {
                "TextBrewer shuffled": partial(textbrewer, case),
                "TextBrewer grouped": partial(textbrewer, case, grouped=True),
                "kit warm": partial(kit, case, warm),
            }
        times = take_turns(contenders, found.rounds)
    limits = token_limits(case)
    figures = ratio_figures(f"{name}_vs_authors", times, "authors", "kit")
    figures.append(figure(f"{name}_vs_authors_limit", limits["authors"], "x"))
    if "kit warm" in contenders:
        figures += ratio_figures(f"{name}_vs_textbrewer_shuffled", times, "TextBrewer shuffled", "kit")
        figures.append(figure(f"{name}_vs_textbrewer_shuffled_limit", limits["shuffled"], "x"))
        figures += ratio_figures(f"{name}_vs_textbrewer_same_batches_warm", times, "TextBrewer grouped", "kit warm")
        figures.append(figure(f"{name}_vs_textbrewer_same_batches_warm_limit", limits["warm"], "x"))
    seconds = times.groupby("contender")["seconds"]
    return figures + [figure(f"{name}_seconds {contender}", values, "s") for contender, values in seconds]


def token_limits(case: Case) -> dict[str, float]:
    """The ratios if time were layers times tokens: forward 1, forward and backward 3, this kit without padding."""
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
    found = arguments("peers", __doc__, "glue", "backbone", "rounds", "rows")
    if not HAS_TEXTBREWER:
        say("textbrewer is not installed: left out (see benchmarks/README.md)")
    tasks = ("sst2", "rte") if found.glue else ("mini-sentiment", "mini-inference")
    figures = [one for task in tasks for one in compare(task, found)]
    rows = {task: 64 if found.quick else found.rows or ROWS[task] for task in tasks}
    write("peers", figures, found, rows=rows, epochs=1 if found.quick else 4, layers="12 to 6, random weights")


if __name__ == "__main__":
    main()
