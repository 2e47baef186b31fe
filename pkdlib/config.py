"""Validated configurations: every field with its unit or reason; a bad value is one clear line."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pkdlib.layer_maps import STRATEGIES
from pkdlib.similarity import SIMILARITIES
from pkdlib.tasks import TASKS

VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent  # the project: notebooks find data/ and runs/ from here
RUNS = ROOT / "runs"
MINI_BERT = "data/mini-bert-12"  # the embedded miniature BERT, from the project's root
HEAD_WIDTH = 64  # of one attention head in BERT of every size

# What each method of the paper changes in a distillation's configuration.
METHODS: dict[str, dict[str, Any]] = {
    "FT": {"alpha": 0.0, "beta": 0.0},
    "KD": {"beta": 0.0},
    "PKD-Skip": {"strategy": "skip"},
    "PKD-Last": {"strategy": "last"},
}

# What the authors' code does otherwise than their paper, as changes of a configuration (commit 9e9e860).
QUIRKS: dict[str, dict[str, Any]] = {
    "rows never shuffled": {"shuffle": False},
    "dropout in epoch 1 only": {"dropout_epochs": 1},
    "states not normalised": {"normalize": False},
    "KL 'mean'": {"form": "official"},  # beta converted, so that the patience term weighs the same
    "Last in place of Skip": {"strategy": "last"},
}


def locate(name: str | Path) -> str:
    """A local folder, a relative one from the project's root or else from here; anything else is a hub id."""
    for folder in (ROOT / name, Path(name)):
        if folder.is_dir():
            return str(folder)
    return str(name)


class ConfigError(ValueError):
    """A configuration with one or more bad fields, a line each."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FineTuneConfig(_Config):
    """Plain fine-tuning. The defaults suit the miniature BERT; the README names the paper's."""

    backbone: str = MINI_BERT  # hub id or local folder of the pre-trained model
    num_hidden_layers: int | None = Field(None, ge=1)  # None: all of the backbone's
    num_train_epochs: int = Field(5, ge=1)
    train_batch_size: int = Field(32, ge=1)  # rows per update (and per process)
    micro_batch_size: int | None = Field(None, ge=1)  # rows per forward pass; None: the whole batch
    eval_batch_size: int = Field(128, ge=1)  # rows per forward pass without gradients, at most
    learning_rate: float = Field(5e-4, gt=0, le=1)  # peak, after warm-up
    warmup_ratio: float = Field(0.1, ge=0, le=1)  # share of all updates; linear decay to zero after it
    weight_decay: float = Field(0.01, ge=0)  # not for biases and LayerNorm weights
    max_grad_norm: float = Field(1.0, gt=0)
    shuffle: bool = True  # False: rows in the file's order, as in the authors' code
    dropout_epochs: int | None = Field(None, ge=0)  # first epochs with dropout; None: all; 1 in the authors' code
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"  # fp16 needs CUDA
    static_shapes: bool | None = None  # pad to few lengths and, on CUDA, replay steps; None: where that is one device
    seed: int = Field(0, ge=0, lt=2**32)  # of the fresh head, the order of rows and dropout

    @field_validator("static_shapes")
    @classmethod
    def _without_scaling(cls, static: bool | None, info: ValidationInfo) -> bool | None:
        if static and info.data.get("mixed_precision") == "fp16":
            raise ValueError("must not be True with fp16, whose loss scaling is decided anew at every step")
        return static


class DistillConfig(FineTuneConfig):
    """Distillation of a student; alpha = beta = 0 is plain fine-tuning of it, beta = 0 plain distillation."""

    num_hidden_layers: int | None = Field(6, ge=1)  # of the student
    num_train_epochs: int = Field(6, ge=1)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    init: Literal["pretrained", "teacher"] = "pretrained"  # whose first layers the student starts from
    strategy: Literal[STRATEGIES] | list[int] = "skip"  # or the k-1 matched teacher layers
    temperature: float = Field(5.0, gt=0)
    alpha: float = Field(0.7, ge=0, le=1)  # weight of the teacher's predictions; 1 - alpha of the labels
    beta: float = Field(0.3, ge=0)  # weight of the patience term, on the scale of `form`
    projection: bool = False  # learn a map of the student's [CLS] states to the teacher's width
    normalize: bool = True  # compare the directions of [CLS] states, not the raw states
    form: Literal["paper", "official"] = "paper"  # sums, or the means of the authors' code
    t_squared: bool = True  # multiply the KD term by T^2, so that alpha means the same at every T


class ComparisonConfig(_Config):
    """What a side-by-side comparison spans: every method for every student size and seed."""

    student_layers: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    methods: list[Literal[tuple(METHODS)]] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(min_length=1)

    @field_validator("student_layers", "methods", "seeds")
    @classmethod
    def _no_repeats(cls, values: list) -> list:
        if len(set(values)) < len(values):
            raise ValueError("must not repeat")
        return values

    def runs(self, config: DistillConfig) -> list[tuple[str, DistillConfig]]:
        """(method, configuration) of every run, sizes outermost and seeds innermost."""
        return [
            (method, method_config(method, config, num_hidden_layers=layers, seed=seed))
            for layers in self.student_layers
            for method in self.methods
            for seed in self.seeds
        ]


