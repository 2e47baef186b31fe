"""A run's state after its last finished epoch, in one file, from which an interrupted run goes on bit for bit."""

import hashlib
import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pkdlib.engine.machine import device_name, installed_versions
from pkdlib.engine.progress import say

CHECKPOINT_FILE = "checkpoint.safetensors"
FORMAT = 2  # of the file; a new one leaves old files unused
History = list[dict[str, float]]
Weights = dict[str, Tensor]


class Checkpoint:
    """The file `folder`/checkpoint.safetensors: the tensors; everything else is JSON in the file's header.

    One file replaces the last one in a single step; Accelerate's save_state is a folder, and of pickles. identity: all
    that the run's result follows from, as JSON. A file that is damaged or of another run or machine is not used.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], name: str, accelerator: Accelerator):
        self.path, self.name, self.accelerator = Path(folder) / CHECKPOINT_FILE, name, accelerator
        device, threads = accelerator.device, torch.get_num_threads()
        machine = {"devices": gather_object([device_name(device)]), "threads": gather_object([threads])}
        self.identity = {**identity, **machine, "versions": installed_versions(), "format": FORMAT}
        # The modules whose generators torch draws from: the CPU's, and the device's where it is another.
        self.generators = [torch.random, *([] if device.type == "cpu" else [torch.get_device_module(device)])]

    def save(self, step: Module, optimizer: Optimizer, schedule: LRScheduler, history: History, best: Weights) -> None:
        """Replace the file by the current state, in every process. best: the best weights, {} if the model has them."""
        kind, keys, *rest = np.random.get_state()
        drawn = [generator.get_rng_state().tolist() for generator in self.generators]
        draws = gather_object([{"python": random.getstate(), "numpy": [kind, keys.tolist(), *rest], "torch": drawn}])
        if not self.accelerator.is_main_process:
            return
        learned, scaler = optimizer.state_dict(), self.accelerator.scaler  # a scaler: with fp16 only
        parts = {"step": step.state_dict(), "best": best, **learned["state"]}
        tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        state = {"identity": self.identity, "history": history, "random": draws, "optimizer": learned["param_groups"]}
        state |= {"schedule": schedule.state_dict(), "scaler": scaler.state_dict() if scaler else None}
        text = json.dumps(state)
        folder = self.path.with_suffix(".part")  # safetensors leaves more than a file there when killed
        try:
            folder.mkdir(exist_ok=True)
            save_file(tensors, folder / "new", {"state": text, "checksum": weights_fingerprint(tensors, text)})
            with open(folder / "new", "rb+") as file:
                os.fsync(file.fileno())
            os.replace(folder / "new", self.path)
        except (OSError, SafetensorError) as error:  # a disk that is full does not end the training
            say(f"{self.name}: no checkpoint of epoch {len(history)}: {error}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def load(self, step: Module, optimizer: Optimizer, schedule: LRScheduler) -> tuple[History, Weights] | None:
        """Restore everything; the history so far and the best epoch's weights, or None where no file can be used."""
        state, problem = {}, "damaged"
        with suppress(OSError, SafetensorError, ValueError), safe_open(self.path, framework="pt") as file:
            metadata = {"state": "", "checksum": "", **(file.metadata() or {})}
            # Copies: mapped from the file, they may be unaligned, and sums then round otherwise.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            if metadata["checksum"] == weights_fingerprint(tensors, metadata["state"]):
                state = json.loads(metadata["state"])
                other = [name for name, value in self.identity.items() if state["identity"].get(name) != value]
                if other:
                    state, problem = {}, f"of another run (other {', '.join(other)})"
        if not state and self.path.exists() and self.accelerator.is_main_process:
            say(f"{self.name}: {self.path}: {problem}, not used")
        if not all(gather_object([bool(state)])):
            return None
        parts: dict[str, Weights] = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = tensor
        step.load_state_dict(parts["step"])
        moments = {int(part): parts[part] for part in parts if part.isdecimal()}  # by the parameter's number
        optimizer.load_state_dict({"state": moments, "param_groups": state["optimizer"]})
        schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        draws = state["random"][self.accelerator.process_index]
        version, keys, gauss = draws["python"]
        random.setstate((version, tuple(keys), gauss))
        np.random.set_state(tuple(draws["numpy"]))
        for generator, values in zip(self.generators, draws["torch"], strict=True):
            generator.set_rng_state(torch.tensor(values, dtype=torch.uint8))
        model = {key.removeprefix("step.model."): tensors[key] for key in tensors if key.startswith("step.model.")}
        return state["history"], parts.get("best", model)


def weights_fingerprint(weights: Module | Weights, text: str = "") -> str:
    """A hash of every named weight and buffer (and a text), the same wherever and in whatever run they were loaded."""
    tensors = weights.state_dict() if isinstance(weights, Module) else weights
    whole = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):  # a GPU's are copied one at a time
        array = tensor.detach().cpu().contiguous()
        whole.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        whole.update(array.flatten().view(torch.uint8).numpy())
    return whole.hexdigest()[:16]
