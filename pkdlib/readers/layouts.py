"""Where a task's rows lie: files of the GLUE download, configuration and splits of the hub's dataset."""

from typing import NamedTuple

from pkdlib.tasks import PAIR, Task


class Layout(NamedTuple):
    """The names under which a task's rows are kept."""

    folder: str  # of the GLUE download
    config: str | None = None  # of the hub's dataset; None: its only one
    ending: str = ""  # of the dev and test splits' names: "_matched"
    columns: tuple[str, ...] = ()  # of the GLUE download's texts where they differ from the task's
    label: str = "label"

    @property
    def splits(self) -> dict[str, str]:
        """Split -> file stem of the GLUE download, and split of the hub's dataset but for "validation"."""
        return {"train": "train", "dev": f"dev{self.ending}", "test": f"test{self.ending}"}


LAYOUTS = {
    "sst2": Layout("SST-2", "sst2"),
    "mrpc": Layout("MRPC", "mrpc", columns=("#1 String", "#2 String"), label="Quality"),
    "qqp": Layout("QQP", "qqp", label="is_duplicate"),
    "mnli": Layout("MNLI", "mnli", "_matched", PAIR, "gold_label"),
    "mnli-mm": Layout("MNLI", "mnli", "_mismatched", PAIR, "gold_label"),
    "qnli": Layout("QNLI", "qnli"),
    "rte": Layout("RTE", "rte"),
}


def layout_of(task: Task) -> Layout:
    """A task's layout; a task of your own has plain names, in a folder of the task's name or in the source."""
    return LAYOUTS.get(task.name, Layout(task.name, task.name if task.name.startswith("mini-") else None))
