"""What must fit before work starts: classes by name, models that can read the rows, folders of one's own."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers import (
    ENCODERS,
    SIZES,
    bert_config,
    mini_tokenizer,
    noisy_copy,
    permuted,
    same_weights,
    save_backbone,
    save_model,
    shift_words,
    small_data,
)
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from pkdlib.config import DistillConfig, FineTuneConfig
from pkdlib.data import EncodedSplit, EncodedTask, Split, encode_split, encode_task
from pkdlib.engine.checkpoints import weights_fingerprint
from pkdlib.engine.checks import (
    ClassNames,
    Count,
    Seed,
    check_folder,
    check_labels,
    check_objective,
    check_reads,
    check_same_tokens,
    check_terms,
    check_texts,
    check_tokenizer,
    check_wanted,
    check_weights,
    checked,
    class_names,
    config_fingerprint,
    label_order,
    loading,
    own_folder,
    room_in,
    with_labels,
)
from pkdlib.engine.configs import ConfigError
from pkdlib.engine.files import ROOT
from pkdlib.evaluation import evaluate, predict
from pkdlib.models import build_student, load_backbone, load_classifier, load_tokenizer
from pkdlib.objectives import Objective
from pkdlib.tasks import get_task
from pkdlib.training import Run, distill, fine_tune

THREE = ("entailment", "neutral", "contradiction")


def classifier(config: PreTrainedConfig, names: tuple[str, ...] = THREE) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = copy.deepcopy(config)
        config.num_labels = len(names)
        model = AutoModelForSequenceClassification.from_config(config)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model.eval()


@pytest.fixture(scope="module")
def data() -> EncodedTask:
    return encode_task(small_data("mini-inference"), mini_tokenizer(), 64)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


def distilled(data: EncodedTask, backbone: Path, teacher: PreTrainedModel | Path, folder: Path, **changes) -> Run:
    values = {"backbone": str(backbone), "num_hidden_layers": 2, "num_train_epochs": 1, "train_batch_size": 8}
    return distill(data, DistillConfig(**values | changes), teacher, cache_dir=folder)


def refused(call: Callable[[], object], line: str, kind: type[Exception] = ValueError) -> None:
    """The call raises just this kind of error, with just this line."""
    with pytest.raises(kind) as error:
        call()
    assert (type(error.value), str(error.value)) == (kind, line)


# ------------------------------------------------------------------------------------------- arguments by their types
@checked
def plan(config: DistillConfig, rows: Count, names: ClassNames = ("no", "yes"), seed: Seed = 0, low: float | None = 0.5,
         layers: int = 2) -> tuple:  # fmt: skip
    return config, rows, names, seed, low, layers


def test_arguments_that_are_allowed_are_passed_on_as_they_are() -> None:
    config, names = DistillConfig(), ["a", "b", "c"]
    assert plan(config, 1) == (config, 1, ("no", "yes"), 0, 0.5, 2)
    found = plan(config, np.int64(7), names=names, seed=2**32 - 1, low=None, layers=-1)
    assert found == (config, 7, names, 2**32 - 1, None, -1) and found[2] is names
    assert type(found[1]) is np.int64 and plan.__name__ == "plan"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ({"rows": 0}, "rows = 0: must be greater than or equal to 1"),
        ({"rows": True}, "rows = True: must be a valid integer"),
        ({"rows": "3"}, "rows = '3': must be a valid integer"),
        ({"rows": "x" * 99}, f"rows = '{'x' * 79}...: must be a valid integer"),
        ({"layers": True}, "layers = True: must be a valid integer"),
        ({"seed": -1}, "seed = -1: must be greater than or equal to 0"),
        ({"seed": 2**32}, "seed = 4294967296: must be less than 4294967296"),
        ({"names": ()}, "names = (): must be distinct names: of at least two classes, or of one value"),
        ({"names": ("a", "a")}, "names = ('a', 'a'): must be distinct names: of at least two classes, or of one value"),
        ({"names": "ab"}, "names = 'ab': must be a list"),
        ({"names": ("a", 5)}, "names = ('a', 5): must be a valid string"),
        ({"low": "x"}, "low = 'x': must be a valid number"),
        ({"config": {}}, "config = {}: must be an instance of DistillConfig"),
        (
            {"seed": -1, "rows": 0},
            "rows = 0: must be greater than or equal to 1\nseed = -1: must be greater than or equal to 0",
        ),
    ],
)
def test_arguments_that_are_not_allowed_are_a_line_each(arguments: dict, lines: str) -> None:
    given = {"config": DistillConfig(), "rows": 1} | arguments
    refused(lambda: plan(**given), lines, ConfigError)


def test_a_choice_of_types_is_one_line() -> None:
    @checked
    def open_it(where: str | Path | int) -> None: ...

    refused(
        lambda: open_it(0.5),
        "where = 0.5: must be a valid string or an instance of Path or a valid integer",
        ConfigError,
    )


# ------------------------------------------------------------------------------------------------ classes by name
def test_classes_are_matched_by_name() -> None:
    assert label_order(["b", "c", "a"], ["a", "b", "c"], "x") == [2, 0, 1]
    assert label_order(["NEGATIVE", "POSITIVE"], ["negative", "positive"], "x") == [0, 1]
    assert label_order(["Not-Entailment", "entailment "], ["entailment", "not_entailment"], "x") == [1, 0]
    assert label_order(["not_a", "a"], ["a", "not_a"], "x") == [1, 0]


@pytest.mark.parametrize("theirs", [["a", "b"], ["a", "b", "d"], ["a", "b", "c", "d"], ["a", "a", "b"], ["a"], []])
def test_other_classes_are_refused(theirs: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"^x: its classes are {', '.join(theirs)}: must be a, b, c, in any order$"):
        label_order(theirs, ["a", "b", "c"], "x")


def test_nameless_classes_are_taken_in_order_and_that_is_said_once(capsys) -> None:
    for _ in range(2):
        assert label_order(["LABEL_0", "LABEL_1"], ["no", "yes"], "folder/of/one") == [0, 1]
    line = "folder/of/one: its classes have no names; they are taken for no, yes, by their numbers\n"
    assert capsys.readouterr().out == line
    with pytest.raises(ValueError, match="must be a, b, c"):
        label_order(["LABEL_0", "LABEL_1"], ["a", "b", "c"], "x")


def test_nameless_classes_in_another_order_are_taken_by_their_numbers() -> None:
    assert label_order(["LABEL_2", "LABEL_0", "LABEL_1"], ["a", "b", "c"], "x") == [1, 2, 0]
    with pytest.raises(ValueError, match="its classes are LABEL_1, LABEL_2: must be no, yes"):
        label_order(["LABEL_1", "LABEL_2"], ["no", "yes"], "x")


def test_classes_numbered_otherwise_than_from_0_are_refused() -> None:
    model = classifier(ENCODERS["bert"])
    model.config.id2label = dict(enumerate(THREE, start=1))
    line = "BertForSequenceClassification: its id2label has 1, 2, 3: must be numbers from 0 to 2"
    with pytest.raises(ValueError, match=f"^{line}$"):
        class_names(model)


def test_one_nameless_class_among_named_ones_is_refused() -> None:
    with pytest.raises(ValueError, match="its classes are LABEL_0, yes: must be no, yes"):
        label_order(["LABEL_0", "yes"], ["no", "yes"], "x")


@pytest.mark.parametrize(("name", "where"), [("", "the classifier"), ("a/folder", "a/folder")])
def test_a_classifier_is_named_by_its_folder_if_it_has_one(name: str, where: str) -> None:
    model = classifier(ENCODERS["bert"])
    model.name_or_path = name
    for told, said in (("", where), ("told", "told")):
        with pytest.raises(ValueError, match=f"^{said}: its classes are entailment, "):
            with_labels(model, ("a", "b", "c"), told)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_permuted_classifier_becomes_the_very_one(kind: str) -> None:
    model = classifier(ENCODERS[kind])
    other = permuted(model, [2, 0, 1])
    ids = torch.randint(5, 300, (4, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = model(input_ids=ids).logits
        assert torch.allclose(other(input_ids=ids).logits, logits[:, [2, 0, 1]], atol=1e-6)
    again = with_labels(other, THREE)
    assert same_weights(again, model)
    assert class_names(again) == list(THREE)
    assert again.config.label2id == model.config.label2id
    assert not again.training
    assert class_names(other) == ["contradiction", "entailment", "neutral"]  # the given model is left alone
    assert with_labels(model, THREE) is model


def test_a_classifier_whose_head_is_unknown_is_refused() -> None:
    model = permuted(classifier(ENCODERS["bert"]), [1, 0, 2])
    model.classifier = torch.nn.Sequential(torch.nn.Linear(32, 7), torch.nn.Linear(7, 4))
    with pytest.raises(ValueError, match=r"^x: its classes stand in another order than entailment, .*no layer"):
        with_labels(model, THREE, "x")


def test_no_layer_of_the_body_is_taken_for_the_head() -> None:
    class OwnHead(torch.nn.Module):
        out_features = 3

        def forward(self, states):
            return states[..., :3]

    for size, head in ((3, torch.nn.Linear(32, 4)), (64, OwnHead())):  # the body has a layer of three outputs, or none
        model = permuted(classifier(bert_config(num_labels=3, intermediate_size=size)), [1, 0, 2])
        model.classifier = head
        with pytest.raises(ValueError, match=r"no layer to reorder$"):
            with_labels(model, THREE, "x")


def test_a_permuted_teacher_gives_the_very_student(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    teacher = noisy_copy(load_backbone(backbone), THREE)
    save_model(teacher, tmp_path / "teacher")
    save_model(permuted(teacher, [1, 2, 0]), tmp_path / "permuted")
    one = distilled(data, backbone, tmp_path / "teacher", tmp_path / "cache")
    two = distilled(data, backbone, tmp_path / "permuted", tmp_path / "other-cache")
    three = distilled(data, backbone, load_classifier(tmp_path / "permuted"), tmp_path / "cache")
    assert same_weights(one.model, two.model)
    assert same_weights(one.model, three.model)
    assert one.record.fingerprints == two.record.fingerprints == three.record.fingerprints
    assert one.record.run_id == two.record.run_id
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2  # logits and one layer, of one and the same teacher


class SoftLabels(Objective):
    """An objective of one's own, whose configuration has alpha = beta = 0."""

    wants: ClassVar = {"soft_labels": lambda output: output.logits.softmax(dim=-1)}

    def forward(self, output, batch):
        return (torch.nn.functional.cross_entropy(output.logits, batch["soft_labels"].float()),)


