"""Times whole distillations of width 384, say, beside transformers' Trainer and TextBrewer with its cache.

A good engineer's own loop: a Trainer with another `compute_loss`, rows padded to the longest of their batch and grouped
by length, fused AdamW; its teacher runs with every batch, or once. All contenders have the same rows, models, terms
and epochs. The limits are what time would be if it were layers times tokens, this kit's last layers computed for [CLS]
alone. The share of the machine's matrix products is of this kit's runs, part by part.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import pandas as pd

from pkdlib.config import DistillConfig
from pkdlib.engine.progress import say
from pkdlib.training import Run, distill
from tests.benchmarks.common import Figure, arguments, figure, ratio_figures, take_turns, write
from tests.benchmarks.contenders import (
    HAS_TEXTBREWER,
    TEACHER_LAYERS,
    Case,
    random_case,
    read_rows,
    textbrewer,
    trainer,
)
from tests.benchmarks.inference import SHORT, flops, matmul_rates

LAYERS, ROWS = (6, 3), 800


def compare(layers: int, given: argparse.Namespace) -> list[Figure]:
    """Time every contender in turn with students of so many layers."""
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = read_rows("sst2" if given.glue else "mini-sentiment", given.glue, given.backbone, given.rows)
        changes = {"num_hidden_layers": layers, "num_train_epochs": given.epochs}
        case = random_case(data, given.backbone, folder / "backbone", **changes)

        def kit(config: DistillConfig) -> None:
            with tempfile.TemporaryDirectory() as fresh:
                runs.append(distill(case.data, config, case.teacher, cache_dir=Path(fresh)))

        contenders = {
            "kit": partial(kit, case.config),
            "kit, whole last layer": partial(kit, case.config.model_copy(update={"last_layer": "all"})),
            "Trainer": partial(trainer, case),
            "Trainer, precomputed": partial(trainer, case, precomputed=True),
        }
        if HAS_TEXTBREWER:
            contenders["TextBrewer, cached"] = partial(textbrewer, case, grouped=True, cached=True)
        times = take_turns(contenders, given.rounds)
        rates = matmul_rates(
            2048, case.teacher.config.hidden_size, case.teacher.device, case.teacher.dtype, given.rounds
        )
    figures, limits = [], limit_of_layers(layers, given.epochs)
    for contender in [contender for contender in contenders if contender != "kit"]:
        words = "".join(letter if letter.isalnum() else " " for letter in contender.lower()).split()
        name = f"distil_12_to_{layers}_vs_{'_'.join(words)}"
        figures += ratio_figures(name, times, contender, "kit")
        figures.append(figure(f"{name}_limit", limits["loop" if contender == "Trainer" else "once"], "x"))
    short = [run for run in runs if run.record.config["last_layer"] == "cls"]
    figures += shares(case, pd.DataFrame(run.record.durations_s for run in short), max(rates), layers)
    return [*figures, figure(f"matmul_rate_{layers}", [rate / 1e9 for rate in rates], "GFLOP/s")]


def limit_of_layers(layers: int, epochs: int) -> dict[str, float]:
    """What the others take, in this kit's time, if time were layers: with the teacher in the loop, and run once."""
    forward, teacher = layers - 1 + SHORT, TEACHER_LAYERS - 1 + SHORT
    ours = 3 * forward + teacher / epochs  # a forward pass is 1, forward and backward are 3
    return {
        "loop": (3 * layers + TEACHER_LAYERS) / ours,
        "once": (3 * layers + TEACHER_LAYERS / epochs) / ours,
    }


def shares(case: Case, seconds: pd.DataFrame, rate: float, layers: int) -> list[Figure]:
    """Percent of the machine's rate of matrix products that this kit's runs reach, in all and by part."""
    hidden, epochs = case.teacher.config.hidden_size, case.config.num_train_epochs

    def work(split: str, depth: int) -> float:
        """The operations of a forward pass over a split, its last layer's for [CLS] alone."""
        lengths = [int(length) for length in case.data.splits[split].lengths]
        whole = sum(flops(depth - 1, hidden, 1, length) for length in lengths)
        return whole + sum(4 * hidden**2 * length + 20 * hidden**2 + 4 * length * hidden for length in lengths)

    trained = epochs * (3 * work("train", layers) + work("dev", layers))  # with an evaluation after every epoch
    parts = {"teacher_outputs": work("train", TEACHER_LAYERS), "training": trained}
    figures = [
        figure(f"matmul_share_12_to_{layers}_{part}", 100 * done / rate / seconds[part], "%")
        for part, done in parts.items()
    ]
    whole = 100 * sum(parts.values()) / rate / seconds[list(parts)].sum(axis=1)
    return [figure(f"matmul_share_12_to_{layers}", whole, "%"), *figures]


def main() -> None:
    given = arguments("trainer", __doc__, "glue", "backbone", "rounds", "rows", "epochs")
    given.rows = given.rows or ROWS
    if not HAS_TEXTBREWER:
        say("textbrewer is not installed: left out (see tests/benchmarks/README.md)")
    figures = [one for layers in LAYERS[: 1 if given.quick else 2] for one in compare(layers, given)]
    write("trainer", figures, given, rows=given.rows, epochs=given.epochs, layers="12 to 6 and 3, random weights")


if __name__ == "__main__":
    main()
