"""Training steps of few shapes, each recorded once as a CUDA graph and replayed: one launch in place of hundreds."""

from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pkdlib.config import ConfigError, FineTuneConfig
from pkdlib.data import Batch

MULTIPLE = 8  # tokens: 128 are 16 shapes, and matrix units like multiples of 8
WARM_UP = 3  # updates before one is recorded, in which libraries choose kernels and take their memory

Update = Callable[[Batch], Tensor]


def use_static_shapes(config: FineTuneConfig, accelerator: Accelerator) -> bool:
    """What the configuration asks for; by default, whether this is one CUDA device, without fp16's loss scaling.

    Raises ConfigError when it asks and there are several processes, which exchange gradients within a step.
    """
    alone = accelerator.num_processes == 1
    if config.static_shapes is None:
        return alone and accelerator.device.type == "cuda" and config.mixed_precision != "fp16"
    if config.static_shapes and not alone:
        raise ConfigError(f"static_shapes = True: needs a single process, here are {accelerator.num_processes}")
    return config.static_shapes


class StaticUpdate:
    """`update` of batches of few shapes: the same sums and gradients, by replaying what it did with that shape.

    update: leaves a batch's gradients in the parameters, in place where there are some, and returns a tensor that is
    read before the next call. It must wait for nothing, and depend on the batch's values and model.training alone.
    Batches of fewer rows than `rows`, an epoch's last, are rare and go through as they are.
    """

    def __init__(self, update: Update, rows: int, model: nn.Module, device: torch.device):
        self.update, self.rows, self.model, self.device = update, rows, model, device
        self.recorded: dict[tuple, tuple[Batch, Callable[[], Tensor]]] = {}
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None  # one step's memory for all

    def __call__(self, batch: Batch) -> Tensor:
        if len(batch["rows"]) < self.rows:
            return self.update(batch)
        key = (batch["input_ids"].shape, self.model.training)
        if key not in self.recorded:
            buffers = {name: tensor.clone() for name, tensor in batch.items()}
            self.recorded[key] = buffers, self._record(partial(self.update, buffers))
        buffers, replay = self.recorded[key]
        for name, tensor in batch.items():
            buffers[name].copy_(tensor, non_blocking=True)
        return replay()

    def _record(self, update: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """On CUDA, what replays the recorded update; elsewhere the update itself."""
        if self.device.type != "cuda":
            return update
        try:
            with torch.random.fork_rng(devices=[torch.cuda.current_device()]):  # warming up must draw nothing
                aside = torch.cuda.Stream()
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(aside):
                    for _ in range(WARM_UP):
                        update()
                torch.cuda.current_stream().wait_stream(aside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                    sums = update()
        except RuntimeError as error:
            hint = "this model's step cannot be recorded as a CUDA graph; static_shapes = False trains without"
            raise RuntimeError(f"{hint} ({error})") from error

        def replay() -> Tensor:
            graph.replay()
            return sums

        return replay
