"""Times whole distillations with a real BERT: a teacher, then every method and seed, with their dev accuracy.

The records go beside the figures, as distillations.jsonl (distillations_cuda.jsonl). All of SST-2 wants a GPU.
"""

import tempfile
import time
from pathlib import Path

from pkdlib.analysis.tables import results_frame
from pkdlib.config import DistillConfig, FineTuneConfig, method_config, validate
from pkdlib.readers.records import save_records
from pkdlib.training import distill, fine_tune
from tests.benchmarks.common import arguments, figure, write
from tests.benchmarks.contenders import read_given

# As in data/README.md for a BERT of width 384 on SST-2.
LEARNING_RATE = 1e-4
TERMS = {"temperature": 10.0, "alpha": 0.5, "beta": 0.5}


def main() -> None:
    given = arguments("distillations", __doc__, "glue", "backbone", "rows", "epochs", "seeds")
    data = read_given(given, given.rows)
    common = {"learning_rate": LEARNING_RATE, "num_train_epochs": given.epochs, "backbone": given.backbone}
    started = time.perf_counter()
    teacher = fine_tune(data, validate(FineTuneConfig, **common))
    records, seconds = [teacher.record], [time.perf_counter() - started]
    layers = teacher.model.config.num_hidden_layers // 2
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            for method in ("FT", "KD", "PKD-Skip", "PKD-Last"):
                config = validate(DistillConfig, **common, **TERMS, num_hidden_layers=layers, seed=seed)
                started = time.perf_counter()
                run = distill(data, method_config(method, config), teacher.model, cache_dir=Path(folder))
                seconds.append(time.perf_counter() - started)
                records.append(run.record)
    runs = results_frame(records).assign(seconds=seconds).groupby("method", sort=False)
    figures = [figure(f"wall_{name}", values, "s") for name, values in runs["seconds"]]
    figures += [figure(f"dev_accuracy_{name}", 100 * values, "%") for name, values in runs["dev_accuracy"]]
    sizes = {"rows": len(data.splits["train"]), "epochs": given.epochs, "student_layers": layers}
    path = write("distillations", figures, given, task=data.task.name, **sizes)
    save_records(records, path.with_suffix(".jsonl"))


if __name__ == "__main__":
    main()
