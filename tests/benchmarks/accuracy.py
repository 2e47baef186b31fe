"""Does speed cost accuracy? All contenders distil the miniature BERT on the same task, seeds and terms."""

from dataclasses import replace

import numpy as np

from pkdlib.analysis.statistics import mean_interval
from pkdlib.config import FineTuneConfig, validate
from pkdlib.engine.progress import say
from pkdlib.training import fine_tune
from tests.benchmarks.common import arguments, figure, write
from tests.benchmarks.contenders import HAS_TEXTBREWER, Case, Scores, authors, kit, read_rows, settings, textbrewer

TASK = "mini-sentiment"
SEEDS = 5


def with_their_dropout(case: Case) -> Scores:
    return kit(replace(case, config=case.config.model_copy(update={"dropout_epochs": 1})))


def main() -> None:
    found = arguments("accuracy", __doc__, "rows")
    backbone = validate(FineTuneConfig).backbone
    data = read_rows(TASK, None, backbone, 64 if found.quick else found.rows)
    teacher = fine_tune(data, validate(FineTuneConfig, num_train_epochs=1 if found.quick else 5)).model
    changes = {"num_train_epochs": 1 if found.quick else 4, "learning_rate": 1e-3}
    # The authors' dropout is off after the first epoch, which helps here: one contender has that too.
    contenders = {"kit": kit, "kit_dropout_1": with_their_dropout, "authors": authors}
    pairs = [("kit", "authors"), ("kit_dropout_1", "authors")]
    if HAS_TEXTBREWER:
        contenders["textbrewer"] = textbrewer
        pairs.append(("kit", "textbrewer"))
    best: dict[str, Scores] = {name: [] for name in contenders}
    for seed in range(1 if found.quick else SEEDS):
        case = Case(data, teacher, settings(backbone=backbone, seed=seed, **changes))
        for name, contender in contenders.items():
            best[name].append(100 * max(contender(case)))  # all of them report their best epoch on dev
            say(f"seed {seed}: {name} {best[name][-1]:.1f}")
    figures = [figure(f"dev_accuracy_{name}", scores, "%") for name, scores in best.items()]
    for ours, theirs in pairs if len(best["kit"]) > 1 else []:
        mean, low, high = mean_interval(np.subtract(best[ours], best[theirs]))
        one = {
            "name": f"dev_accuracy_{ours}_minus_{theirs}",
            "median": mean,
            "low": low,
            "high": high,
            "unit": "points",
        }
        figures.append(one)
    spread = "lowest and highest of seeds; of differences the mean and its 95 % interval, paired by seed"
    write("accuracy", figures, found, task=TASK, rows=len(data.splits["train"]), seeds=len(best["kit"]), spread=spread)


if __name__ == "__main__":
    main()
