"""Patient Knowledge Distillation (Sun et al., EMNLP 2019): the objective, the loops, the cache and the analysis.

The core lies at the top of this package. It reads in this order: losses, layer_maps, objectives, models, tasks, data,
targets, evaluation, loop, training, config, records. `__init__.pyi` lists the names that the package gives.
"""

import ast
import importlib
from pathlib import Path

from pkdlib.engine.files import VERSION as __version__  # noqa: F401

# A name is imported when it is first used: torch and transformers take seconds, which a sweep's own processes save.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_IMPORTS = [line for line in _STUB.body if isinstance(line, ast.ImportFrom)]
_MODULES = {alias.name: line.module for line in _IMPORTS for alias in line.names}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'pkdlib' has no attribute {name!r}")
    return getattr(importlib.import_module(str(_MODULES[name])), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
