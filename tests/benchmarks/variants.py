"""Times a distillation with every distance and map, and with TinyBERT's objective, beside PKD-Skip's own."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from pkdlib.beyond.tinybert import TinyBERT
from pkdlib.config import DistillConfig, FineTuneConfig, validate
from pkdlib.training import distill, fine_tune
from pkdlib.variants.distances import DISTANCES
from pkdlib.variants.maps import MOVING
from tests.benchmarks.common import arguments, enough_rows, ratio_figures, take_turns, write
from tests.benchmarks.contenders import read_given

ROWS_ON_CPU = 800


def main() -> None:
    given = arguments("variants", __doc__, "glue", "backbone", "rows", "epochs", "rounds")
    data = read_given(given, enough_rows(given, ROWS_ON_CPU))
    common = {"backbone": given.backbone, "num_train_epochs": given.epochs}
    teacher = fine_tune(data, validate(FineTuneConfig, **common | {"num_train_epochs": 1})).model
    layers = teacher.config.num_hidden_layers // 2

    def call(**changes: object) -> Callable[[], object]:
        """One distillation with a cache of its own, the teacher's pass included."""
        objective = {"objective": changes.pop("objective")} if "objective" in changes else {}
        config = validate(DistillConfig, **common, num_hidden_layers=layers, **changes)

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                distill(data, config, teacher, cache_dir=Path(folder), **objective)

        return run

    contenders = {name: call(distance=name) for name in DISTANCES} | {name: call(strategy=name) for name in MOVING}
    contenders |= {"tinybert": call(objective=TinyBERT)}
    times = take_turns(contenders, given.rounds)
    figures = [
        figure
        for name in contenders
        if name != "squared"
        for figure in ratio_figures(f"distil_{name}_vs_skip", times, name, "squared")
    ]
    sizes = {"rows": len(data.splits["train"]), "epochs": given.epochs, "student_layers": layers}
    write("variants", figures, given, task=data.task.name, **sizes)


if __name__ == "__main__":
    main()
