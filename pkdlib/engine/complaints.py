"""Pydantic's errors as lines for a person."""

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def complaints(model: type[BaseModel], error: ValidationError) -> list[str]:
    """A line per mistake: where it is, the value, what is allowed."""
    return [_complaint(model, entry) for entry in error.errors()]


def _complaint(model: type[BaseModel], entry: Mapping[str, Any]) -> str:
    where = ".".join(map(str, entry["loc"])) or "content"
    if entry["type"] == "extra_forbidden":
        for key in entry["loc"][:-1]:  # down to the model that refuses the name
            annotation = model.model_fields[key].annotation if key in model.model_fields else None
            kinds = (annotation, *get_args(annotation))
            model = next((kind for kind in kinds if hasattr(kind, "model_fields")), model)
        known = [field.alias or name for name, field in model.model_fields.items()]
        close = difflib.get_close_matches(str(entry["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known names are {', '.join(known)}"
        return f"{where} = {entry['input']!r}: unknown name; {hint}"
    if entry["type"] == "missing":
        return f"{where}: missing, it has no default"
    allowed = entry["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{where} = {entry['input']!r}: {allowed.removesuffix(', unable to parse string as a number')}"
