"""Compares dev accuracy: all contenders distil the miniature BERT on the same task, with the same seeds and terms."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from pkdlib.analysis.statistics import mean_interval
from pkdlib.config import FineTuneConfig, validate
from pkdlib.engine.progress import say
from pkdlib.training import fine_tune
from tests.benchmarks.common import arguments, figure, write
from tests.benchmarks.contenders import (
    HAS_TEXTBREWER,
    Case,
    Scores,
    authors,
    kit,
    read_rows,
    settings,
    textbrewer,
    trainer,
)

TASK = "mini-sentiment"


def with_their_dropout(case: Case) -> Scores:
    """Distil by this kit, with dropout in the first epoch alone, as in the authors' code."""
    return kit(replace(case, config=case.config.model_copy(update={"dropout_epochs": 1})))


def main() -> None:
    given = arguments("accuracy", __doc__, "rows", "seeds")
    backbone = validate(FineTuneConfig).backbone
    data = read_rows(TASK, None, backbone, given.rows)
    teacher = fine_tune(data, validate(FineTuneConfig, num_train_epochs=1 if given.quick else 5)).model
    changes = {"num_train_epochs": 1 if given.quick else 4, "learning_rate": 1e-3}
    # The authors' dropout ends with the first epoch, which helps on this task: one contender of ours ends it too.
    contenders: dict[str, Callable[[Case], Scores]] = {
        "kit": kit, "kit_dropout_1": with_their_dropout, "authors": authors, "trainer": trainer,
        "trainer_precomputed": partial(trainer, precomputed=True),
    }  # fmt: skip
    if HAS_TEXTBREWER:
        contenders["textbrewer"] = textbrewer
        contenders["textbrewer_cached"] = partial(textbrewer, grouped=True, cached=True)
    pairs = [("kit", name) for name in contenders if not name.startswith("kit")] + [("kit_dropout_1", "authors")]
    best: dict[str, Scores] = {name: [] for name in contenders}
    for seed in range(given.seeds):
        case = Case(data, teacher, settings(backbone=backbone, seed=seed, **changes))
        for name, contender in contenders.items():
            best[name].append(100 * max(contender(case)))  # of the epoch that is best on dev, for all of them
            say(f"seed {seed}: {name} {best[name][-1]:.1f}")
    figures = [figure(f"dev_accuracy_{name}", scores, "%") for name, scores in best.items()]
    for ours, theirs in pairs if len(best["kit"]) > 1 else []:
        mean, low, high = mean_interval(np.subtract(best[ours], best[theirs]))
        name = f"dev_accuracy_{ours}_minus_{theirs}"
        figures.append({"name": name, "median": mean, "low": low, "high": high, "unit": "points"})
    spread = "lowest and highest of seeds; of differences the mean and its 95 % interval, paired by seed"
    write("accuracy", figures, given, task=TASK, rows=len(data.splits["train"]), seeds=len(best["kit"]), spread=spread)


if __name__ == "__main__":
    main()
