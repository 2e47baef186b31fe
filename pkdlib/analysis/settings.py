"""Settings of the notebooks, checked before anything is read: folders, rows, comparisons, studies, benchmarks."""

from collections import ChainMap
from collections.abc import Callable, Collection
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from pkdlib.analysis.similarity import SIMILARITIES
from pkdlib.config import METHODS, MINI_BERT, Config, DistillConfig, method_config
from pkdlib.engine.checks import Seed
from pkdlib.engine.configs import ConfigError
from pkdlib.engine.files import ROOT
from pkdlib.engine.metrics import OF_VALUES
from pkdlib.engine.trackers import check_tracker
from pkdlib.readers.own import CUSTOM
from pkdlib.tasks import METRICS, TASKS

HEAD_WIDTH = 64  # of one attention head in BERT of every size
SCORES = [f"{split}_{score}" for split in ("dev", "test") for score in (*METRICS, "loss")]


def _rule(allowed: str, holds: Callable[[Any, dict[str, Any]], Any]) -> AfterValidator:  # of a value and those above
    def check(value: Any, info: ValidationInfo) -> Any:
        if not holds(value, info.data):
            raise ValueError(allowed)
        return value

    return AfterValidator(check)


def _one_of(known: Collection[str], or_empty: bool = False) -> AfterValidator:
    allowed = f"must be one of {', '.join(known)}{', or empty' * or_empty}"
    return _rule(allowed, lambda name, _: name in known or (or_empty and not name))


def _tracker(name: str) -> str:
    try:
        return check_tracker(name)
    except ConfigError as error:
        raise ValueError(str(error).partition(": ")[2]) from None


DISTINCT = _rule("must not repeat", lambda values, _: len(set(values)) == len(values))
AT_MOST_128 = _rule("must be numbers of layers up to 128", lambda layers, _: max(layers) <= 128)
MATCHING = _rule(
    "a student of one layer has no layer to match; it can learn by FT and KD alone",
    lambda methods, above: 1 not in above.get("student_layers", ()) or set(methods) <= {"FT", "KD"},
)
OF_THE_TASK = _rule(
    "must be a score that the task has",
    lambda name, above: "task" not in above or name.split("_")[1] in ("loss", *TASKS[above["task"]].metrics),
)
Seeds = Annotated[list[Seed], Field(min_length=1), DISTINCT]
Layers = Annotated[list[Annotated[int, Field(ge=1)]], DISTINCT]
WITH_OWN = ChainMap({CUSTOM: None}, TASKS)  # which sees a task that is added to the table
TaskName = Annotated[str, _one_of(TASKS)]
OwnTaskName = Annotated[str, _one_of(WITH_OWN)]
OWN = _rule(
    f"must be empty unless task is {CUSTOM}", lambda value, above: not value or above.get("task", CUSTOM) == CUSTOM
)
Names = Annotated[
    list[str],
    BeforeValidator(lambda names: [*map(str.strip, names.split(","))] if isinstance(names, str) else names),
    DISTINCT,
]
OF_CLASSES = _rule(
    "must be a task of classes, not of values", lambda name, _: name == CUSTOM or not TASKS[name].is_regression
)
OF_TEXTS = _rule(
    "must be a task whose rows each have a label, not choices",
    lambda name, _: name == CUSTOM or not TASKS[name].choices,
)
SCORED = _rule(f"must be some of {', '.join(METRICS)}", lambda names, _: {*names} <= {*METRICS})
CLASSES = _rule("must be scores of classes", lambda names, _: not {*names} & {*OF_VALUES})
FILE = _rule("must be a folder, not a file", lambda name, _: not Path(ROOT / name).is_file())
Place = Annotated[str, FILE]  # a folder from the project's root, or absolute; or a hub id; may be empty
Folder = Annotated[str, _rule("must name a folder", lambda name, _: name), FILE]
Records = Annotated[str, _rule("must name a folder or a file", lambda name, _: name)]
Model = Annotated[str, _rule("must name a folder or a model of the hub", lambda name, _: name), FILE]
OutputFolder = Annotated[
    Folder,
    _rule(
        "must name a folder of its own, not below a file",
        lambda name, _: (ROOT / name).resolve() != ROOT and not any(map(Path.is_file, (ROOT / name).resolve().parents)),
    ),
]
PAPERS = [task for task in TASKS if not task.startswith("mini-") and task not in ("cola", "stsb")]  # the paper's
Preset = Annotated[
    str,
    AfterValidator(lambda name, info: name or info.data.get("task", "")),
    _rule(f"must be one of {', '.join(PAPERS)}, or empty for such a task's own", lambda name, _: name in PAPERS),
]


