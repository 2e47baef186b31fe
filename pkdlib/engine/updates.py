"""The gradient of one update, in micro-batches; on CUDA, recorded once per shape as a graph and replayed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from pkdlib.engine.batches import Batch, split_batch
from pkdlib.engine.configs import ConfigError

MULTIPLE = 8  # tokens: 128 are 16 shapes, and matrix units like multiples of 8
Update = Callable[[Batch], Tensor]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """The optimizer's groups: matrices decay; biases and LayerNorm weights, the vectors, do not."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, vectors = [p for p in learned if p.ndim >= 2], [p for p in learned if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


@dataclass(frozen=True)
class GradientOf:
    """Leaves the clipped gradient of a batch's mean loss, however it is cut; sums its terms, right answers and rows."""

    step: nn.Module  # gives the loss, all terms and the logits of a batch
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    micro_batch_size: int | None
    max_grad_norm: float
    in_place: bool  # reuse the gradient tensors instead of allocating new ones, as a recorded step must
    kept: AbstractContextManager = field(default_factory=nullcontext)  # around a batch that is not cut

    def __call__(self, batch: Batch) -> Tensor:
        size, sums = float(len(batch["rows"])), torch.zeros((), device=batch["rows"].device)
        if self.accelerator.num_processes > 1:  # which average their gradients, though a batch may have fewer rows
            size = self.accelerator.reduce(torch.tensor(size, device=sums.device), "mean").item()
        self.optimizer.zero_grad(set_to_none=not self.in_place)
        parts = split_batch(batch, self.micro_batch_size)
        for part in parts:
            cut = len(parts) > 1  # whose parts' gradients are summed one by one
            sync = nullcontext() if part is parts[-1] else self.accelerator.no_sync(self.step)
            with sync, nullcontext() if cut else self.kept:
                loss, terms, logits = self.step(part)
                rows = len(part["rows"])
                self.accelerator.backward(loss * (rows / size))
            right = (logits.argmax(dim=-1) == part["labels"]).float().mean()
            sums = sums + torch.stack([*terms, right, torch.ones_like(right)]) * rows
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients()
        nn.utils.clip_grad_norm_(self.step.parameters(), self.max_grad_norm)  # Accelerate's looks at more, every step
        return sums


class KeptGradient:
    """While entered, an embedding's gradient is one tensor kept from step to step: a step clears and fills its rows.

    Autograd makes a new one of the whole vocabulary in every step, nearly all of it zeros, with the same sums.
    """

    def __init__(self, embedding: nn.Embedding):
        self.embedding, self.tensor = embedding, torch.zeros_like(embedding.weight)
        self.filled = torch.zeros(0, dtype=torch.long)  # rows that may not be zero

    def __enter__(self) -> None:
        elsewhere = self.embedding.weight.register_post_accumulate_grad_hook(self._read_elsewhere)
        self.hooks = [self.embedding.register_forward_hook(self._read), elsewhere]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _read(self, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """The output (..., width) of ids (...) as a leaf; its gradient is added to the rows of the ids."""
        ids, leaf = inputs[0].flatten(), output.detach().requires_grad_()

        def add(gradient: Tensor) -> None:
            weight, padding = self.embedding.weight, self.embedding.padding_idx
            real = ids != (-1 if padding is None else padding)
            if weight.grad is None:
                weight.grad = self.tensor.index_fill_(0, self.filled, 0.0)
                self.filled = self.filled[:0]
            self.filled = torch.cat([self.filled, ids])
            weight.grad.index_add_(0, ids[real], gradient.flatten(0, -2)[real])

        leaf.register_hook(add)
        return leaf

    def _read_elsewhere(self, _: Tensor) -> None:
        self.filled = torch.arange(len(self.tensor))  # the loss reads the weights in another way too


def keep_gradient(model: PreTrainedModel, accelerator: Accelerator) -> AbstractContextManager:
    """Keeps the gradient of the model's word embedding where one process trains on a CPU; elsewhere does nothing."""
    embedding, alone = model.get_input_embeddings(), accelerator.num_processes == 1
    if not (alone and accelerator.device.type == "cpu" and type(embedding) is nn.Embedding):
        return nullcontext()
    plain = not (embedding.max_norm or embedding.scale_grad_by_freq or embedding.sparse)
    return KeptGradient(embedding) if plain and embedding.weight.requires_grad else nullcontext()


def use_static_shapes(asked: bool | None, accelerator: Accelerator) -> bool:
    """What is asked for; with None, whether this is one CUDA device without fp16's loss scaling."""
    alone = accelerator.num_processes == 1  # several exchange gradients within a step
    if asked and not alone:
        raise ConfigError(f"static_shapes = True: needs a single process, here are {accelerator.num_processes}")
    scales = accelerator.mixed_precision == "fp16"
    return alone and accelerator.device.type == "cuda" and not scales if asked is None else asked


class StaticUpdate:
    """Runs `update`; the first batch of each shape is recorded, later ones replay the recording.

    `update` must leave gradients in place, wait for nothing and depend on the batch's values and model.training alone;
    its tensor is read before the next call. A batch of fewer rows than `rows`, an epoch's last, goes through as it is.
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
                    for _ in range(3):  # in which libraries choose kernels and take their memory
                        update()
                torch.cuda.current_stream().wait_stream(aside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                    sums = update()
        except RuntimeError as error:
            raise RuntimeError(f"static_shapes: must be False, no CUDA graph can record this model: {error}") from error
        return lambda: graph.replay() or sums  # a replay itself returns None