def test_a_permuted_teacher_gives_the_very_student_of_an_objective_of_one_s_own(
    data: EncodedTask, backbone: Path, tmp_path: Path
) -> None:
    teacher = noisy_copy(load_backbone(backbone), THREE)
    config = DistillConfig(backbone=str(backbone), num_hidden_layers=1, num_train_epochs=1, alpha=0, beta=0)
    one, two = (
        distill(data, config, model, cache_dir=tmp_path / name, objective=SoftLabels).model
        for name, model in (("one", teacher), ("two", permuted(teacher, [1, 2, 0])))
    )
    assert same_weights(one, two)
    other = noisy_copy(load_backbone(backbone), ("negative", "positive"))
    with pytest.raises(ValueError, match="its classes are negative, positive: must be entailment"):
        distill(data, config, other, cache_dir=tmp_path / "other", objective=SoftLabels)


def test_a_start_whose_tokenizer_is_not_the_rows_is_refused(backbone: Path, data: EncodedTask, tmp_path: Path) -> None:
    shutil.copytree(backbone, tmp_path / "other")
    shift_words(tmp_path / "other")
    settings = {"backbone": str(tmp_path / "other"), "num_hidden_layers": 1, "num_train_epochs": 1}
    line = rf"^{tmp_path / 'other'}: its tokenizer gives other tokens than the rows have"
    with pytest.raises(ValueError, match=line):
        fine_tune(data, FineTuneConfig(**settings))
    with pytest.raises(ValueError, match=line):
        distill(data, DistillConfig(**settings, alpha=0, beta=0))
    for file in (tmp_path / "other").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="no tokenizer there"):
        fine_tune(data, FineTuneConfig(**settings))


