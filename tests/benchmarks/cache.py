"""The teacher's cache: what building and reading it cost, and how little memory a large one takes."""

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from pkdlib.analysis.speed import random_classifier
from pkdlib.config import DistillConfig, validate
from pkdlib.data import EncodedSplit, Split
from pkdlib.engine.batches import make_loader
from pkdlib.engine.batches import LengthGroupedBatches, SortedBatches
from pkdlib.engine.machine import make_accelerator
from pkdlib.loop import _Step, _update
from pkdlib.engine.updates import parameter_groups
from pkdlib.models import load_tokenizer
from pkdlib.objectives import Objective
from pkdlib.readers.sources import load_task
from pkdlib.targets import TeacherOutputs, _create, teacher_outputs
from tests.benchmarks.common import Figure, arguments, enough_rows, figure, ratios, take_turns, write
from tests.benchmarks.contenders import random_case, read_rows
from tests.benchmarks.step import kit_epochs

LAYERS, HIDDEN = 5, 768
SIZES = (10_000, 100_000, 400_000)


def speed(found) -> list[Figure]:
    """Building against the bare teacher's forward passes, reading against training."""
    task = "sst2" if found.glue else "mini-sentiment"
    data = read_rows(task, found.glue, found.backbone, enough_rows(found, 1280))
    with tempfile.TemporaryDirectory() as folder:
        case = random_case(data, found.backbone, Path(folder) / "backbone", num_train_epochs=1)
        split, device = data.splits["train"], make_accelerator().device
        teacher = case.teacher.to(device)

        def build() -> TeacherOutputs:
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                return teacher_outputs(teacher, split, case.layers(), Path(fresh))

        def bare() -> None:
            with torch.inference_mode():
                for batch in make_loader(split, SortedBatches(split.lengths, 128)):
                    teacher(**{name: batch[name].to(device) for name in batch if name not in ("rows", "labels")})

        outputs = teacher_outputs(teacher, split, case.layers(), Path(folder) / "cache")
        batches = LengthGroupedBatches(split.lengths, case.config.train_batch_size, seed=0)
        student = case.student()

        def read() -> None:
            for rows in batches:
                outputs.of(torch.tensor(rows))

        contenders = {"build": build, "bare": bare, "train": lambda: kit_epochs(case, outputs, student), "read": read}
        times = take_turns(contenders, found.rounds, warmup=1)
    return [
        figure("cache_build_vs_forward", 100 * ratios(times, "bare", "build"), "%"),
        figure("cache_build_vs_forward_processor", 100 * ratios(times, "bare", "build", "processor_s"), "%"),
        figure("cache_read_share", 100 * ratios(times, "read", "train"), "%"),
    ]


def memory(rows: int, folder: str, steps: int, hidden: int) -> dict[str, float]:
    """Megabytes by which the process grows above its model in training, while it reads all of a cache once.

    Of two layers and the teacher's width, the student takes `steps` real steps, and the other batches are read only.
    "anonymous" is the process's own memory; "resident" also counts pages of the file, which the system takes back
    whenever it likes.
    """
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(validate(DistillConfig).backbone)
    config = validate(DistillConfig, t_squared=False)
    accelerator = make_accelerator()
    objective = Objective(config.model_dump(include={"alpha", "beta", "temperature"}), range(1, LAYERS + 1))
    step = _Step(random_classifier(LAYERS + 1, hidden), objective).train()
    optimizer = torch.optim.AdamW(parameter_groups(step, 0.01), lr=1e-5, fused=True)

    def train(split: EncodedSplit, outputs: TeacherOutputs, real: int) -> dict[str, float]:
        batches = LengthGroupedBatches(split.lengths, config.train_batch_size, seed=0)
        batches.epoch, peak = 1, _memory()
        for number, batch in enumerate(make_loader(split, batches, outputs.of)):
            if number % max(1, len(batches) // real) == 0:
                _update(step, optimizer, config, accelerator, True, batch)
                optimizer.step()
                peak = {kind: max(value, _memory()[kind]) for kind, value in peak.items()}
        return peak

    before = train(_rows(256, tokenizer), _outputs(256, hidden, Path(folder) / "few.safetensors"), 8)
    after = train(_rows(rows, tokenizer), _outputs(rows, hidden, Path(folder) / "many.safetensors"), steps)
    return {kind: after[kind] - before[kind] for kind in before}


def _rows(rows: int, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
    texts = load_task("mini-sentiment").splits["train"].texts[0]
    repeated = [texts[row % len(texts)] for row in range(rows)]
    return EncodedSplit(Split("train", (repeated,), np.zeros(rows, dtype=np.int64)), tokenizer, 64)


def _outputs(rows: int, hidden: int, path: Path) -> TeacherOutputs:
    """A cache full of numbers, not a sparse file, opened as the library opens one."""
    from safetensors import safe_open

    arrays = _create(path, {"logits": (rows, 2), "cls": (rows, LAYERS, hidden)})
    block = np.random.default_rng(0).standard_normal((1000, LAYERS, hidden)).astype(np.float16)
    for start in range(0, rows, len(block)):
        part = arrays["cls"][start : start + len(block)]
        part[:] = block[: len(part)]
    arrays["logits"][:] = 1
    del arrays, part
    with safe_open(path, framework="pt") as file:
        return TeacherOutputs(file.get_tensor("logits"), file.get_tensor("cls"), path, "random")


def _memory() -> dict[str, float]:
    """Megabytes of this process (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        kind: int(lines[name].split()[0]) / 1000 for kind, name in (("anonymous", "RssAnon"), ("resident", "VmRSS"))
    }


def main() -> None:
    found = arguments("cache", __doc__, "glue", "backbone", "rounds", "rows")
    figures, hidden = speed(found), 64 if found.quick else HIDDEN
    for rows in (200,) if found.quick else SIZES:
        grown = []
        for _ in range(1 if found.quick else 5):
            with (
                tempfile.TemporaryDirectory() as folder,
                ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,  # a fresh process's memory
            ):
                grown.append(pool.submit(memory, rows, folder, 4 if found.quick else 10, hidden).result())
        size = f"{rows // 1000}k" if rows >= 1000 else f"{rows}"
        figures.append(figure(f"cache_memory_mb_{size}", [one["anonymous"] for one in grown], "MB"))
        figures.append(figure(f"cache_memory_mb_{size}_with_file_pages", [one["resident"] for one in grown], "MB"))
    write("cache", figures, found, layers=LAYERS, hidden=hidden)


if __name__ == "__main__":
    main()
