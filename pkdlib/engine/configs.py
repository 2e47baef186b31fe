"""Validated configurations, whose errors are lines for a person."""

import difflib
import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from enum import StrEnum
from numbers import Integral
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, field_validator

LARGEST = 2**32  # of whole numbers: above it, libraries below overflow


class ConfigError(ValueError):
    """A configuration with one or more bad fields, a line each."""


class Config(BaseModel):
    """A set of validated fields; an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """The value, if neither it nor an element is one that pydantic would convert without a word."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, bool) and bool not in (annotation, *get_args(annotation)):
                raise ValueError("must not be True or False")
            if isinstance(one, bytes) or (isinstance(one, str) and one and not (one.strip() and one.isprintable())):
                raise ValueError("must be a text of printable characters, not blank")
            if isinstance(one, int) and abs(one) > LARGEST:
                raise ValueError(f"must be at most {LARGEST}")
        return value


class Role(StrEnum):
    """What a field of a configuration has an effect on."""

    ALWAYS = "every training"  # the role of a field that names none
    SOFT = "trainings with soft targets"
    PATIENCE = "trainings with a patience term"
    SPEED = "the time of a training, its rounding and its dropout masks"
    NAMED = "what tells runs of one comparison apart: the method's name, the student's size, the seed"


def role_of(name: str, config_class: type[Config]) -> Role:
    """What the field of that name matters to; a name that is no field matters always."""
    field = config_class.model_fields.get(name)
    return next((entry for entry in field.metadata if isinstance(entry, Role)), Role.ALWAYS) if field else Role.ALWAYS


def fields_with_role(config: Config, *roles: Role) -> dict[str, Any]:
    """The fields of a configuration that have one of the roles, by name."""
    return {name: value for name, value in config.model_dump().items() if role_of(name, type(config)) in roles}


AnyConfig = TypeVar("AnyConfig", bound=Config)


def _class_weights(weights: Any) -> Any:
    given = weights if isinstance(weights, list | tuple) else [weights]
    if isinstance(weights, str) and "," in weights:  # as a command line has a list
        with suppress(ValueError):
            given = [float(one) for one in weights.split(",")]
    if given in (["balanced"], [""]):
        return [one for one in given if one]
    if not all(type(one) in (int, float) and 0 < one < 1e6 for one in given):
        raise ValueError("must be balanced, or a list of a positive number for each class")
    return list(given)


# A number for each class, or "balanced" alone; empty: all classes weigh alike.
ClassWeights = Annotated[list[float | str], BeforeValidator(_class_weights)]


def validate(config_class: type[AnyConfig], /, **values: Any) -> AnyConfig:
    """A configuration from keyword values, coerced ("2e-5"); ConfigError says of each bad field what is allowed."""
    try:
        return config_class(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(complaints(config_class, error))) from None


def pick(field: str, name: Any, known: Collection[str]) -> Any:
    """The entry of that name, or of a list the name itself; ConfigError says what is allowed."""
    if name not in list(known):  # a list, in which even what has no hash can be looked for
        raise ConfigError(f"{field} = {name!r}: must be one of {', '.join(known)}")
    return known[name] if isinstance(known, Mapping) else name


def whole(field: str, value: Any, low: int = 0, high: float = math.inf, limit: str = "") -> int:
    """The value, a whole number in low..high; ConfigError says what is allowed. limit: how a line names `high`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{field} = {value!r}: must be a whole number")
    if not low <= value <= high:
        allowed = f"at least {low}" if high == math.inf else f"between {low} and {limit or high}"
        raise ConfigError(f"{field} = {value}: must be {allowed}")
    return int(value)


def distinct_names(field: str, names: Any, least: int, most: int | None = None) -> tuple[str, ...]:
    """The names, if they are a tuple of so many texts and none stands there twice; ConfigError otherwise."""
    fits = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
    if not fits or not least <= len(set(names)) == len(names) <= (most or len(names)):
        size = f"{least} or {most}" if most else f"at least {least}"
        raise ConfigError(f"{field} = {names!r}: must be a tuple of {size} different names")
    return names


def shortened(value: Any, length: int = 200) -> str:
    """A value as code, in one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return f"{text[:length]}..." if len(text) > length else text


def complaints(model: type[BaseModel], error: ValidationError) -> list[str]:
    """A line per mistake: where it is, the value, what is allowed."""
    return list(dict.fromkeys(_complaint(model, entry) for entry in error.errors()))


def _complaint(model: type[BaseModel], entry: Mapping[str, Any]) -> str:
    where = ".".join(part for part in entry["loc"] if isinstance(part, str))
    allowed = entry["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    allowed = allowed.removesuffix(", unable to parse string as a number")
    if entry["type"] in ("int_type", "float_type", "bool_type") and isinstance(entry["input"], str):  # read strictly
        allowed += ", not text: leave the quotes out"
    if not where:
        return f"content: {allowed}"
    if entry["type"] == "missing":
        return f"{where}: missing, it has no default"
    if entry["type"] == "extra_forbidden":
        for key in entry["loc"][:-1]:  # down to the model that refuses the name
            annotation = getattr(model.model_fields.get(key), "annotation", None)
            model = next((kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")), model)
        known = [field.alias or name for name, field in model.model_fields.items()]
        close = difflib.get_close_matches(str(entry["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known names are {', '.join(known)}"
        allowed = f"unknown name; {hint}"
    return f"{where} = {shortened(entry['input'])}: {allowed}"