def test_a_tokenizer_without_padding_is_refused(backbone: Path) -> None:
    tokenizer = load_tokenizer(backbone)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"^x: its tokenizer has no padding token; set its pad_token and save it$"):
        check_tokenizer(tokenizer, "x")


def test_a_permuted_model_scores_as_it_did(data: EncodedTask, backbone: Path) -> None:
    teacher = noisy_copy(load_backbone(backbone), THREE)
    other = permuted(teacher, [2, 0, 1])
    assert evaluate(other, data.splits["dev"], data.task) == evaluate(teacher, data.splits["dev"], data.task)
    logits = predict(teacher, data.splits["dev"])
    assert torch.allclose(predict(other, data.splits["dev"]), logits[:, [2, 0, 1]], atol=1e-6)  # in its own order
    with pytest.raises(ValueError, match="its classes are negative, positive: must be entailment"):
        evaluate(noisy_copy(load_backbone(backbone), ("negative", "positive")), data.splits["dev"], data.task)


def test_a_teacher_of_another_task_gives_its_layers_alone(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    other = noisy_copy(load_backbone(backbone), ("negative", "positive"))
    run = distilled(data, backbone, other, tmp_path, init="teacher", alpha=0.0, beta=0.0)
    assert class_names(run.model) == list(THREE)
    for changes in ({}, {"beta": 0.0}, {"alpha": 0.0}):
        with pytest.raises(ValueError, match="its classes are negative, positive: must be entailment"):
            distilled(data, backbone, other, tmp_path, init="teacher", **changes)


def test_a_body_has_no_classes() -> None:
    body = classifier(ENCODERS["bert"]).base_model
    for name, shown in (("", "BertModel"), ("a/folder", "a/folder")):
        body.name_or_path = name
        refused(lambda: class_names(body), f"{shown}: has no classifier: must be a fine-tuned one")


# ---------------------------------------------------------------------------------------------- rows and their labels
@pytest.mark.parametrize(
    ("texts", "counts"),
    [
        ((), []),
        (([],), [0]),
        ((["a"], ["a", "b"]), [1, 2]),
        ((["a"], ["a"], ["a", "b"]), [1, 1, 2]),
        (("a",), [0]),
    ],
)
def test_columns_that_are_no_texts_or_unequal_are_refused(texts: tuple, counts: list[int]) -> None:
    line = f"the dev split has columns of {counts} texts: must be one or two lists, "
    line += "or a passage's and one for each choice, equal, not empty"
    refused(lambda: check_texts(Split("dev", texts, None)), line)


def test_what_is_no_text_is_named_with_its_row() -> None:
    check_texts(Split("dev", (["a", ""], ("b", "c")), None))
    for texts, row, shown in (((["a", "b", 5, None],), 2, 5), ((["a", "b"], [None, "c"]), 0, None)):
        refused(lambda texts=texts: check_texts(Split("dev", texts, None)),
                f"the dev split, row {row}: {shown!r}: must be a text")  # fmt: skip


def labelled(name: str, labels: object) -> dict[str, Split]:
    return {name: Split(name, (["a", "b", "c"],), labels)}


TRAIN, DEV = (labelled(name, np.array([0, 1, 1])) for name in ("train", "dev"))


@pytest.mark.parametrize(
    ("splits", "complaint"),
    [
        (DEV, "the train split of task sst2 is missing"),
        (TRAIN, "the dev split of task sst2 is missing"),
        (TRAIN | labelled("dev", None), "the dev split of task sst2 has no labels: it can be predicted, not scored"),
        (DEV | labelled("train", [0, 1, 1]), "the train split of task sst2: labels are list: must be an array of 3"),
        (TRAIN | labelled("dev", np.zeros(3)), "the dev split of task sst2: labels are (3,) float64: must be an array"),
        (TRAIN | DEV | labelled("x", np.zeros(2, int)), "the x split of task sst2: labels are (2,) int64: must be an"),
        (TRAIN | DEV | labelled("x", np.array([0, 17, 9])), "the x split of task sst2: label 9: must be one of 0 (neg"),
        (TRAIN | DEV | labelled("x", np.array([9, -1, 0])), "the x split of task sst2: label -1: must be one of 0 (n"),
    ],
)
def test_labels_that_are_no_classes_are_refused(splits: dict, complaint: str) -> None:
    with pytest.raises(ValueError) as error:
        check_labels(splits, get_task("sst2"), ("train", "dev"))
    assert str(error.value).startswith(complaint)


def test_labels_are_checked_with_their_texts_where_there_are_any() -> None:
    bad = Split("test", ([5],), None)
    refused(lambda: check_labels({"test": bad}, get_task("sst2"), ()), "the test split, row 0: 5: must be a text")
    encoded = EncodedSplit(DEV["dev"], mini_tokenizer(), 16)
    check_labels({"dev": encoded, "test": Split("test", (["a"],), None)}, get_task("sst2"), ("dev",))
    check_labels(labelled("dev", np.array([0, 1, 1], np.uint8)), get_task("sst2"), ("dev",))


# ----------------------------------------------------------------------------------------- objectives of one's own
class Goal(Objective):
    """Of two terms; what it says of itself is changed by the tests."""

    names = ("loss", "term")

    def forward(self, output, batch):
        raise NotImplementedError


def goal(**changes: object) -> Goal:
    made = Goal(DistillConfig(), None)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


NAMES = "must be distinct names, the first one loss, none accuracy"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"names": ()}, f"names = (): {NAMES}"),
        ({"names": "loss"}, f"names = 'loss': {NAMES}"),
        ({"names": ("term", "loss")}, f"names = ('term', 'loss'): {NAMES}"),
        ({"names": ("loss", "loss")}, f"names = ('loss', 'loss'): {NAMES}"),
        ({"names": ("loss", 2)}, f"names = ('loss', 2): {NAMES}"),
        ({"names": ("loss", "accuracy")}, f"names = ('loss', 'accuracy'): {NAMES}"),
        (
            {"asks": {"hidden": True}},
            "asks = {'hidden': True}: must be flags among output_hidden_states, output_attentions, cls_alone",
        ),
        ({"wants": {"x": 5, "y": len}}, "wants = x, y: must be functions of the teacher's output"),
        ({"wants": {"x": len}}, "wants = x: needs a teacher"),
    ],
)
def test_an_objective_that_cannot_be_used_is_refused(changes: dict, rule: str) -> None:
    refused(lambda: check_objective(goal(**changes), Objective, {}, False), f"objective = Goal: {rule}")