class Folders(Config):
    """Where a notebook writes, and where it reads earlier runs if it is told of any."""

    output_dir: OutputFolder
    teacher_dir: Place = ""
    large_teacher_dir: Place = ""
    students_dir: Place = ""
    log_with: Annotated[str, AfterValidator(_tracker)] = ""


class OwnTask(Config):
    """What a task of your own is: the columns of its rows, its classes and metrics. All empty: a task of the table."""

    task: Annotated[str, _one_of(WITH_OWN, or_empty=True)] = ""
    dataset_config: str = ""  # of a dataset of the hub that has several
    text_columns: Annotated[Names, OWN] = Field([], max_length=2)  # empty: text
    label_column: Annotated[str, OWN] = ""  # empty: label
    label_names: Annotated[Names, OWN] = Field([])  # in the classes' order; empty: the dataset's, or all, sorted
    metrics: Annotated[Names, OWN, SCORED] = Field([])  # empty: accuracy, macro_f1
    dev_fraction: float = Field(0.0, ge=0, lt=1)  # of the training rows, drawn as dev where the source has none


class RowsConfig(OwnTask):
    """Which rows a notebook trains on."""

    task: OwnTaskName
    source: str = ""  # empty: the embedded files of the miniature tasks, the hub's GLUE for the others
    train_rows: int = Field(0, ge=0)  # drawn from the training split; 0 takes all
    max_length: int = Field(64, ge=8)  # tokens
    backbone: Model = MINI_BERT


class TeacherConfig(OwnTask):
    """A teacher; and its rows and what its students start from, empty or 0 where its own record says it."""

    teacher_dir: Folder  # or a hub id
    source: str = ""
    unlabelled: str = ""  # a file or folder of texts that students learn from the teacher alone
    train_rows: int = Field(0, ge=0)
    max_length: Annotated[int, _rule("must be at least 8, or 0", lambda tokens, _: tokens == 0 or tokens >= 8)] = 0
    backbone: Place = ""


class ClassifierConfig(RowsConfig):
    """A classifier from its rows to its use: further rows of the same columns, and a student with a layer to match."""

    task: Annotated[OwnTaskName, OF_CLASSES, OF_TEXTS]
    metrics: Annotated[Names, OWN, SCORED, CLASSES] = Field([])  # empty: accuracy, macro_f1
    unlabelled: str = ""  # a file or folder of texts that a student learns from the teacher alone
    held_out: str = ""  # labelled rows that choose nothing, as `source`; empty: the dev rows stand in
    new_rows: str = ""  # a file whose rows are to be labelled
    student_layers: int = Field(ge=2)


class StartConfig(RowsConfig):
    """The first notebook: one student of the embedded BERT of twelve layers, with at least one layer to match."""

    task: Annotated[TaskName, OF_CLASSES, OF_TEXTS]
    student_layers: int = Field(ge=2, le=12)
    teacher_epochs: int = Field(ge=1)
    student_epochs: int = Field(ge=1)


class ExplorationConfig(Config):
    """One student size, looked at closely, with at least one layer to match."""

    student_layers: int = Field(ge=2)
    seeds: Seeds
    batch_rows: int = Field(16, ge=1)  # of the batch that is computed by hand
    teacher_epochs: int = Field(5, ge=1)  # of a larger teacher
    large_backbone: Model = MINI_BERT  # of a larger teacher


