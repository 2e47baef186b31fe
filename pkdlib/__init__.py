"""Patient Knowledge Distillation (Sun et al., EMNLP 2019): the objective, the loops, the cache and the analysis.

The core lies at the top of this package. It reads in this order: losses, layer_maps, objectives, models, tasks, data,
targets, evaluation, loop, training, config, records. `__init__.pyi` shows type checkers the names below.
"""

import importlib
from typing import Any

from pkdlib.engine.files import ROOT as ROOT
from pkdlib.engine.files import VERSION as __version__  # noqa: F401

# A name is imported when it is first used: torch and transformers take seconds, which a sweep's own processes save.
_NAMES = {
    "config": "ConfigError DistillConfig FineTuneConfig method_config validate",
    "data": "encode_task",
    "analysis.paper": "convert_beta",
    "analysis.similarity": "split_cls_states",
    "evaluation": "evaluate predict",
    "layer_maps": "layer_map",
    "losses": "ce_loss kd_loss patience_loss pkd_loss",
    "models": "build_student load_backbone load_classifier load_tokenizer",
    "objectives": "Objective",
    "readers.records": "load_records save_records",
    "readers.sources": "load_task reload_data",
    "training": "Run distill fine_tune",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["ROOT", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pkdlib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pkdlib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