def test_an_objective_that_can_be_used_is_not_refused(data: EncodedTask) -> None:
    both = {"output_hidden_states": True, "output_attentions": True}
    check_objective(goal(asks=both, wants={"states": len}), Objective, data.splits, True)
    check_objective(goal(), Objective, data.splits, False)
    refused(lambda: check_objective(5, Objective, {}, True), "objective = int: must give an Objective")
    for name in ("rows", "labels", "attention_mask", "token_type_ids"):
        with pytest.raises(
            ValueError, match=f"^objective = Goal: wants = {name}: must not be names of a batch's own: "
        ):
            check_objective(goal(wants={name: len}), Objective, data.splits, True)


LOSS, TERM = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)


@pytest.mark.parametrize(
    ("terms", "shown"),
    [
        ((LOSS,), "()"),
        ((LOSS, TERM, TERM), "(), (), ()"),
        (LOSS, "()"),
        (5, "int"),
        ((TERM, LOSS), "(), ()"),
        ((LOSS, 2.0), "(), float"),
        ((LOSS, torch.zeros(3)), "(), (3,)"),
        ((LOSS, np.float64(2)), "(), float64"),
    ],
)
def test_terms_that_are_no_scalars_for_the_names_are_refused(terms: object, shown: str) -> None:
    line = f"objective = Goal: forward gave {shown}: must give a scalar tensor () for each of loss, term, "
    refused(lambda: check_terms(goal(), terms), f"{line}the first with a gradient")


