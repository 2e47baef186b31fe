"""What a run was made on and made with: versions, processors, devices, the time."""

import os
import platform
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from timeit import repeat

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, gather_object

from pkdlib.engine.configs import ConfigError
from pkdlib.engine.files import VERSION, library_fingerprint
from pkdlib.engine.progress import say_once

BF16_PAYS = 1.2  # times as fast as float32: less is lost in the parts that stay in float32


def installed_versions() -> dict[str, str]:
    """Versions of Python, this library (with a hash of its code) and the packages that a result depends on."""
    packages = {name: version(name) for name in ("torch", "transformers", "accelerate", "numpy")}
    return {"python": platform.python_version(), "pkdlib": f"{VERSION}+{library_fingerprint()[:8]}", **packages}


def machine() -> dict[str, str]:
    """The machine's processors, torch's threads, and the accelerator's name and memory."""
    device, processors = "cpu", f"{os.cpu_count()} ({platform.machine()})"
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    return {"processors": processors, "torch threads": str(torch.get_num_threads()), "device": device}


def device_name(device: torch.device) -> str:
    """The name of a GPU, or the processor's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def timestamp() -> str:
    """The time now, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def bf16_speedup(device: torch.device) -> float:
    """How many times as fast in bf16 as in float32 the device does a product of matrices of a BERT's size."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        tokens, weights = (torch.ones(size, dtype=dtype, device=device) for size in ((1024, 768), (768, 3072)))
        seconds[dtype] = min(repeat(lambda: (tokens @ weights)[-1, -1].item(), number=1, repeat=5))  # noqa: B023
    return seconds[torch.float32] / seconds[torch.bfloat16]


def make_accelerator(mixed_precision: str = "no") -> Accelerator:
    """The device, in the given precision; ConfigError when the machine cannot do it.

    "auto" is bf16 where that is at least BF16_PAYS times as fast here as float32, measured once, and said in a line.
    """
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("mixed_precision = 'fp16': needs a CUDA device; allowed here: no, bf16")
    if mixed_precision == "auto":
        speedup = min(gather_object([bf16_speedup(PartialState().device)]))  # one answer for all processes
        mixed_precision = "bf16" if speedup >= BF16_PAYS else "no"
        if PartialState().is_main_process:
            say_once(f"mixed_precision = auto: {mixed_precision}; bf16 is {speedup:.1f} times as fast as float32 here")
    AcceleratorState._reset_state()  # a process may run several precisions, one after the other
    copies = DataLoaderConfiguration(non_blocking=torch.cuda.is_available())  # then batches lie in pinned memory
    accelerator = Accelerator(mixed_precision=mixed_precision, dataloader_config=copies)
    if (size := os.environ.get("WORLD_SIZE", "1")) not in ("1", str(accelerator.num_processes)):
        raise ConfigError(
            f"WORLD_SIZE = {size}: this process sees {accelerator.num_processes}; without GPUs, start them by "
            f"accelerate launch --cpu --num_processes {size}"
        )
    if mixed_precision != "no" and accelerator.is_main_process:
        say_once(f"scores are those of {mixed_precision}: read again, in float32, a model may name some rows otherwise")
    return accelerator
