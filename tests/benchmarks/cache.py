"""Measures the cache of the teacher's outputs: the time to build and to read it, and the memory it takes."""

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput

from pkdlib.analysis.speed import random_classifier
from pkdlib.config import DistillConfig, validate
from pkdlib.data import EncodedSplit, Split
from pkdlib.engine.arrays import open_rows, write_rows
from pkdlib.engine.batches import LengthGroupedBatches, SortedBatches, make_loader
from pkdlib.engine.machine import make_accelerator
from pkdlib.engine.updates import GradientOf, parameter_groups
from pkdlib.loop import _Step
from pkdlib.models import load_tokenizer
from pkdlib.objectives import PKD
from pkdlib.readers.sources import load_task
from pkdlib.targets import Targets
from tests.benchmarks.common import Figure, arguments, enough_rows, figure, ratios, take_turns, write
from tests.benchmarks.contenders import TEACHER_LAYERS, random_case, read_given
from tests.benchmarks.step import kit_epochs

LAYERS, HIDDEN = 5, 768  # matched layers of a student of six, and their width
SIZES = (10_000, 100_000, 400_000)


def speed(given: argparse.Namespace) -> list[Figure]:
    """Time building against the bare teacher's forward passes, and reading against training."""
    data = read_given(given, enough_rows(given, 1280))
    with tempfile.TemporaryDirectory() as folder:
        case = random_case(data, given.backbone, Path(folder) / "backbone", num_train_epochs=1)
        split, device = data.splits["train"], make_accelerator().device
        teacher, student = case.teacher.to(device), case.student()
        objective = case.objective(student)

        def build() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                case.targets(objective, Path(fresh))

        def bare() -> None:
            with torch.inference_mode():
                for batch in make_loader(split, SortedBatches(split.lengths, 128)):
                    teacher(**{name: batch[name].to(device) for name in batch if name not in ("rows", "labels")})

        targets = case.targets(objective, Path(folder) / "cache")
        batches = LengthGroupedBatches(split.lengths, case.config.train_batch_size, seed=0)

        def read() -> None:
            for rows in batches:
                targets.of(torch.tensor(rows))

        contenders = {"build": build, "bare": bare, "train": lambda: kit_epochs(case, targets, student), "read": read}
        times = take_turns(contenders, given.rounds, warmup=1)
    return [
        figure("cache_build_vs_forward", 100 * ratios(times, "bare", "build"), "%"),
        figure("cache_build_vs_forward_processor", 100 * ratios(times, "bare", "build", "processor_s"), "%"),
        figure("cache_read_share", 100 * ratios(times, "read", "train"), "%"),
    ]


def memory(rows: int, folder: str, steps: int, hidden: int) -> dict[str, float]:
    """Megabytes by which a process grows when it trains with a cache of so many rows in place of 256.

    A student of six layers takes `steps` updates, spread over an epoch whose other batches are only read. "anonymous"
    is the process's own memory; "resident" also counts pages of the files, which the system takes back when it likes.
    """
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(validate(DistillConfig).backbone)
    config = validate(DistillConfig, t_squared=False, num_hidden_layers=LAYERS + 1)
    accelerator, student = make_accelerator(), random_classifier(LAYERS + 1, hidden)
    with torch.device("meta"):  # of this one the objective reads the configuration alone
        objective = PKD(config, student, random_classifier(TEACHER_LAYERS, hidden))
    step = _Step(student, objective).train()
    optimizer = torch.optim.AdamW(parameter_groups(step, 0.01), lr=1e-5, fused=True)
    update = GradientOf(step, optimizer, accelerator, config.micro_batch_size, config.max_grad_norm, in_place=False)

    def train(split: EncodedSplit, real: int) -> dict[str, float]:
        targets = _random_targets(split, objective, hidden, Path(folder))
        batches = LengthGroupedBatches(split.lengths, config.train_batch_size, seed=0)
        batches.epoch, peak = 1, _memory()
        for number, batch in enumerate(make_loader(split, batches, targets.of)):
            if number % max(1, len(batches) // real) == 0:
                update(batch)
                optimizer.step()
                peak = {kind: max(value, _memory()[kind]) for kind, value in peak.items()}
        return peak

    before, after = train(_rows(256, tokenizer), 8), train(_rows(rows, tokenizer), steps)
    return {kind: after[kind] - before[kind] for kind in before}


def _rows(rows: int, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
    """So many rows of the embedded task, which repeat after its own number."""
    texts = load_task("mini-sentiment").splits["train"].texts[0]
    repeated = [texts[row % len(texts)] for row in range(rows)]
    return EncodedSplit(Split("train", (repeated,), np.zeros(rows, dtype=np.int64)), tokenizer, 64)


def _random_targets(split: EncodedSplit, objective: PKD, hidden: int, folder: Path) -> Targets:
    """The wanted outputs of a random teacher, in files that the library writes and maps as it does a real one's."""
    state = torch.randn(128, 1, hidden, generator=torch.Generator().manual_seed(0))  # (batch, [CLS] alone, hidden)
    output = SequenceClassifierOutput(logits=torch.ones(128, 2), hidden_states=(state,) * (TEACHER_LAYERS + 1))
    paths = {name: folder / f"{name}.npy" for name in objective.wants}
    batches = torch.arange(len(split)).split(128)
    write_rows(
        (
            (rows, {paths[name]: want(output)[: len(rows)] for name, want in objective.wants.items()})
            for rows in batches
        ),
        len(split),
    )
    return Targets(open_rows(paths, len(split)), paths)


def _memory() -> dict[str, float]:
    """Megabytes of this process (Linux), by kind."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"anonymous": "RssAnon", "resident": "VmRSS"}
    return {kind: int(lines[name].split()[0]) / 1000 for kind, name in names.items()}


def main() -> None:
    given = arguments("cache", __doc__, "glue", "backbone", "rounds", "rows")
    figures, hidden = speed(given), 64 if given.quick else HIDDEN
    for rows in (200,) if given.quick else SIZES:
        grown = []
        for _ in range(1 if given.quick else 5):
            with (
                tempfile.TemporaryDirectory() as folder,
                ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,  # a fresh process's memory
            ):
                grown.append(pool.submit(memory, rows, folder, 4 if given.quick else 10, hidden).result())
        size = f"{rows // 1000}k" if rows >= 1000 else f"{rows}"
        figures.append(figure(f"cache_memory_mb_{size}", [one["anonymous"] for one in grown], "MB"))
        figures.append(figure(f"cache_memory_mb_{size}_with_file_pages", [one["resident"] for one in grown], "MB"))
    write("cache", figures, given, layers=LAYERS, hidden=hidden)


if __name__ == "__main__":
    main()
