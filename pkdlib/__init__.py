"""Patient Knowledge Distillation (Sun et al., EMNLP 2019): the objective, the loops, the cache and the analysis."""

from pkdlib.cache import TeacherOutputs, teacher_outputs
from pkdlib.config import (
    METHODS,
    MINI_BERT,
    ROOT,
    RUNS,
    VERSION,
    ComparisonConfig,
    ConfigError,
    DistillConfig,
    FineTuneConfig,
    method_config,
    validate,
)
from pkdlib.data import EncodedSplit, EncodedTask, encode_task
from pkdlib.evaluation import evaluate, predict, split_cls_states
from pkdlib.layer_maps import layer_map
from pkdlib.losses import PKDTerms, ce_loss, convert_beta, kd_loss, patience_loss, pkd_loss
from pkdlib.models import build_student, cls_states, load_backbone, load_classifier, load_tokenizer
from pkdlib.results import (
    RunRecord,
    history_frame,
    load_records,
    load_results,
    mean_interval,
    paired_difference,
    save_records,
    summary,
)
from pkdlib.similarity import centered_cosine, map_agreement, most_similar_layers
from pkdlib.sources import Split, TaskData, load_task
from pkdlib.tasks import TASKS, Task, get_task
from pkdlib.training import Run, distill, fine_tune, method_name, reload_data

__version__ = VERSION

__all__ = [
    "METHODS",
    "MINI_BERT",
    "ROOT",
    "RUNS",
    "TASKS",
    "VERSION",
    "ComparisonConfig",
    "ConfigError",
    "DistillConfig",
    "EncodedSplit",
    "EncodedTask",
    "FineTuneConfig",
    "PKDTerms",
    "Run",
    "RunRecord",
    "Split",
    "Task",
    "TaskData",
    "TeacherOutputs",
    "build_student",
    "ce_loss",
    "centered_cosine",
    "cls_states",
    "convert_beta",
    "distill",
    "encode_task",
    "evaluate",
    "fine_tune",
    "get_task",
    "history_frame",
    "kd_loss",
    "layer_map",
    "load_backbone",
    "load_classifier",
    "load_records",
    "load_results",
    "load_task",
    "load_tokenizer",
    "map_agreement",
    "mean_interval",
    "method_config",
    "method_name",
    "most_similar_layers",
    "paired_difference",
    "patience_loss",
    "pkd_loss",
    "predict",
    "reload_data",
    "save_records",
    "split_cls_states",
    "summary",
    "teacher_outputs",
    "validate",
]
