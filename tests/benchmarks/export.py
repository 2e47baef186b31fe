"""Measures a teacher and a student in PyTorch, as ONNX and with weights of 8 bits: latency, size, how logits differ."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from pkdlib import build_student, load_backbone, load_tokenizer
from pkdlib.deploy.export import BATCHES, LENGTH, export_onnx
from pkdlib.deploy.students import INT8_FILE, ONNX_FILE, load_onnx
from pkdlib.engine.last_layer import run
from tests.benchmarks.common import arguments, figure, ratio_figures, take_turns, write

LAYERS = {"teacher": 12, "student": 3}


def main() -> None:
    given = arguments("export", __doc__, "backbone", "rounds")
    torch.set_num_threads(1)
    figures, calls, hidden = [], {size: {} for size in BATCHES}, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, layers in LAYERS.items():
            model, place = random_model(given.backbone, layers), Path(folder, name)
            hidden = model.config.hidden_size
            model.save_pretrained(place / "torch")
            load_tokenizer(given.backbone).save_pretrained(place / "torch")
            report = export_onnx(place / "torch", place / "onnx", int8=True)
            for kind, found in report["models"].items():
                figures.append(figure(f"export_size_{name}_{kind}", found["size_mb"], "MB"))
                if kind != "pytorch":
                    figures.append(figure(f"export_difference_{name}_{kind}", found["max_difference"], "logits"))
            for size in BATCHES:
                calls[size] |= _calls(name, model, place / "onnx", report["inputs"], size)
        for size, contenders in calls.items():
            times = take_turns(contenders, given.rounds, warmup=2)
            for name in contenders:
                seconds = times.loc[times["contender"] == name, "seconds"]
                figures.append(figure(f"export_ms_{name.replace(' ', '_')}_{size}", 1000 * seconds, "ms"))
                if name != "teacher pytorch":
                    label = f"export_speedup_{name.replace(' ', '_')}_{size}"
                    figures += ratio_figures(label, times, "teacher pytorch", name)
    settings = {"backbone": Path(given.backbone).name, "hidden": hidden, "length": LENGTH, "layers": LAYERS}
    write("export", figures, given, **settings)


def random_model(backbone: str, layers: int) -> PreTrainedModel:
    """A classifier of the backbone's proportions, of so many layers, with random weights."""
    body = load_backbone(backbone)
    body.config.num_hidden_layers = layers
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_student(type(body)(body.config), None, ("no", "yes")).eval()


def _calls(name: str, model: PreTrainedModel, folder: Path, inputs: list[str], size: int) -> dict[str, Callable]:
    """A function for each make of the model that runs it once on a batch, (size, LENGTH) tokens."""
    ids = torch.randint(5, model.config.vocab_size, (size, LENGTH), generator=torch.Generator().manual_seed(0))
    values = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)} | {"input_ids": ids}
    batch = {one: values[one] for one in inputs}
    feeds = {one: tensor.numpy() for one, tensor in batch.items()}
    sessions = {"onnx": load_onnx(folder / ONNX_FILE), "int8": load_onnx(folder / INT8_FILE)}

    def in_torch() -> Any:
        with torch.inference_mode():
            return run(model, batch, cls_alone=True)

    calls = {f"{name} {kind}": lambda session=session: session.run(None, feeds) for kind, session in sessions.items()}
    return {f"{name} pytorch": in_torch, **calls}


if __name__ == "__main__":
    main()