def test_terms_are_passed_on() -> None:
    for terms in ((LOSS, TERM), [LOSS, LOSS]):
        assert check_terms(goal(), terms) is terms


def test_what_is_wanted_of_a_teacher_has_an_entry_per_row() -> None:
    output = SimpleNamespace(logits=torch.arange(6.0).view(3, 2))
    assert torch.equal(check_wanted("x", lambda output: output.logits[:, 0])(output), torch.tensor([0.0, 2.0, 4.0]))
    for want, complaint in (
        (lambda output: output.logits.mean(dim=0), "gave (2,): must give a tensor of an entry for each of 3 rows"),
        (lambda output: output.logits.sum(), "gave (): must give a tensor of an entry for each of 3 rows"),
        (lambda output: np.zeros(3), "gave ndarray: must give a tensor of an entry for each of 3 rows"),
        (lambda output: {}["states"], "cannot be had: KeyError: 'states'"),
        (lambda output: len(5), "cannot be had: TypeError: object of type 'int' has no len()"),
    ):
        refused(lambda want=want: check_wanted("x", want)(output), f"wants.x: {complaint}")


# ---------------------------------------------------------------------------------------- a model and what it reads
def test_a_teacher_of_another_vocabulary_is_refused(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    teacher = noisy_copy(load_backbone(backbone), THREE)
    save_model(teacher, tmp_path / "teacher")
    for file in ("tokenizer.json", "vocab.txt"):
        path = tmp_path / "teacher" / file
        if path.exists():  # two words change places
            path.write_text(path.read_text().replace('"the"', '"?"').replace('"a"', '"the"').replace('"?"', '"a"'))
    with pytest.raises(ValueError, match=r"teacher: its tokenizer gives other tokens than the rows have, first of '"):
        distilled(data, backbone, tmp_path / "teacher", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_teacher_that_needs_segments_is_refused(backbone: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(backbone)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    data = encode_task(small_data("mini-inference"), tokenizer, 64)
    teacher = noisy_copy(load_backbone(backbone), THREE)
    save_model(teacher, tmp_path / "teacher")
    with pytest.raises(ValueError, match="gives other segments than the rows have"):
        distilled(data, backbone, tmp_path / "teacher", tmp_path / "cache")
    with pytest.raises(ValueError, match="gives other segments than the rows have"):  # nor does what it starts from
        distilled(data, backbone, teacher, tmp_path / "cache")
    message = "cannot read the dev rows: it tells a pair's texts apart by token_type_ids"
    with pytest.raises(ValueError, match=message):
        predict(teacher, data.splits["dev"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 50}, r"token \d+ is beyond its 50 embeddings; the rows were tokenised for another model"),
        ({"type_vocab_size": 1}, "it has 1 kinds of segments, the rows more"),
        ({"max_position_embeddings": 10}, r"max_length = 64: a row has \d+ tokens, it has 10 positions"),
    ],
)
def test_a_model_that_cannot_read_the_rows_is_refused(
    changes: dict, message: str, data: EncodedTask, backbone: Path, tmp_path: Path
) -> None:
    teacher = noisy_copy(BertModel(bert_config(**changes)), THREE)
    for read in (lambda: predict(teacher, data.splits["dev"]), lambda: distilled(data, backbone, teacher, tmp_path)):
        with pytest.raises(ValueError, match=f": cannot read the (train|dev) rows: {message}$"):
            read()
    save_backbone(tmp_path / "small", bert_config(**changes))
    with pytest.raises(ValueError, match=rf"small: cannot read the train rows: {message}$"):
        distilled(data, tmp_path / "small", None, tmp_path, alpha=0.0, beta=0.0)


def test_a_model_reads_rows_to_its_very_edges(data: EncodedTask) -> None:
    split = data.splits["dev"]
    largest, longest = int(split.columns["input_ids"].max()), int(split.lengths.max())
    edges = {"vocab_size": largest + 1, "type_vocab_size": 2, "max_position_embeddings": longest}
    check_reads(classifier(bert_config(**edges)), [split], "x")
    for field, message in (
        (
            "vocab_size",
            f"token {largest} is beyond its {largest} embeddings; " + "the rows were tokenised for another model",
        ),
        ("type_vocab_size", "it has 1 kinds of segments, the rows more"),
        ("max_position_embeddings", f"max_length = 64: a row has {longest} tokens, it has {longest - 1} positions"),
    ):
        beyond = classifier(bert_config(num_labels=3, **edges | {field: edges[field] - 1}))
        with pytest.raises(ValueError) as error:
            check_reads(beyond, [data.splits["dev"]], "x")
        assert str(error.value) == f"x: cannot read the dev rows: {message}"


def test_a_model_that_takes_fewer_inputs_is_refused_rows_that_have_more(data: EncodedTask) -> None:
    class WithoutSegments(BertForSequenceClassification):
        def forward(self, input_ids, attention_mask=None):
            return super().forward(input_ids, attention_mask)

    model = WithoutSegments(bert_config(num_labels=3))
    with pytest.raises(ValueError, match=r"^x: cannot read the train rows: it takes no token_type_ids$"):
        check_reads(model, data.splits.values(), "x")
    tokenizer = copy.deepcopy(mini_tokenizer())
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    check_reads(model, [encode_split(Split("dev", (["a"],), None), tokenizer, 16)], "x")


def test_a_model_may_take_the_columns_alone_and_its_shortest_table_of_positions_counts(data: EncodedTask) -> None:
    class Columns(BertForSequenceClassification):
        def forward(self, input_ids, token_type_ids):
            return super().forward(input_ids, token_type_ids=token_type_ids)

    model, split = Columns(bert_config(num_labels=3)), data.splits["dev"]
    check_reads(model, [split], "x")
    model.bert.other = torch.nn.ModuleDict({"position_embeddings": torch.nn.Embedding(5, 32)})
    with pytest.raises(ValueError, match=r"a row has \d+ tokens, it has 5 positions$"):
        check_reads(model, [split], "x")


def test_single_texts_need_no_segments() -> None:
    tokenizer = copy.deepcopy(mini_tokenizer())
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    single, pair = (encode_split(Split("dev", texts, None), tokenizer, 16) for texts in ((["a"],), (["a"], ["a"])))
    check_reads(classifier(ENCODERS["bert"]), [single], "x")
    check_reads(classifier(ENCODERS["roberta"]), [single, pair], "x")
    unread = DistilBertConfig(**ENCODERS["distilbert"].to_diff_dict() | {"type_vocab_size": 2})  # a field of no effect
    for config in (ENCODERS["distilbert"], unread, ENCODERS["modernbert"]):  # which know no segments, the last no limit
        check_reads(classifier(config), [single, pair], "x")
    check_reads(classifier(bert_config(num_labels=3, type_vocab_size=1)), [pair], "x")
    with pytest.raises(ValueError, match="it tells a pair's texts apart by token_type_ids"):
        check_reads(classifier(ENCODERS["bert"]), [single, pair], "x")


def test_the_same_tokenizer_gives_the_same_tokens_and_another_is_named(data: EncodedTask) -> None:
    split = data.splits["dev"]
    check_same_tokens(mini_tokenizer(), split, "x")
    other = copy.deepcopy(mini_tokenizer())
    other.model_input_names = ["input_ids", "attention_mask"]
    texts = f"{split.examples[0][0]} | {split.examples[1][0]}"
    with pytest.raises(ValueError) as error:
        check_same_tokens(other, split, "x")
    line = f"x: its tokenizer gives other segments than the rows have, first of {texts[:80]!r}"
    assert str(error.value) == line
    plain = encode_split(Split("dev", split.examples, None), other, 64)
    with pytest.raises(ValueError, match="other segments"):
        check_same_tokens(mini_tokenizer(), plain, "x")
    check_same_tokens(other, plain, "x")
    first = encode_split(Split("dev", (split.examples[0],), None), other, 64)
    check_same_tokens(mini_tokenizer(), first, "x")  # of one text, segments are zeros for both
    long = encode_split(Split("dev", (["a " * 90],), None), mini_tokenizer(), 8)
    check_same_tokens(mini_tokenizer(), long, "x")  # cut alike
    other.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    other.add_tokens("seldom")
    for place, complaint in ((598, True), (599, False)):  # of 600 rows every second one is compared
        texts = ["a"] * place + ["seldom"] + ["a"] * (599 - place)
        rows = encode_split(Split("dev", (texts,), None), mini_tokenizer(), 16)
        if complaint:
            with pytest.raises(ValueError, match=r"gives other tokens than the rows have, first of 'seldom'$"):
                check_same_tokens(other, rows, "x")
        else:
            check_same_tokens(other, rows, "x")


def test_segments_do_no_harm_to_a_model_that_knows_none(data: EncodedTask) -> None:
    model, split = classifier(ENCODERS["distilbert"]), data.splits["dev"]
    tokenizer = copy.deepcopy(mini_tokenizer())
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    without = encode_task(small_data("mini-inference"), tokenizer, 64).splits["dev"]
    assert torch.equal(predict(model, split), predict(model, without))


def test_positions_that_padding_takes_do_not_count(data: EncodedTask) -> None:
    """RoBERTa counts positions from the padding's number on: of 20 it can use 19."""
    longest = int(data.splits["dev"].lengths.max())
    sizes = SIZES | {"max_position_embeddings": longest + 1, "type_vocab_size": 2}
    assert len(predict(classifier(RobertaConfig(**sizes)), data.splits["dev"])) == len(data.splits["dev"])
    with pytest.raises(ValueError, match=f"a row has {longest} tokens, it has {longest - 1} positions"):
        predict(classifier(RobertaConfig(**sizes | {"max_position_embeddings": longest})), data.splits["dev"])


# ----------------------------------------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (ValueError("a/b: no words"), ValueError, "a/b: no words"),  # a line of our own
        (KeyError("x"), ValueError, "a/b: cannot be loaded: KeyError: 'x'"),
        (OSError("a/b: gone"), OSError, "a/b: cannot be loaded: OSError: a/b: gone"),
        (ValueError("bad"), ValueError, "a/b: cannot be loaded: ValueError: bad"),
        (ValueError(""), ValueError, "a/b: cannot be loaded: ValueError: "),
        (ValueError("\n one \n two \n"), ValueError, "a/b: cannot be loaded: ValueError: one"),
        (ValueError("for A:\n  size\n more"), ValueError, "a/b: cannot be loaded: ValueError: for A: size"),
    ],
)
def test_whatever_a_library_raises_is_one_line_of_the_checkpoint(error: Exception, kind: type, line: str) -> None:
    def load() -> None:
        with loading("a/b"):
            raise error

    refused(load, line, kind)


