"""Measures how much of a batch is padding, and how many real tokens a second the loader gives."""

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from pkdlib.engine.batches import LengthGroupedBatches, make_loader
from tests.benchmarks.common import arguments, figure, take_turns, write
from tests.benchmarks.contenders import read_given

BATCH = 32


def padding_share(batches: Iterable[dict[str, Tensor]]) -> float:
    """The share of positions that hold no token."""
    counts = np.array([(batch["attention_mask"].numel(), int(batch["attention_mask"].sum())) for batch in batches])
    return 1 - counts[:, 1].sum() / counts[:, 0].sum()


def main() -> None:
    given = arguments("loader", __doc__, "glue", "backbone", "rounds", "rows")
    data = read_given(given, given.rows)
    name, split = data.task.name.replace("-", "_"), data.splits["train"]
    batches = LengthGroupedBatches(split.lengths, BATCH, seed=0)
    grouped = []
    for batches.epoch in range(1, 3 if given.quick else 6):
        grouped.append(100 * padding_share(make_loader(split, batches)))
    order = np.random.default_rng(0).permutation(len(split))
    mixed = [split[rows] for rows in np.split(order, range(BATCH, len(order), BATCH))]

    def read() -> None:
        for _ in make_loader(split, batches):
            pass

    times = take_turns({"read": read}, given.rounds, warmup=1)
    figures = [
        figure(f"padding_share_{name}", grouped, "%"),
        figure(f"padding_share_{name}_shuffled", 100 * padding_share(mixed), "%"),
        figure(f"padding_share_{name}_to_128", 100 * (1 - split.lengths.mean() / 128), "%"),
        figure("loader_tokens", split.lengths.sum() / times["seconds"] / 1e6, "million tokens/s"),
    ]
    write("loader", figures, given, task=data.task.name, rows=len(split), batch=BATCH)


if __name__ == "__main__":
    main()
