"""Settings and fixtures that test modules share."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices on many threads wait for each other, in kernels too

import pytest
from helpers import save_backbone, small_task
from hypothesis import settings
from transformers import PreTrainedModel

from pkdlib import FineTuneConfig, fine_tune, validate
from pkdlib.data import EncodedTask

sys.path.append(str(Path(__file__).resolve().parents[1] / "data"))  # its modules import each other as `grammar`, ...

settings.register_profile("pkdlib", deadline=None, max_examples=50)
settings.load_profile("pkdlib")


@pytest.fixture(scope="module")
def data() -> EncodedTask:
    """A few rows of mini-sentiment."""
    return small_task()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny BERT of four layers."""
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def teacher(data: EncodedTask, backbone: Path) -> PreTrainedModel:
    """A teacher of one epoch from that BERT."""
    return fine_tune(data, validate(FineTuneConfig, backbone=str(backbone), num_train_epochs=1)).model
