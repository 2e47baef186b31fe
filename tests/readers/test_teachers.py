"""Teachers: of this kit, with their records; and others, whose data are named."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers import bert_config, permuted, same_weights, save_backbone, save_model, small_data

from pkdlib.analysis.tables import students_of
from pkdlib.config import ConfigError, DistillConfig, FineTuneConfig, method_config, validate
from pkdlib.data import EncodedTask, encode_task
from pkdlib.engine.machine import make_accelerator
from pkdlib.engine.progress import say_once
from pkdlib.evaluation import evaluate
from pkdlib.models import load_classifier, load_tokenizer
from pkdlib.readers.sources import load_task
from pkdlib.readers.teachers import cache_targets, check_students, load_teacher, load_teacher_data, record_of
from pkdlib.training import Run, distill, fine_tune

NOTHING = {"task": "", "source": "", "train_rows": 0, "max_length": 0, "backbone": ""}
SMALL = validate(DistillConfig, num_hidden_layers=2, num_train_epochs=1)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of rows, a backbone, a teacher of this kit, and the same from elsewhere: other order, no record."""
    folder, raw = tmp_path_factory.mktemp("room"), small_data("mini-inference", train=32, dev=16)
    for name in ("train", "dev"):
        split = raw.splits[name]
        columns = dict(zip(raw.task.columns, split.texts, strict=True))
        labels = [raw.task.label_names[label] for label in split.labels]
        (folder / "rows").mkdir(exist_ok=True)
        pd.DataFrame(columns | {"label": labels}).to_csv(folder / "rows" / f"{name}.csv", index=False)
    save_backbone(folder / "backbone", bert_config(4))
    data = encode_task(load_task("mini-inference", folder / "rows"), load_tokenizer(folder / "backbone"), 32)
    config = validate(FineTuneConfig, backbone=str(folder / "backbone"), num_train_epochs=1)
    teacher = fine_tune(data, config, folder / "kit")
    save_model(permuted(teacher.model, [2, 0, 1]), folder / "foreign")
    return folder


def named(room: Path, **changes: object) -> dict:
    given = {"task": "mini-inference", "source": str(room / "rows"), "max_length": 32}
    return NOTHING | given | {"backbone": str(room / "backbone")} | changes


def loaded(teacher: Path, **said: object) -> tuple[Run, EncodedTask, str]:
    data, backbone = load_teacher_data(str(teacher), **said)
    return load_teacher(str(teacher), data, backbone), data, backbone


def test_a_teacher_from_elsewhere_is_the_very_one_with_its_classes_in_another_order(room: Path) -> None:
    ours, data, backbone = loaded(room / "kit", **NOTHING)
    theirs, other_data, other_backbone = loaded(room / "foreign", **named(room))
    assert record_of(room / "foreign") is None and ours.record == record_of(room / "kit")
    assert other_backbone == backbone == str(room / "backbone")
    for part in ("fingerprints", "metrics", "majority", "task", "source", "train_rows", "max_length", "eval_rows"):
        assert getattr(theirs.record, part) == getattr(ours.record, part), part
    assert theirs.record.metrics["dev"] == pytest.approx(evaluate(ours.model, data.splits["dev"], data.task))
    assert other_data.fingerprints == data.fingerprints


def test_its_students_are_the_very_ones_and_are_found_again(room: Path, tmp_path: Path) -> None:
    students = []
    for name, said in (("kit", NOTHING), ("foreign", named(room))):
        teacher, data, backbone = loaded(room / name, **said)
        config = SMALL.model_copy(update={"backbone": backbone})
        students.append(distill(data, config, teacher.model, tmp_path / name, tmp_path / f"cache-{name}"))
    assert students[0].record.fingerprints == students[1].record.fingerprints
    for name in ("kit", "foreign"):
        assert [folder for folder, _ in students_of(room / name, tmp_path)] == [tmp_path / "foreign", tmp_path / "kit"]
    assert students_of(room / "backbone", tmp_path) == []  # no classifier at all


def test_weights_that_are_not_those_of_the_record_beside_them_are_refused(room: Path, tmp_path: Path) -> None:
    shutil.copytree(room / "kit", tmp_path / "kit")
    other = load_classifier(tmp_path / "kit")
    other.classifier.bias.data += 0.1
    other.save_pretrained(tmp_path / "kit")
    with pytest.raises(ValueError, match=r"kit': its weights are not those of its result\.json$"):
        loaded(tmp_path / "kit", **NOTHING)


@pytest.mark.parametrize("lacking", ["task", "max_length", "backbone"])
def test_without_a_record_its_data_must_be_named(room: Path, lacking: str) -> None:
    place = str(room / "foreign")
    with pytest.raises(ConfigError) as raised:
        load_teacher_data(place, **named(room, **{lacking: NOTHING[lacking]}))
    assert str(raised.value) == (
        f"teacher_dir = {place!r}: no result.json there, so no finished teacher of this kit; "
        f"of another classifier, name {lacking}"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("task", "rte"), ("source", "elsewhere"), ("train_rows", 31), ("max_length", 33), ("backbone", "bert-base")],
)
def test_what_is_named_beside_a_record_must_agree_with_it(room: Path, name: str, value: object) -> None:
    said = {"task": "mini-inference", "source": str(room / "rows"), "train_rows": 32, "max_length": 32}
    said |= {"backbone": str(room / "backbone")}
    assert loaded(room / "kit", **said)[0].record == record_of(room / "kit")
    with pytest.raises(ConfigError) as raised:
        load_teacher_data(str(room / "kit"), **NOTHING | {name: value})
    line = f"{name} = {value!r}: the record of {room / 'kit'} says {said[name]!r}; leave it empty"
    assert str(raised.value) == line