NO_COMPLAINTS = {"mismatched_keys": [], "missing_keys": [], "unexpected_keys": []}


@pytest.mark.parametrize(
    ("info", "line"),
    [
        (
            {"mismatched_keys": [("y", [3], [4]), ("x", [1, 2], [2, 2]), ("classifier", [1], [2])]},
            "a/b: not whole, x is (1, 2) among its weights, (2, 2) by its config.json: must be equal",
        ),
        ({"missing_keys": ["x"]}, "a/b: not whole, x missing"),
        ({"missing_keys": ["y", "x", "classifier"]}, "a/b: not whole, x, y missing"),
        ({"missing_keys": ["z", "x", "y"]}, "a/b: not whole, x, y and 1 more missing"),
        ({"missing_keys": list("edcba")}, "a/b: not whole, a, b and 3 more missing"),
        (
            {"unexpected_keys": ["head", "layer.5.x", "layers.4.x", "player.1.x"]},
            "a/b: its config.json has fewer layers than its weights: layer.5.x is left over",
        ),
        (
            {"unexpected_keys": ["encoder.layers.4.x", "encoder.layer.4.x"]},
            "a/b: its config.json has fewer layers than its weights: encoder.layer.4.x is left over",
        ),
    ],
)
def test_weights_that_are_not_the_model_s_are_refused(info: dict, line: str) -> None:
    model = torch.nn.Linear(2, 2)
    refused(lambda: check_weights(model, NO_COMPLAINTS | info, "a/b", "whole", "classifier"), line)
    spare = {"mismatched_keys": [("classifier", [1], [2])], "missing_keys": ["classifier"], "unexpected_keys": ["head"]}
    assert check_weights(model, spare, "a/b", "whole", "classifier") is model


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = torch.nn.Linear(2, 2)
    model.register_buffer("places", torch.arange(2))
    assert check_weights(model, NO_COMPLAINTS, "a/b", "whole", "classifier") is model
    model.bias.data[1] = float("inf")
    refused(
        lambda: check_weights(model, NO_COMPLAINTS, "a/b", "whole", "classifier"),
        "a/b: bias is not finite: must be numbers",
    )


