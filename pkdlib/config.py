"""Validated settings: every field with its unit or reason, and what it matters to; a bad value is one clear line."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pkdlib.engine.configs import ClassWeights, Config, Role, pick, validate
from pkdlib.engine.configs import ConfigError as ConfigError
from pkdlib.layer_maps import STRATEGIES
from pkdlib.variants import DistanceName
from pkdlib.variants.maps import MOVING

MINI_BERT = "data/mini-bert-12"  # the embedded miniature BERT, from the project's root


# What each method of the paper changes in a distillation's configuration.
METHODS: dict[str, dict[str, Any]] = {
    "FT": {"alpha": 0.0, "beta": 0.0},
    "KD": {"beta": 0.0},
    **{f"PKD-{name.capitalize()}": {"strategy": name} for name in [*STRATEGIES, *MOVING]},
}


class FineTuneConfig(Config):
    """Plain fine-tuning. The defaults suit the miniature BERT; `notebooks/guide/` names the paper's."""

    backbone: str = Field(MINI_BERT, min_length=1)  # hub id or local folder of the pre-trained model
    num_hidden_layers: Annotated[int | None, Role.NAMED] = Field(None, ge=1)  # None: all of the backbone's
    num_train_epochs: int = Field(5, ge=1)
    train_batch_size: int = Field(32, ge=1)  # rows per update (and per process)
    micro_batch_size: int | None = Field(None, ge=1)  # rows per forward pass; None: the whole batch
    eval_batch_size: int = Field(128, ge=1)  # rows per forward pass without gradients, at most
    learning_rate: float = Field(5e-4, gt=0, le=1)  # peak, after warm-up
    warmup_ratio: float = Field(0.1, ge=0, le=1)  # share of all updates; linear decay to zero after it
    weight_decay: float = Field(0.01, ge=0)  # not for biases and LayerNorm weights
    max_grad_norm: float = Field(1.0, gt=0)
    class_weights: ClassWeights = Field([])  # in the label term
    shuffle: bool = True  # False: rows in the file's order, as in the authors' code
    dropout_epochs: int | None = Field(None, ge=0)  # first epochs with dropout; None: all; 1 in the authors' code
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = "no"  # fp16 needs CUDA; auto: bf16 where it is faster
    last_layer: Annotated[Literal["cls", "all"], Role.SPEED] = "cls"  # computed for [CLS] alone, or for all tokens
    static_shapes: bool | None = None  # pad to few lengths and, on CUDA, replay steps; None: where that is one device
    seed: Annotated[int, Role.NAMED] = Field(0, ge=0, lt=2**32)  # of the fresh head, the order of rows and dropout

    @field_validator("static_shapes")
    @classmethod
    def _without_scaling(cls, static: bool | None, info: ValidationInfo) -> bool | None:
        if static and info.data.get("mixed_precision") == "fp16":
            raise ValueError("must not be True with fp16, whose loss scaling is decided anew at every step")
        return static


class DistillConfig(FineTuneConfig):
    """Distillation of a student; alpha = beta = 0 is plain fine-tuning of it, beta = 0 plain distillation."""

    num_hidden_layers: Annotated[int | None, Role.NAMED] = Field(6, ge=1)  # of the student
    num_train_epochs: int = Field(6, ge=1)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    init: Literal["pretrained", "teacher", "random"] = "pretrained"  # whose first layers a student starts from, or none
    strategy: Annotated[str | list[int], Role.NAMED] = "skip"  # of STRATEGIES or MOVING, or the k-1 teacher layers
    temperature: Annotated[float, Role.SOFT] = Field(5.0, gt=0, le=1000)
    alpha: Annotated[float, Role.SOFT] = Field(0.7, ge=0, le=1)  # weight of the teacher; 1 - alpha of the labels
    beta: Annotated[float, Role.PATIENCE] = Field(0.3, ge=0, le=1e6)  # weight of patience, on the scale of `form`
    projection: Annotated[bool, Role.PATIENCE] = False  # learn a map of [CLS] states to the teacher's width
    normalize: Annotated[bool, Role.PATIENCE] = True  # compare the directions of [CLS] states, not the raw states
    distance: Annotated[DistanceName, Role.PATIENCE] = "squared"  # between [CLS] states: a name of DISTANCES
    form: Annotated[Literal["paper", "official"], Role.SOFT] = "paper"  # sums, or the means of the authors' code
    t_squared: Annotated[bool, Role.SOFT] = True  # multiply the KD term by T^2, so that alpha means the same at every T

    @field_validator("strategy", mode="before")
    @classmethod
    def _known_strategy(cls, strategy: Any) -> Any:
        is_list = isinstance(strategy, list | tuple) and all(str(layer).isdecimal() for layer in strategy)
        if not is_list and strategy not in [*STRATEGIES, *MOVING]:
            raise ValueError(f"must be one of {', '.join([*STRATEGIES, *MOVING])} or a list of teacher layers")
        return strategy


def roles_of_method(method: str) -> set[Role]:
    """The roles whose fields can change what a run of this method gives, those that name it apart."""
    return {"FT": {Role.ALWAYS}, "KD": {Role.ALWAYS, Role.SOFT}}.get(method, {Role.ALWAYS, Role.SOFT, Role.PATIENCE})


def method_config(method: str, config: DistillConfig, **changes: Any) -> DistillConfig:
    """`config` with what the method and `changes` set, validated."""
    return validate(type(config), **{**config.model_dump(), **pick("method", method, METHODS), **changes})


def method_name(config: DistillConfig) -> str:
    """FT, KD, PKD- and the strategy's name, or PKD- and the own list of teacher layers."""
    if not config.beta:
        return "KD" if config.alpha else "FT"
    if isinstance(config.strategy, str):
        return f"PKD-{config.strategy.capitalize()}"
    return f"PKD-{','.join(map(str, config.strategy))}"