def test_a_source_may_be_named_by_another_path_of_the_same_folder(room: Path, monkeypatch) -> None:
    monkeypatch.chdir(room)
    assert loaded(room / "kit", **NOTHING | {"source": str(room / "rows"), "backbone": str(room / "backbone")})
    with pytest.raises(ConfigError, match=r"^source = .*/kit': the record of .* says .*/rows'; leave it empty$"):
        load_teacher_data(str(room / "kit"), **NOTHING | {"source": str(room / "kit")})


def test_a_teacher_that_is_nowhere_is_refused_at_once(tmp_path: Path) -> None:
    for place, line in (
        (tmp_path / "none", "no such folder"),
        (Path(__file__), "is a file, must be a folder or a hub"),
    ):
        with pytest.raises((OSError, ValueError), match=rf"^teacher_dir = '{place}': {line}"):
            load_teacher_data(str(place), **NOTHING)


def test_that_scores_are_rounded_is_said_once(capsys: pytest.CaptureFixture) -> None:
    say_once.cache_clear()
    for precision in ("no", "bf16", "bf16"):
        make_accelerator(precision)
    line = "scores are those of bf16: read again, in float32, a model may name some rows otherwise\n"
    assert capsys.readouterr().out == line


def test_students_that_do_not_fit_are_refused_by_the_configurations_alone(room: Path, tmp_path: Path) -> None:
    for name, config in (("shallow", bert_config(2)), ("wide", bert_config(4, 64))):
        config.save_pretrained(tmp_path / name)  # no weights at all
    backbone, shallow, wide = str(room / "backbone"), str(tmp_path / "shallow"), str(tmp_path / "wide")
    check_students([SMALL, SMALL.model_copy(update={"num_hidden_layers": 4})], wide, wide)
    check_students([SMALL.model_copy(update={"projection": True})], wide, backbone)
    check_students([SMALL.model_copy(update={"beta": 0.0})], wide, backbone)
    deep = SMALL.model_copy(update={"num_hidden_layers": 3})
    for teacher, start in ((backbone, shallow), (shallow, backbone)):
        with pytest.raises(ConfigError) as raised:
            check_students([SMALL, deep], teacher, start)
        assert str(raised.value) == f"student_layers = 3: must be at most 2, as {shallow} has"
    with pytest.raises(ConfigError, match=r"^hidden_size: the teacher's is 64, the student's 32; "):
        check_students([SMALL], wide, backbone)
    with pytest.raises(ConfigError, match=r"^strategy = \[1, 2\]: must be 1 teacher layers"):
        check_students([SMALL.model_copy(update={"strategy": [1, 2]})], backbone, backbone)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/none: no such folder or model: "):
        check_students([SMALL], str(tmp_path / "none"), backbone)


def test_a_teacher_of_other_rows_or_classes_is_refused(room: Path, tmp_path: Path) -> None:
    kit, data, backbone = loaded(room / "kit", **NOTHING)
    fewer = encode_task(load_task("mini-inference", room / "rows", train_rows=31), data.tokenizer, 32)
    with pytest.raises(ValueError, match="trained on other rows"):
        load_teacher(str(room / "kit"), fewer, backbone)
    save_model(permuted(kit.model, [0, 1, 2], ["a", "b", "c"]), tmp_path / "other")
    with pytest.raises(ValueError, match=r"its classes are a, b, c: must be entailment, neutral, contradiction"):
        load_teacher(str(tmp_path / "other"), data, backbone)


def test_one_pass_gives_all_that_students_want(room: Path, tmp_path: Path) -> None:
    teacher, data, backbone = loaded(room / "kit", **NOTHING)
    base = SMALL.model_copy(update={"backbone": backbone, "num_hidden_layers": 3})
    students = [method_config(method, base) for method in ("FT", "KD", "PKD-Skip", "PKD-Last")]
    passes = []
    hook = teacher.model.register_forward_pre_hook(lambda *_: passes.append(1))
    cache_targets(teacher.model, data, students, tmp_path)
    once = len(passes)
    runs = [distill(data, student, teacher.model, cache_dir=tmp_path) for student in students]
    hook.remove()
    assert once and len(passes) == once  # the students found everything there
    assert len(list(tmp_path.glob("*.npy"))) == 1 + len({1, 2} | {2, 3})  # logits, and Skip's and Last's layers
    alone = distill(data, students[2], teacher.model, cache_dir=tmp_path / "alone")
    assert same_weights(runs[2].model, alone.model)
    cache_targets(teacher.model, data, students[:1], tmp_path / "none")
    assert not (tmp_path / "none").exists()