def test_a_folder_without_a_tokenizer_is_refused(backbone: Path, tmp_path: Path) -> None:
    load_backbone(backbone).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"^{tmp_path}: no tokenizer there"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_a_first_token_is_refused(tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(mini_tokenizer())
    tokenizer.cls_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no \[CLS\] token"):
        load_tokenizer(tmp_path)


def test_rows_that_do_not_begin_with_cls_are_refused() -> None:
    tokenizer = copy.deepcopy(mini_tokenizer())
    tokenizer.cls_token = "[SEP]"  # named, but not what its rows begin with
    split = Split("train", (["the film is good"],), np.array([1]))
    with pytest.raises(ValueError, match=r"does not begin every row with its \[CLS\] token"):
        encode_split(split, tokenizer, 32)


@pytest.mark.parametrize("kind", ENCODERS)
def test_students_of_few_layers_are_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    body = classifier(ENCODERS[kind]).base_model
    student = build_student(body, 2, THREE)
    student.save_pretrained(tmp_path)
    again = load_classifier(tmp_path)
    assert same_weights(student, again)
    assert AutoConfig.from_pretrained(tmp_path).num_hidden_layers == 2


def test_a_student_is_not_what_its_source_was_trained_for() -> None:
    source = classifier(ENCODERS["bert"])
    source.config.problem_type = "multi_label_classification"
    student = build_student(source.base_model, 2, THREE)
    assert student.config.problem_type == "single_label_classification"
    assert build_student("", 2, THREE, init="teacher", teacher=source).config.problem_type != "regression"


# ---------------------------------------------------------------------------------------------------------- folders
def test_outputs_are_never_inputs(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    teacher = save_model(noisy_copy(load_backbone(backbone), THREE), tmp_path / "teacher")
    before = {path: path.read_bytes() for folder in (teacher, backbone) for path in folder.iterdir()}
    config = DistillConfig(backbone=str(backbone), num_hidden_layers=2, num_train_epochs=1)
    for folder, message in (
        (teacher, "must not be .*teacher, which this run reads"),
        (tmp_path / "x" / ".." / "teacher", "must not be .*teacher, which this run reads"),
        (backbone, "must not be .*backbone.*, which this run reads"),
        ("", "must name a folder of its own"),
    ):
        with pytest.raises(ValueError, match=f"^output_dir = '.*': {message}"):
            distill(data, config, teacher, folder, tmp_path / "cache")
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "cache").exists()


def test_a_folder_is_held_and_then_free(tmp_path: Path) -> None:
    model = classifier(ENCODERS["bert"])
    with own_folder(tmp_path / "a" / "b", ["", tmp_path / "other"], model):
        assert (tmp_path / "a" / "b").is_dir() and not (tmp_path / "a" / "b" / ".trial").exists()
        with (
            pytest.raises(ValueError, match=r"must be a folder to which no other process is writing$"),
            own_folder(tmp_path / "a" / "b", [], model),
        ):
            raise AssertionError("two writers")
        with own_folder(tmp_path / "a" / "b", [], model, writes=False):  # another process of this run
            pass
    with own_folder(tmp_path / "a" / "b", [], model):
        pass
    with own_folder(None, [], model):
        assert [one.name for one in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("folder", ["", ".", ROOT, ROOT / "tests" / ".."])
def test_a_folder_without_a_name_of_its_own_is_refused(folder: str | Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(ValueError, match=f"^output_dir = '{folder}': must name a folder of its own$"),
        own_folder(folder, [""], classifier(ENCODERS["bert"])),
    ):
        raise AssertionError("the work began")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "a", "Not a directory")):
        line = f"cache_dir = '{folder}': must be a folder that can be written: {reason}"
        refused(lambda folder=folder: check_folder("cache_dir", folder), line, OSError)
    assert check_folder("cache_dir", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert check_folder("cache_dir", str(tmp_path / "a")).is_dir()
    with pytest.raises(OSError, match=r"^cache_dir = '/proc/self': must be a folder that can be written: "):
        check_folder("cache_dir", "/proc/self")  # is there, and takes no files even of root


def test_a_folder_has_one_writer(data: EncodedTask, backbone: Path, tmp_path: Path) -> None:
    config = DistillConfig(backbone=str(backbone), num_hidden_layers=2, num_train_epochs=1, alpha=0.0, beta=0.0)
    with (
        FileLock(tmp_path / ".writer.lock"),
        pytest.raises(ValueError, match="must be a folder to which no other process is writing"),
    ):
        distill(data, config, output_dir=tmp_path)
    assert distill(data, config, output_dir=tmp_path).record.method == "FT"


def test_an_input_is_the_folder_that_is_read_not_another_of_its_name(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    with own_folder(tmp_path / "notebooks", ["notebooks"], classifier(ENCODERS["bert"])):  # the project's is read
        pass


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("No space left")])
def test_a_full_disk_is_one_line_with_the_folder(error: Exception) -> None:
    def write() -> None:
        with room_in("out"):
            raise error

    refused(write, f"output_dir = 'out': must have room for the model: {error}", OSError)