class AblationConfig(Config):
    """Which recorded runs are compared, and by which score."""

    study: Records  # runs over backbones, teachers and starts
    sources: Annotated[list[Records], DISTINCT] = Field(min_length=1)
    sizes: Records  # runs over numbers of rows
    student_layers: int = Field(ge=1)
    task: TaskName
    train_rows: int = Field(ge=1)
    metric: Annotated[str, _one_of(SCORES), OF_THE_TASK]


class ComparisonConfig(Config):
    """What a side-by-side comparison spans: every method for every student size and seed."""

    student_layers: Layers = Field(min_length=1)
    methods: Annotated[list[Annotated[str, _one_of(METHODS)]], DISTINCT, MATCHING] = Field(min_length=1)
    seeds: Seeds

    def runs(self, config: DistillConfig) -> list[tuple[str, DistillConfig]]:
        """(method, configuration) of every run, sizes outermost and seeds innermost."""
        runs = product(self.student_layers, self.methods, self.seeds)
        return [(name, method_config(name, config, num_hidden_layers=size, seed=seed)) for size, name, seed in runs]


class BeyondConfig(ComparisonConfig):
    """Recorded students of other distances, maps and tasks, and students of several tasks that are trained beside."""

    beyond: Records
    study: Records  # runs of the paper's methods, over the same backbones and teachers
    metric: Annotated[str, _one_of(SCORES)]
    tasks: Annotated[list[TaskName], DISTINCT] = Field(min_length=1)
    source: str = ""  # as of RowsConfig
    train_rows: Annotated[
        list[Annotated[int, Field(ge=1)]],
        _rule("must be empty, or a number for each task", lambda n, above: len(n) in (0, len(above.get("tasks", n)))),
    ] = Field([])  # fmt: skip
    backbone: Model = MINI_BERT


class ReproductionConfig(ComparisonConfig, OwnTask):
    """One of the paper's experiments: a teacher, then every method, size and seed at the authors' settings."""

    task: Annotated[OwnTaskName, OF_CLASSES]
    metrics: Annotated[
        Names, OWN, SCORED,
        _rule("must have accuracy, as the paper's figures have", lambda names, _: not names or "accuracy" in names),
    ] = Field([])  # fmt: skip
    source: str = ""  # as of RowsConfig
    backbone: Model = MINI_BERT
    train_rows: int = Field(0, ge=0)  # drawn from the training split; 0 takes all
    preset_of: Preset = Field("", validate_default=True)  # whose settings and figures; empty: the task's own
    learning_rate_scale: float = Field(1.0, gt=0, le=20_000)  # times the authors' rates, of 5e-5 at most
    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = "no"  # fp16 needs CUDA; auto: bf16 where it is faster


class SimilarityConfig(OwnTask):
    """Which two models' layers are compared, on which rows and by which metric."""

    model_a: Model
    model_b: Model
    task: Annotated[OwnTaskName, OF_TEXTS]
    source: str = ""  # as of RowsConfig
    texts: Place = ""  # folder of texts of your own, in place of the task's rows
    split: Literal["train", "dev", "test"] = "dev"
    rows: Annotated[int, _rule("must be 0 for all rows or at least 4", lambda rows, _: rows == 0 or rows > 3)] = 1000
    max_length: int = Field(64, ge=8)  # tokens
    metric: Annotated[str, _one_of(SIMILARITIES)] = "cka"
    seed: Seed = 0  # of the drawn rows and the shuffled pairs


class SpeedConfig(Config):
    """What is timed: one batch through random classifiers of BERT's proportions."""

    layers: Annotated[Layers, AT_MOST_128] = Field([12, 6, 3], min_length=2)  # the deepest is the baseline
    hidden_size: int = Field(768, ge=HEAD_WIDTH, le=8192, multiple_of=HEAD_WIDTH)  # 768 is BERT-base's
    batch_size: int = Field(128, ge=1, le=65_536)  # rows
    length: int = Field(128, ge=2, le=512)  # tokens per row, without padding
    repeats: int = Field(5, ge=2, le=10_000)  # timings per model; an interval needs two
    warmup: int = Field(1, ge=0, le=10_000)  # calls per model before the first that counts
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: fp16 on CUDA, else fp32
    seed: Seed = 0  # of the weights and the token ids
