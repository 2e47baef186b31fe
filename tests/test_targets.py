"""The cache of teacher outputs: right rows, made once, whole or absent, found by content."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers import bert_config, noisy_copy, run_together, save_backbone, small_data, small_task
from safetensors.torch import load_file
from transformers import BertModel, PreTrainedModel
from transformers import BertTokenizer as Tokenizer

from pkdlib.data import EncodedSplit, Split, make_loader
from pkdlib.engine.batches import LengthGroupedBatches
from pkdlib.evaluation import predict, split_cls_states
from pkdlib.models import load_tokenizer
from pkdlib.targets import _create, teacher_outputs

LABELS = ("negative", "positive")
LAYERS = [1, 3]
BATCH = 16  # three batches of the 40 rows


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def teacher(backbone: Path) -> PreTrainedModel:
    return noisy_copy(BertModel.from_pretrained(backbone), LABELS)


@pytest.fixture(scope="module")
def split() -> EncodedSplit:
    return small_task().splits["train"]


def refuse_to_run(*_) -> None:
    raise AssertionError("the teacher ran")


def contents(folder: Path) -> list[str]:
    """The files that a reader would see or trip over; locks stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# ---------------------------------------------------------------------------------------------- right rows
@pytest.mark.parametrize("layers", [LAYERS, [4], [1, 2, 3, 4]])
def test_shuffled_batches_find_the_live_teachers_outputs(
    layers: list[int], teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path
) -> None:
    outputs = teacher_outputs(teacher, split, layers, tmp_path, BATCH)
    batches = LengthGroupedBatches(split.lengths, 8, seed=1)
    seen = []
    for batches.epoch in (1, 2):
        for batch in make_loader(split, batches, outputs.of):
            logits, cls = batch["teacher_logits"], batch["teacher_cls"]
            inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
            with torch.no_grad():
                live = teacher(**inputs, output_hidden_states=True)
            live_cls = torch.stack([live.hidden_states[layer][:, 0] for layer in layers], dim=1)
            torch.testing.assert_close(logits.float(), live.logits, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(cls.float(), live_cls, rtol=1e-3, atol=1e-4)
            seen += batch["rows"].tolist()
    assert seen[:40] != seen[40:]
    assert sorted(seen) == sorted([*range(40), *range(40)])
    assert len({tuple(row) for row in outputs.cls[:, 0].tolist()}) > 30  # rows do differ, so that a mix-up shows


def test_outputs_agree_with_whole_split_passes(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    outputs = teacher_outputs(teacher, split, LAYERS, tmp_path)
    assert (outputs.logits.shape, outputs.cls.shape) == ((40, 2), (40, 2, 32))
    torch.testing.assert_close(outputs.logits.float(), predict(teacher, split, 7), rtol=1e-3, atol=1e-4)
    states = split_cls_states(teacher, split, 7)[:, [0, 2]]
    torch.testing.assert_close(outputs.cls.float(), states, rtol=1e-3, atol=1e-4)


def test_predictions_alone_need_no_layers(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    outputs = teacher_outputs(teacher, split, [], tmp_path, BATCH)
    assert outputs.cls.shape == (40, 0, 32)
    found = outputs.of(torch.tensor([39, 0, 7]))
    assert found.keys() == {"teacher_logits"}
    assert torch.equal(found["teacher_logits"], outputs.logits[[39, 0, 7]])
    assert torch.equal(load_file(outputs.path)["logits"], outputs.logits)


# ------------------------------------------------------------------------------------- made once, by content
def test_second_call_reads_the_same_file(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    first = teacher_outputs(teacher, split, LAYERS, tmp_path, BATCH)
    written = first.path.stat()
    teacher.register_forward_pre_hook(refuse_to_run)
    again = teacher_outputs(teacher, split, LAYERS, tmp_path, batch_size=5)
    assert again.path == first.path
    assert again.path.stat() == written
    assert torch.equal(again.logits, first.logits)
    assert torch.equal(again.cls, first.cls)
    assert contents(tmp_path) == [first.path.name]


def test_a_reloaded_teacher_reads_the_same_file(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    first = teacher_outputs(teacher, split, LAYERS, tmp_path / "cache", BATCH)
    teacher.save_pretrained(tmp_path / "teacher")
    reloaded = type(teacher).from_pretrained(tmp_path / "teacher")
    reloaded.register_forward_pre_hook(refuse_to_run)
    assert teacher_outputs(reloaded, split, LAYERS, tmp_path / "cache", BATCH).path == first.path


def test_other_content_is_another_file(
    teacher: PreTrainedModel, split: EncodedSplit, backbone: Path, tmp_path: Path
) -> None:
    tokenizer, rows = load_tokenizer(backbone), small_data().splits["train"]
    words = json.loads((backbone / "tokenizer.json").read_text())["model"]["vocab"]
    swapped = {**words, "the": words["a"], "a": words["the"]}
    first = teacher_outputs(teacher, split, LAYERS, tmp_path).path
    changed_text = Split("train", ([f"not {rows.texts[0][0]}", *rows.texts[0][1:]],), rows.labels)
    others = {
        "layers": (split, [1, 4]),
        "order of layers": (split, [3, 1]),
        "no layers": (split, []),
        "changed row": (EncodedSplit(changed_text, tokenizer, 64), LAYERS),
        "fewer rows": (EncodedSplit(rows.take(range(39)), tokenizer, 64), LAYERS),
        "order of rows": (EncodedSplit(rows.take([1, 0, *range(2, 40)]), tokenizer, 64), LAYERS),
        "length": (EncodedSplit(rows, tokenizer, 8), LAYERS),
        "tokenizer": (EncodedSplit(rows, Tokenizer(vocab=swapped), 64), LAYERS),
    }
    found = {name: teacher_outputs(teacher, *other, tmp_path).path for name, other in others.items()}
    with torch.no_grad():
        teacher.classifier.bias[0] += 1e-3
    found["weights"] = teacher_outputs(teacher, split, LAYERS, tmp_path).path
    assert len({first, *found.values()}) == 1 + len(found), found


def test_another_precision_is_another_file(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    exact = teacher_outputs(teacher, split, LAYERS, tmp_path)
    AcceleratorState._reset_state()
    try:
        rough = teacher_outputs(teacher, split, LAYERS, tmp_path, accelerator=Accelerator(mixed_precision="bf16"))
    finally:
        AcceleratorState._reset_state()
    assert not torch.equal(rough.cls, exact.cls)
    assert rough.path != exact.path


def test_labels_do_not_matter(teacher: PreTrainedModel, split: EncodedSplit, backbone: Path, tmp_path: Path) -> None:
    rows = small_data().splits["train"]
    unlabelled = EncodedSplit(Split("train", rows.texts, None), load_tokenizer(backbone), 64)
    first = teacher_outputs(teacher, split, LAYERS, tmp_path).path
    assert teacher_outputs(teacher, unlabelled, LAYERS, tmp_path).path == first


# ---------------------------------------------------------------------------------------- whole or not at all
@pytest.mark.parametrize("training", [True, False])
def test_failure_in_the_middle_leaves_nothing(
    training: bool, teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path
) -> None:
    calls = []

    def fail_on_the_second(*_) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("power cut")

    teacher.train(training)
    hook = teacher.register_forward_pre_hook(fail_on_the_second)
    with pytest.raises(RuntimeError, match="power cut"):
        teacher_outputs(teacher, split, LAYERS, tmp_path, BATCH)
    assert contents(tmp_path) == []
    assert teacher.training == training
    hook.remove()
    outputs = teacher_outputs(teacher, split, LAYERS, tmp_path, BATCH)
    assert contents(tmp_path) == [outputs.path.name]
    assert outputs.logits.abs().sum(dim=1).all()
    assert teacher.training == training


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan")])
def test_outputs_beyond_half_precision_are_refused(
    value: float, teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path
) -> None:
    with torch.no_grad():
        teacher.classifier.bias[1] = value
    teacher.train()
    with pytest.raises(ValueError, match="do not fit in half precision") as refusal:
        teacher_outputs(teacher, split, [], tmp_path, BATCH)
    assert contents(tmp_path) == []
    assert teacher.training, refusal  # while the traceback, which a notebook keeps, is alive


RACE = """
import sys, time
from pathlib import Path
from helpers import small_task
from pkdlib.cache import teacher_outputs
from pkdlib.models import load_classifier

folder, batches = Path(sys.argv[1]), []

def slowly(*_):
    batches.append(1)
    time.sleep(0.02)

teacher = load_classifier(folder / "teacher")
teacher.register_forward_pre_hook(slowly)
split = small_task().splits["train"]
number = len(list(folder.glob("ready-*")))
(folder / f"ready-{id(folder)}-{time.monotonic_ns()}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.001)
outputs = teacher_outputs(teacher, split, [1, 3], folder / "cache", batch_size=4)
print(len(batches), outputs.path.name, outputs.logits.float().sum().item(), outputs.cls.float().sum().item())
"""


def test_two_processes_make_one_file(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    teacher.save_pretrained(tmp_path / "teacher")
    ends = [printed.split() for printed in run_together(RACE, [str(tmp_path)], [{}, {}])]
    assert sorted(int(batches) for batches, *_ in ends) == [0, 10]  # one waited for the other's file
    assert ends[0][1:] == ends[1][1:]
    assert contents(tmp_path / "cache") == [ends[0][1]]
    teacher.register_forward_pre_hook(refuse_to_run)
    outputs = teacher_outputs(teacher, split, LAYERS, tmp_path / "cache")
    assert outputs.logits.float().sum().item() == float(ends[0][2])


# -------------------------------------------------------------------------------------------------- the file
def test_file_is_a_safetensors_file(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    outputs = teacher_outputs(teacher, split, LAYERS, tmp_path)
    assert outputs.path.parent == tmp_path
    stored = load_file(outputs.path)
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {"logits": (40, 2), "cls": (40, 2, 32)}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert torch.equal(stored["logits"], outputs.logits)
    assert torch.equal(stored["cls"], outputs.cls)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_written_arrays_are_read_back(rows: int, tmp_path: Path) -> None:
    values = torch.randn(rows, 3, 5).half()
    arrays = _create(tmp_path / "x.safetensors", {"logits": (rows, 3), "cls": (rows, 3, 5)})
    arrays["cls"][::-1] = values.numpy()[::-1]
    arrays["logits"][:] = 2
    del arrays
    stored = load_file(tmp_path / "x.safetensors")
    assert torch.equal(stored["cls"], values)
    assert stored["logits"].eq(2).all()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_large_file_is_mapped_and_not_read(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    path = teacher_outputs(teacher, split, LAYERS, tmp_path).path
    rows = 200_000
    arrays = _create(path, {"logits": (rows, 2), "cls": (rows, 8, 64)})  # 206 MB, nearly all of it never written
    arrays["cls"][123_456] = 3
    del arrays
    before = resident_bytes()
    outputs = teacher_outputs(teacher, split, LAYERS, tmp_path)
    logits, cls = outputs.of(torch.tensor([123_456, 5])).values()
    grown = resident_bytes() - before
    assert path.stat().st_size > 200e6
    assert (len(outputs.logits), outputs.cls.shape[0]) == (rows, rows)
    assert cls[0].eq(3).all()
    assert not cls[1].any()
    assert logits.shape == (2, 2)
    assert grown < 20e6


def test_config_of_another_width_and_classes(tmp_path: Path, split: EncodedSplit) -> None:
    wide = noisy_copy(BertModel(bert_config(2, 16)), ("a", "b", "c", "d"))
    outputs = teacher_outputs(wide, split, [2], tmp_path)
    assert (outputs.logits.shape, outputs.cls.shape) == ((40, 4), (40, 1, 16))
