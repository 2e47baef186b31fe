"""Patient Knowledge Distillation (Sun et al., EMNLP 2019): the objective, the loops, the cache and the analysis."""

import importlib
from typing import Any

# A name is imported when it is first used: torch and transformers take seconds, which a sweep's own processes save.
_NAMES = {
    "cache": "TeacherOutputs teacher_outputs",
    "config": (
        "METHODS MINI_BERT QUIRKS ROOT RUNS VERSION ComparisonConfig ConfigError DistillConfig FineTuneConfig "
        "ReproductionConfig SimilarityConfig SpeedConfig method_config method_name validate"
    ),
    "data": "EncodedSplit EncodedTask encode_split encode_task",
    "evaluation": "checkpoint_cls_states evaluate predict split_cls_states",
    "layer_maps": "layer_map parse_layers",
    "losses": "PKDTerms ce_loss convert_beta kd_loss patience_loss pkd_loss soft_targets",
    "models": "build_student cls_states load_backbone load_classifier load_encoder load_tokenizer",
    "paper": "differences_beside_paper paper_preset paper_presets paper_table paper_teacher reference_rows",
    "results": "RunRecord history_frame load_records load_results matching save_records students_of varied",
    "similarity": (
        "SIMILARITIES centered_cosine get_similarity linear_cka map_agreement matched_similarity "
        "most_similar_layers nearest_rows principal_components raw_cosine rsa shuffled_baseline "
        "usable_similarities"
    ),
    "sources": "Split TaskData draw_rows load_split load_task load_texts",
    "speed": (
        "amdahl_speedup benchmark_figures measure_latency parameters_by_part random_classifier speedups time_call "
        "timing_setup"
    ),
    "statistics": (
        "bootstrap_interval differences_by holm mcnemar mean_interval paired_difference paired_p size_warning "
        "smallest_difference summary"
    ),
    "tasks": "TASKS Task get_task",
    "training": "Run distill fine_tune reload_data",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        name = "VERSION"
    if name not in _MODULES:
        raise AttributeError(f"module 'pkdlib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pkdlib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
