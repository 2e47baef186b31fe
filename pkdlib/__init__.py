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
from pkdlib.models import build_student, cls_states, load_backbone, load_classifier, load_tokenizer, num_layers
from pkdlib.results import (
    RunRecord,
    collect_results,
    history_frame,
    load_records,
    load_results,
    mean_interval,
    paired_difference,
    summary,
)
from pkdlib.similarity import centered_cosine, map_agreement, most_similar_layers
from pkdlib.sources import Split, TaskData, load_task
from pkdlib.tasks import TASKS, Task, get_task
from pkdlib.training import Run, distill, fine_tune, method_name, reload_data

__version__ = VERSION

__all__ = [name for name in dir() if not name.startswith("_")]
