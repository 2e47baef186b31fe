"""Where a task's rows lie: files of the GLUE or RACE download, configuration and splits of the hub's dataset."""

from typing import NamedTuple

from pkdlib.tasks import PAIR, Task

NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}  # of files and splits


class Layout(NamedTuple):
    """The names under which a task's rows are kept."""

    folder: str  # of the download
    config: str  # of the hub's dataset, where it has several
    ending: str = ""  # of the dev and test splits' names: "_matched"
    columns: tuple[str, ...] = ()  # of the GLUE download's texts where they differ from the task's
    label: str = "label"
    header: tuple[str, ...] = ()  # of the GLUE download's files that have none
    plain: bool = True  # whether a dev split without the ending is this task's too
    hub: str = "nyu-mll/glue"  # the hub's dataset
    levels: tuple[str, ...] = ()  # folders within a split's folder, of the RACE download

    def names(self, split: str) -> list[tuple[str, ...]]:
        """What the split's file, or the hub's split, may be called: the first of these groups that is there counts."""
        with_ending = tuple(f"{name}{self.ending}" for name in NAMES[split])
        if split == "train" or not self.ending:
            return [NAMES[split]]
        return [with_ending, NAMES[split]] if self.plain else [with_ending]


LAYOUTS = {
    "sst2": Layout("SST-2", "sst2"),
    "mrpc": Layout("MRPC", "mrpc", columns=("#1 String", "#2 String"), label="Quality"),
    "qqp": Layout("QQP", "qqp", label="is_duplicate"),
    "mnli": Layout("MNLI", "mnli", "_matched", PAIR, "gold_label"),
    "mnli-mm": Layout("MNLI", "mnli", "_mismatched", PAIR, "gold_label", plain=False),
    "qnli": Layout("QNLI", "qnli"),
    "rte": Layout("RTE", "rte"),
    "cola": Layout("CoLA", "cola", header=("source", "label", "mark", "sentence")),
    "stsb": Layout("STS-B", "stsb", label="score"),
    "race": Layout("RACE", "all", label="answer", hub="ehovy/race", levels=("middle", "high")),
}
GLUE = {*(layout.config for layout in LAYOUTS.values() if not layout.levels), "wnli", "ax"}  # the hub's configurations


def layout_of(task: Task) -> Layout:
    """A task's layout; a task of your own has plain names, in a folder of the task's name or in the source."""
    return LAYOUTS.get(task.name, Layout(task.name, task.name, label=task.label_column))
