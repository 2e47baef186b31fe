"""What a teacher gives a student to match: right rows, made once, whole or absent, found by content."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers import bert_config, noisy_copy, run_together, save_backbone, small_data, small_task
from transformers import BertModel, PreTrainedModel
from transformers import BertTokenizer as Tokenizer

from pkdlib.analysis.similarity import split_cls_states
from pkdlib.data import EncodedSplit, Split
from pkdlib.engine.arrays import open_rows, write_rows
from pkdlib.engine.batches import LengthGroupedBatches, make_loader
from pkdlib.engine.checkpoints import weights_fingerprint
from pkdlib.evaluation import predict
from pkdlib.models import load_classifier, load_tokenizer
from pkdlib.objectives import pkd_wants
from pkdlib.targets import Targets, teacher_targets

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


def outputs_of(
    teacher: PreTrainedModel, split: EncodedSplit, layers: list[int], folder: Path, batch_size: int = 128, **more
) -> Targets:
    """What L_PKD wants of the teacher with these matched layers."""
    asks = {"output_hidden_states": True}
    return teacher_targets(teacher, split, pkd_wants(layers), folder, asks=asks, batch_size=batch_size, **more)


def cls_of(targets: Targets | dict, layers: list[int]) -> torch.Tensor:
    """The [CLS] states of some layers, (rows, layers, hidden), of all rows or of a batch."""
    arrays = targets if isinstance(targets, dict) else targets.arrays
    return torch.stack([arrays[f"teacher_cls_{layer}"] for layer in layers], dim=1)


def names(targets: Targets) -> list[str]:
    return both(targets.paths.values())


def both(paths: Iterable[Path]) -> list[str]:
    """The arrays' files and the checksums' beside them."""
    return sorted(path.with_suffix(suffix).name for path in paths for suffix in (".npy", ".json"))


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
    outputs = outputs_of(teacher, split, layers, tmp_path, BATCH)
    batches = LengthGroupedBatches(split.lengths, 8, seed=1)
    seen = []
    for batches.epoch in (1, 2):
        for batch in make_loader(split, batches, outputs.of):
            logits, cls = batch["teacher_logits"], cls_of(batch, layers)
            inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
            with torch.no_grad():
                live = teacher(**inputs, output_hidden_states=True)
            live_cls = torch.stack([live.hidden_states[layer][:, 0] for layer in layers], dim=1)
            torch.testing.assert_close(logits.float(), live.logits, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(cls.float(), live_cls, rtol=1e-3, atol=1e-4)
            seen += batch["rows"].tolist()
    assert seen[:40] != seen[40:]
    assert sorted(seen) == sorted([*range(40), *range(40)])
    assert (
        len({tuple(row) for row in outputs.arrays[f"teacher_cls_{layers[0]}"].tolist()}) > 30
    )  # rows do differ, so that a mix-up shows


def test_outputs_agree_with_whole_split_passes(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    outputs = outputs_of(teacher, split, LAYERS, tmp_path)
    logits, cls = outputs.arrays["teacher_logits"], cls_of(outputs, LAYERS)
    assert (logits.shape, cls.shape) == ((40, 2), (40, 2, 32))
    torch.testing.assert_close(logits.float(), predict(teacher, split, 7), rtol=1e-3, atol=1e-4)
    states = split_cls_states(teacher, split, 7)[:, [0, 2]]
    torch.testing.assert_close(cls.float(), states, rtol=1e-3, atol=1e-4)


def test_predictions_alone_need_no_layers(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    outputs = outputs_of(teacher, split, [], tmp_path, BATCH)
    found = outputs.of(torch.tensor([39, 0, 7]))
    assert found.keys() == {"teacher_logits"}
    assert torch.equal(found["teacher_logits"], outputs.arrays["teacher_logits"][[39, 0, 7]])
    assert (np.load(outputs.paths["teacher_logits"]) == outputs.arrays["teacher_logits"].numpy()).all()


# ------------------------------------------------------------------------------------- made once, by content
def test_second_call_reads_the_same_files(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    first = outputs_of(teacher, split, LAYERS, tmp_path, BATCH)
    written = [path.stat() for path in first.paths.values()]
    teacher.register_forward_pre_hook(refuse_to_run)
    again = outputs_of(teacher, split, LAYERS, tmp_path, batch_size=5)
    assert again.paths == first.paths
    assert [path.stat() for path in again.paths.values()] == written
    assert again.arrays.keys() == first.arrays.keys()
    assert all(torch.equal(again.arrays[name], array) for name, array in first.arrays.items())
    assert contents(tmp_path) == names(first)


def test_another_map_computes_only_what_is_missing(
    teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path
) -> None:
    first = outputs_of(teacher, split, [1, 3], tmp_path, BATCH)
    written = {path: path.stat() for path in first.paths.values()}
    second = outputs_of(teacher, split, [3, 4], tmp_path, BATCH)
    assert {path: path.stat() for path in first.paths.values()} == written
    assert set(second.paths.values()) - set(written) == {second.paths["teacher_cls_4"]}
    teacher.register_forward_pre_hook(refuse_to_run)
    outputs_of(teacher, split, [1, 4], tmp_path)  # nothing is missing now
    outputs_of(teacher, split, [], tmp_path)


def test_a_reloaded_teacher_reads_the_same_files(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    first = outputs_of(teacher, split, LAYERS, tmp_path / "cache", BATCH)
    teacher.save_pretrained(tmp_path / "teacher")
    reloaded = type(teacher).from_pretrained(tmp_path / "teacher")
    reloaded.register_forward_pre_hook(refuse_to_run)
    assert outputs_of(reloaded, split, LAYERS, tmp_path / "cache", BATCH).paths == first.paths


def test_other_content_is_another_file(
    teacher: PreTrainedModel, split: EncodedSplit, backbone: Path, tmp_path: Path
) -> None:
    tokenizer, rows = load_tokenizer(backbone), small_data().splits["train"]
    words = json.loads((backbone / "tokenizer.json").read_text())["model"]["vocab"]
    swapped = {**words, "the": words["a"], "a": words["the"]}
    first = outputs_of(teacher, split, LAYERS, tmp_path)
    changed_text = Split("train", ([f"not {rows.texts[0][0]}", *rows.texts[0][1:]],), rows.labels)
    others = {
        "changed row": EncodedSplit(changed_text, tokenizer, 64),
        "fewer rows": EncodedSplit(rows.take(range(39)), tokenizer, 64),
        "order of rows": EncodedSplit(rows.take([1, 0, *range(2, 40)]), tokenizer, 64),
        "length": EncodedSplit(rows, tokenizer, 8),
        "tokenizer": EncodedSplit(rows, Tokenizer(vocab=swapped), 64),
    }
    made = {name: outputs_of(teacher, other, LAYERS, tmp_path) for name, other in others.items()}
    with torch.no_grad():
        teacher.classifier.bias[0] += 1e-3
    made["weights"] = outputs_of(teacher, split, LAYERS, tmp_path)
    paths = [path for targets in (first, *made.values()) for path in targets.paths.values()]
    assert len(paths) == len(set(paths)) == 3 * (1 + len(made))
    assert contents(tmp_path) == both(paths)


def test_another_precision_is_another_file(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    exact = outputs_of(teacher, split, LAYERS, tmp_path)
    AcceleratorState._reset_state()
    try:
        rough = outputs_of(teacher, split, LAYERS, tmp_path, accelerator=Accelerator(mixed_precision="bf16"))
    finally:
        AcceleratorState._reset_state()
    assert not torch.equal(cls_of(rough, LAYERS), cls_of(exact, LAYERS))
    assert not set(rough.paths.values()) & set(exact.paths.values())


def test_a_fingerprint_that_is_known_takes_the_place_of_the_teacher_s(
    teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path
) -> None:
    own = outputs_of(teacher, split, [], tmp_path).paths
    assert outputs_of(teacher, split, [], tmp_path, fingerprint=weights_fingerprint(teacher)).paths == own
    assert outputs_of(teacher, split, [], tmp_path, fingerprint="another").paths != own


def test_a_pass_takes_128_rows_unless_told(teacher: PreTrainedModel, tmp_path: Path) -> None:
    split, passes = small_task(train=160, max_length=16).splits["train"], []
    teacher.register_forward_hook(lambda _module, _inputs, output: passes.append(len(output.logits)))
    teacher_targets(teacher, split, pkd_wants(()), tmp_path)
    assert sorted(passes) == [32, 128]


@pytest.mark.parametrize("folder", ["", "."])
def test_a_cache_without_a_name_of_its_own_is_refused(
    folder: str, teacher: PreTrainedModel, split: EncodedSplit
) -> None:
    teacher.register_forward_pre_hook(refuse_to_run)
    with pytest.raises(ValueError, match=rf"^cache_dir = '{folder}': must name a folder of its own$"):
        teacher_targets(teacher, split, pkd_wants(()), folder)


def test_labels_do_not_matter(teacher: PreTrainedModel, split: EncodedSplit, backbone: Path, tmp_path: Path) -> None:
    rows = small_data().splits["train"]
    unlabelled = EncodedSplit(Split("train", rows.texts, None), load_tokenizer(backbone), 64)
    first = outputs_of(teacher, split, LAYERS, tmp_path).paths
    assert outputs_of(teacher, unlabelled, LAYERS, tmp_path).paths == first


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
        outputs_of(teacher, split, LAYERS, tmp_path, BATCH)
    assert contents(tmp_path) == []
    assert teacher.training == training
    hook.remove()
    outputs = outputs_of(teacher, split, LAYERS, tmp_path, BATCH)
    assert contents(tmp_path) == names(outputs)
    assert outputs.arrays["teacher_logits"].abs().sum(dim=1).all()
    assert teacher.training == training


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan")])
def test_outputs_beyond_half_precision_are_refused(
    value: float, teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path
) -> None:
    with torch.no_grad():
        teacher.classifier.bias[1] = value
    teacher.train()
    with pytest.raises(ValueError, match="do not fit in half precision") as refusal:
        outputs_of(teacher, split, [], tmp_path, BATCH)
    assert contents(tmp_path) == []
    assert teacher.training, refusal  # while the traceback, which a notebook keeps, is alive


RACE = """
import sys, time
from pathlib import Path
from helpers import small_task
from pkdlib.objectives import pkd_wants
from pkdlib.targets import teacher_targets
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
asks = {"output_hidden_states": True}
targets = teacher_targets(teacher, split, pkd_wants([1, 3]), folder / "cache", asks=asks, batch_size=4)
sums = [array.float().sum().item() for array in targets.arrays.values()]
print(len(batches), *sums, *sorted(path.name for path in targets.paths.values()))
"""


def test_two_processes_make_one_file(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    teacher.save_pretrained(tmp_path / "teacher")
    ends = [printed.split() for printed in run_together(RACE, [str(tmp_path)], [{}, {}])]
    assert sorted(int(batches) for batches, *_ in ends) == [0, 10]  # one waited for the other's file
    assert ends[0][1:] == ends[1][1:]
    assert contents(tmp_path / "cache") == both(map(Path, ends[0][4:]))
    teacher.register_forward_pre_hook(refuse_to_run)
    outputs = outputs_of(teacher, split, LAYERS, tmp_path / "cache")
    assert [array.float().sum().item() for array in outputs.arrays.values()] == [float(end) for end in ends[0][1:4]]


# -------------------------------------------------------------------------------------------------- the file
def test_each_output_is_a_plain_numpy_file(teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path) -> None:
    outputs = outputs_of(teacher, split, LAYERS, tmp_path)
    assert {path.parent for path in outputs.paths.values()} == {tmp_path}
    stored = {name: np.load(path, allow_pickle=False) for name, path in outputs.paths.items()}
    shapes = {"teacher_logits": (40, 2), "teacher_cls_1": (40, 32), "teacher_cls_3": (40, 32)}
    assert {name: array.shape for name, array in stored.items()} == shapes
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
    assert all(torch.equal(torch.from_numpy(array), outputs.arrays[name]) for name, array in stored.items())


def test_an_output_of_your_own_is_kept_under_its_name(
    teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path
) -> None:
    wants = {
        "probabilities": lambda output: output.logits.softmax(dim=-1),
        "top": lambda output: output.logits.max(-1).values,
    }
    targets = teacher_targets(teacher, split, wants, tmp_path, batch_size=BATCH)
    assert {name: tuple(array.shape) for name, array in targets.arrays.items()} == {
        "probabilities": (40, 2),
        "top": (40,),
    }
    torch.testing.assert_close(targets.arrays["probabilities"].float().sum(dim=-1), torch.ones(40), atol=2e-3, rtol=0)


def test_an_output_that_changes_its_shape_is_refused(
    teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path
) -> None:
    wants = {"all states": lambda output: output.hidden_states[1]}  # (batch, length, hidden), and lengths differ
    with pytest.raises(ValueError, match=r"an output is \(\d+, 32\) per row here, \(\d+, 32\) before"):
        teacher_targets(teacher, split, wants, tmp_path, asks={"output_hidden_states": True}, batch_size=8)
    assert contents(tmp_path) == []


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_large_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    path, rows = tmp_path / "large.npy", 200_000  # 205 MB
    batches = torch.arange(rows).split(10_000)
    write_rows(((batch, {path: torch.zeros(len(batch), 8, 64) + 3 * (batch == 123_456)[:, None, None]})
                for batch in batches), rows)  # fmt: skip
    before = resident_bytes()
    array = open_rows({"large": path}, rows)["large"]
    cls = array[torch.tensor([123_456, 5])]
    grown = resident_bytes() - before
    assert path.stat().st_size > 200e6
    assert len(array) == rows
    assert cls[0].eq(3).all()
    assert not cls[1].any()
    assert grown < 20e6


def test_config_of_another_width_and_classes(tmp_path: Path, split: EncodedSplit) -> None:
    wide = noisy_copy(BertModel(bert_config(2, 16)), ("a", "b", "c", "d"))
    outputs = outputs_of(wide, split, [2], tmp_path)
    assert outputs.arrays["teacher_logits"].shape == (40, 4)
    assert outputs.arrays["teacher_cls_2"].shape == (40, 16)


# ------------------------------------------------------------------------------- a file that is not what it says
DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "zeroed": lambda path: path.write_bytes(path.read_bytes()[:128] + bytes(path.stat().st_size - 128)),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "another's": lambda path: shutil.copy(next(one for one in path.parent.glob("*.npy") if one != path), path),
    "other shape": lambda path: np.save(path, np.zeros((40, 3), np.float16)),
    "no array": lambda path: path.write_text("nothing"),
    "no checksum": lambda path: path.with_suffix(".json").unlink(),
    "broken checksum": lambda path: path.with_suffix(".json").write_text("{"),
    "other checksum": lambda path: path.with_suffix(".json").write_text('{"sha256": "0"}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_said_and_made_anew(
    damage: str, teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path, capsys
) -> None:
    first = outputs_of(teacher, split, LAYERS, tmp_path)
    whole = {name: array.clone() for name, array in first.arrays.items()}
    path, intact = first.paths["teacher_cls_3"], first.paths["teacher_logits"].stat().st_mtime_ns
    del first
    DAMAGES[damage](path)
    again = outputs_of(teacher, split, LAYERS, tmp_path)
    assert f"{path}: damaged, made anew" in capsys.readouterr().out
    assert all(torch.equal(again.arrays[name], array) for name, array in whole.items())
    assert again.paths["teacher_logits"].stat().st_mtime_ns == intact
    teacher.register_forward_pre_hook(refuse_to_run)
    assert outputs_of(teacher, split, LAYERS, tmp_path).arrays.keys() == whole.keys()


@pytest.mark.parametrize("field", ["hidden_act", "num_attention_heads", "layer_norm_eps"])
def test_another_configuration_is_another_file(
    field: str, teacher: PreTrainedModel, split: EncodedSplit, tmp_path: Path
) -> None:
    first = outputs_of(teacher, split, LAYERS, tmp_path)
    teacher.save_pretrained(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    changed = {"hidden_act": "relu", "num_attention_heads": 4, "layer_norm_eps": 0.1}[field]
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {field: changed}))
    other = outputs_of(load_classifier(tmp_path / "other"), split, LAYERS, tmp_path)
    assert not set(first.paths.values()) & set(other.paths.values())
    assert not torch.equal(first.arrays["teacher_logits"], other.arrays["teacher_logits"])


FULL = """
import resource, sys
from pathlib import Path
import torch
from pkdlib.engine.arrays import write_rows

path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    write_rows(((batch, {path: torch.ones(len(batch), 64)}) for batch in torch.arange(1000).split(100)), 1000)
except OSError as error:
    print("refused:", error)
"""


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "a.npy"), "50000"], capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("refused: [Errno 27]")
    assert not list(tmp_path.iterdir())