class ReproductionConfig(ComparisonConfig):
    """One of the paper's experiments: a teacher, then every method, size and seed at the authors' settings."""

    task: Literal[tuple(TASKS)]
    source: str = ""  # empty: the embedded files of the miniature tasks, the hub's GLUE for the others
    backbone: str = Field(MINI_BERT, min_length=1)  # hub id or local folder
    train_rows: int = Field(0, ge=0)  # drawn from the training split; 0 takes all
    preset_of: str = Field("", validate_default=True)  # whose settings and figures; empty: the task's own
    learning_rate_scale: float = Field(1.0, gt=0)  # times the authors' rates, the teacher's and the students'
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"  # fp16 needs CUDA

    @field_validator("preset_of")
    @classmethod
    def _of_the_paper(cls, name: str, info: ValidationInfo) -> str:
        name, known = name or info.data.get("task", ""), [task for task in TASKS if not task.startswith("mini-")]
        if name not in known:
            raise ValueError(f"must be one of {', '.join(known)}, or empty for such a task's own")
        return name


class SimilarityConfig(_Config):
    """Which two models' layers are compared, on which rows and by which metric."""

    model_a: str = Field(min_length=1)  # hub id or local folder, as model_b
    model_b: str = Field(min_length=1)
    task: Literal[tuple(TASKS)]
    source: str = ""  # empty: the embedded files of the miniature tasks, the hub's GLUE for the others
    texts: str = ""  # folder of texts of one's own, in place of the task's rows
    split: Literal["train", "dev", "test"] = "dev"
    rows: int = Field(1000, ge=0)  # drawn from the split; 0 takes all
    max_length: int = Field(64, ge=8)  # tokens
    metric: Literal[tuple(SIMILARITIES)] = "cka"
    seed: int = Field(0, ge=0, lt=2**32)  # of the drawn rows and the shuffled pairs

    @field_validator("rows")
    @classmethod
    def _enough_for_cka(cls, rows: int) -> int:
        if 0 < rows < 4:
            raise ValueError("must be 0 for all rows or at least 4")
        return rows


class SpeedConfig(_Config):
    """What is timed: one batch through random classifiers of BERT's proportions."""

    layers: list[Annotated[int, Field(ge=1)]] = Field([12, 6, 3], min_length=2)  # the deepest is the baseline
    hidden_size: int = Field(768, ge=HEAD_WIDTH, multiple_of=HEAD_WIDTH)  # 768 is BERT-base's
    batch_size: int = Field(128, ge=1)  # rows
    length: int = Field(128, ge=2, le=512)  # tokens per row, without padding
    repeats: int = Field(5, ge=2)  # timings per model; an interval needs two
    warmup: int = Field(1, ge=0)  # calls per model before the first that counts
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: fp16 on CUDA, else fp32
    seed: int = Field(0, ge=0, lt=2**32)  # of the weights and the token ids

    @field_validator("layers")
    @classmethod
    def _no_repeats(cls, layers: list[int]) -> list[int]:
        if len(set(layers)) < len(layers):
            raise ValueError("must not repeat")
        return layers


Config = TypeVar("Config", bound=_Config)


def validate(config_class: type[Config], /, **values: Any) -> Config:
    """A configuration from keyword values; numbers given as text ("2e-5") are coerced.

    Raises ConfigError with a line per bad field: its name, its value and what is allowed.
    """
    try:
        return config_class(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(complaint(config_class, entry) for entry in _one_per_field(error))) from None


def method_config(method: str, config: DistillConfig, **changes: Any) -> DistillConfig:
    """`config` with what the method and `changes` set, validated."""
    if method not in METHODS:
        raise ConfigError(f"method = {method!r}: must be one of {', '.join(METHODS)}")
    return validate(type(config), **{**config.model_dump(), **METHODS[method], **changes})


def method_name(config: DistillConfig) -> str:
    """FT, KD, PKD-Skip, PKD-Last, or PKD- and the own list of teacher layers."""
    if not config.beta:
        return "KD" if config.alpha else "FT"
    if isinstance(config.strategy, str):
        return f"PKD-{config.strategy.capitalize()}"
    return f"PKD-{','.join(map(str, config.strategy))}"


def _one_per_field(error: ValidationError) -> list[dict]:
    """Pydantic reports every branch of a union; the last one of a field speaks for it."""
    return list({entry["loc"][:1]: entry for entry in error.errors()}.values())


def complaint(config_class: type[BaseModel], entry: dict) -> str:
    """One of pydantic's errors as the line that a person reads: field, value, what is allowed."""
    name, known = str(entry["loc"][0]), list(config_class.model_fields)
    if entry["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known names are {', '.join(known)}"
        return f"{name} = {entry['input']!r}: unknown name; {hint}"
    if entry["type"] == "missing":
        return f"{name}: missing, it has no default"
    if name == "strategy":
        return f"{name} = {entry['input']!r}: must be one of {', '.join(STRATEGIES)} or a list of teacher layers"
    message = (
        entry["msg"]
        .removeprefix("Value error, ")
        .replace("Input should be", "must be")
        .removesuffix(", unable to parse string as a number")
    )
    return f"{name} = {entry['input']!r}: {message}"