def test_a_model_that_cannot_be_saved_or_read_again_is_refused_with_the_first_line(tmp_path: Path) -> None:
    class Unsaved(BertForSequenceClassification):
        def save_pretrained(self, *_, **__):
            raise RuntimeError("no\nway")

    class Unread(BertConfig):
        model_type = "of no library"

    for model, line in (
        (Unsaved(bert_config()), "Unsaved: cannot be saved and read again: RuntimeError: no$"),
        (BertForSequenceClassification(Unread(**bert_config().to_dict())),
         "BertForSequenceClassification: cannot be saved and read again: ValueError: .*of no library"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{line}"), own_folder(tmp_path / "out", [], model):
            raise AssertionError("the work began")
        assert not list((tmp_path / "out").glob("[!.]*")) and not (tmp_path / "out" / ".trial").exists()


def test_a_model_that_cannot_be_saved_is_refused_before_the_work(tmp_path: Path) -> None:
    student = build_student(classifier(ENCODERS["modernbert"]).base_model, 2, THREE)
    student.config.layer_types = ["full_attention"] * 4  # an entry per layer of the source
    with (
        pytest.raises(ValueError, match=r"^ModernBertForSequenceClassification: cannot be saved and read again: "),
        own_folder(tmp_path / "out", [], student),
    ):
        raise AssertionError("the work began")
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_what_a_model_computes_is_in_its_configuration_s_hash() -> None:
    model = classifier(ENCODERS["bert"])
    same, other = permuted(model, [1, 0, 2]), classifier(bert_config(num_labels=3, hidden_act="relu"))
    assert weights_fingerprint(model) == weights_fingerprint(other)
    assert config_fingerprint(model) != config_fingerprint(other)
    assert config_fingerprint(model) == config_fingerprint(same)
    heads = classifier(bert_config(num_labels=3, num_attention_heads=4))
    assert config_fingerprint(model) != config_fingerprint(heads)


def test_a_configuration_s_hash_takes_any_value_in_any_order() -> None:
    one, two, three = (classifier(ENCODERS["bert"]) for _ in range(3))
    for model, fields in ((one, "ab"), (two, "ba"), (three, "bc")):
        for name in fields:
            setattr(model.config, name, Path(name))
    assert config_fingerprint(one) == config_fingerprint(two) != config_fingerprint(three)
