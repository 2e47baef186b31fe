"""Backbones, students cut from them, and what a checkpoint holds."""

import copy
from pathlib import Path

import pytest
import torch
from helpers import (
    ENCODERS,
    bert_config,
    mini_bert,
    mini_tokenizer,
    noisy_copy,
    same_weights,
    save_backbone,
    small_task,
)
from transformers import AutoModel, BertForSequenceClassification, BertModel, PreTrainedModel

from pkdlib.config import MINI_BERT
from pkdlib.engine.checkpoints import weights_fingerprint
from pkdlib.models import build_student, cls_states, load_backbone, load_classifier, load_tokenizer

LABELS = ("negative", "positive")
THREE = ("entailment", "neutral", "contradiction")


@pytest.fixture(scope="module")
def teacher() -> PreTrainedModel:
    """A classifier of 12 layers, none of whose weights are the pre-trained ones."""
    return noisy_copy(mini_bert(), THREE)


@pytest.fixture(scope="module")
def small_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


def assert_cut_of(student: PreTrainedModel, source: PreTrainedModel, layers: int) -> None:
    """The student's body is the source's embeddings, first layers and pooler, bit for bit."""
    body, whole = student.base_model.state_dict(), source.base_model.state_dict()
    assert body.keys() <= whole.keys()
    assert all(torch.equal(body[name], whole[name]) for name in body)
    kept = {int(name.split("layer.")[1].split(".")[0]) for name in body if "layer." in name}
    assert kept == set(range(layers))


# ------------------------------------------------------------------------------------------- build_student
@pytest.mark.parametrize("layers", [1, 3, 6, 12])
def test_student_is_the_first_layers_of_the_pretrained_backbone(layers: int) -> None:
    student = build_student(MINI_BERT, layers, LABELS)
    assert_cut_of(student, mini_bert(), layers)
    assert any("pooler" in name for name in student.base_model.state_dict())
    assert student.config.num_hidden_layers == len(student.base_model.encoder.layer) == layers


@pytest.mark.parametrize("layers", [1, 5])
def test_student_is_the_first_layers_of_the_teacher(layers: int, teacher: PreTrainedModel) -> None:
    student = build_student(MINI_BERT, layers, THREE, init="teacher", teacher=teacher)
    assert_cut_of(student, teacher, layers)
    own, pretrained = student.base_model.state_dict(), mini_bert().state_dict()
    assert not any(torch.equal(own[name], pretrained[name]) for name in own)
    assert not torch.equal(student.classifier.weight, teacher.classifier.weight)  # the head is fresh


@pytest.mark.parametrize("layers", [1, 3])
def test_a_random_student_has_the_backbone_s_shape_and_weights_of_its_seed_alone(layers: int) -> None:
    student = build_student(MINI_BERT, layers, LABELS, init="random", seed=3)
    own, pretrained = student.base_model.state_dict(), mini_bert().state_dict()
    assert {name: weights.shape for name, weights in own.items()} == {name: pretrained[name].shape for name in own}
    matrices = [name for name, weights in own.items() if weights.ndim > 1]
    assert all(own[name].std().item() == pytest.approx(0.05, rel=0.25) for name in matrices)  # its initializer_range
    assert not any(torch.equal(own[name], pretrained[name]) for name in matrices)
    assert same_weights(student, build_student(MINI_BERT, layers, LABELS, init="random", seed=3))
    other = build_student(MINI_BERT, layers, LABELS, init="random", seed=4).base_model.state_dict()
    assert not any(torch.equal(own[name], other[name]) for name in matrices)


def test_backbone_may_be_a_loaded_model() -> None:
    assert same_weights(build_student(mini_bert(), 3, LABELS, seed=4), build_student(MINI_BERT, 3, LABELS, seed=4))


def test_no_number_of_layers_keeps_all() -> None:
    assert build_student(MINI_BERT, None, LABELS).config.num_hidden_layers == 12


@pytest.mark.parametrize("layers", [1, 4])
def test_head_follows_from_the_seed(layers: int, small_backbone: Path) -> None:
    whole = noisy_copy(load_backbone(small_backbone), LABELS)
    first = build_student(small_backbone, layers, LABELS, seed=5)
    torch.rand(3)  # whatever the global state is
    again = build_student(small_backbone, layers, LABELS, seed=5)
    of_teacher = build_student(small_backbone, layers, LABELS, init="teacher", teacher=whole, seed=5)
    other = build_student(small_backbone, layers, LABELS, seed=6)
    assert same_weights(first, again)
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(first.state_dict()[name], of_teacher.state_dict()[name])
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_global_random_state_is_left_alone(teacher: PreTrainedModel) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    build_student(MINI_BERT, 3, LABELS, seed=5)
    build_student(MINI_BERT, 3, LABELS, init="teacher", teacher=teacher, seed=5)
    build_student(MINI_BERT, 3, LABELS, init="random", seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_building_leaves_the_source_as_it_was(teacher: PreTrainedModel) -> None:
    fingerprint, layers = weights_fingerprint(teacher), teacher.config.num_hidden_layers
    student = build_student(MINI_BERT, 3, LABELS, init="teacher", teacher=teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert (weights_fingerprint(teacher), teacher.config.num_hidden_layers) == (fingerprint, layers)
    assert teacher.config.id2label == dict(enumerate(THREE))


@pytest.mark.parametrize("layers", [13, 100])
def test_more_layers_than_the_source_has_are_refused(layers: int, teacher: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match=rf"^num_hidden_layers = {layers}: must be in 1\.\.12"):
        build_student(MINI_BERT, layers, LABELS)
    with pytest.raises(ValueError, match=rf"^num_hidden_layers = {layers}: must be in 1\.\.12"):
        build_student(MINI_BERT, layers, LABELS, init="teacher", teacher=teacher)


@pytest.mark.parametrize("layers", [0, -1])
def test_no_layers_at_all_are_refused(layers: int) -> None:
    with pytest.raises(ValueError, match=f"^num_hidden_layers = {layers}:"):
        build_student(MINI_BERT, layers, LABELS)


def test_initialising_from_a_teacher_needs_one() -> None:
    with pytest.raises(ValueError, match=r"^init = 'teacher': needs the fine-tuned teacher"):
        build_student(MINI_BERT, 3, LABELS, init="teacher")


def test_label_names_are_in_the_configuration(tmp_path: Path) -> None:
    build_student(MINI_BERT, 2, THREE).save_pretrained(tmp_path)
    config = load_classifier(tmp_path).config
    assert config.num_labels == 3
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}


def test_a_missing_pooler_is_drawn_from_the_seed(tmp_path: Path) -> None:
    save_backbone(tmp_path)
    BertModel.from_pretrained(tmp_path, add_pooling_layer=False).save_pretrained(tmp_path)
    first, second, other = (build_student(tmp_path, 2, LABELS, seed=seed) for seed in (1, 1, 2))
    assert same_weights(first, second)
    pooler = [student.base_model.pooler.dense.weight for student in (first, other)]
    assert not torch.equal(*pooler)


def test_what_a_configuration_has_per_layer_is_cut_and_no_other_list() -> None:
    student = build_student(AutoModel.from_config(ENCODERS["modernbert"]), 2, LABELS)
    assert (
        student.config.layer_types == ENCODERS["modernbert"].layer_types[:2] == ["full_attention", "sliding_attention"]
    )
    config = copy.deepcopy(ENCODERS["deberta-v2"])
    config.num_hidden_layers = 2  # as many as pos_att_type has names
    assert build_student(AutoModel.from_config(config), 1, LABELS).config.pos_att_type == ["p2c", "c2p"]


# -------------------------------------------------------------------------------------- saving and loading
def test_saved_student_reloads_with_equal_logits(tmp_path: Path) -> None:
    student = build_student(MINI_BERT, 3, LABELS, seed=9).eval()
    student.save_pretrained(tmp_path)
    mini_tokenizer().save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert {Path(name).suffix for name in files} <= {".safetensors", ".json", ".txt"}
    reloaded = load_classifier(tmp_path)
    assert not reloaded.training
    batch = small_task().splits["dev"][range(8)]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(student(**inputs).logits, reloaded(**inputs).logits)
    assert load_tokenizer(tmp_path)("the soup")["input_ids"] == mini_tokenizer()("the soup")["input_ids"]


def test_classifier_without_a_trained_head_is_refused(small_backbone: Path) -> None:
    with pytest.raises(ValueError, match=r"not a fine-tuned classifier, classifier\.bias, classifier\.weight missing"):
        load_classifier(small_backbone)


def test_classifier_without_all_its_layers_is_refused(tmp_path: Path) -> None:
    build_student(MINI_BERT, 3, LABELS).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
    with pytest.raises(ValueError, match=r"not a fine-tuned classifier, bert\.encoder\.layer\.3"):
        load_classifier(tmp_path)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    model = BertForSequenceClassification(bert_config(2, 16))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_classifier(tmp_path)
    with pytest.raises(OSError, match="safetensors"):
        load_backbone(tmp_path)


def test_half_precision_checkpoints_load_in_float32(tmp_path: Path) -> None:
    half = BertForSequenceClassification(bert_config(2, 16)).half()
    half.save_pretrained(tmp_path)
    loaded = load_classifier(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.classifier.weight, half.classifier.weight.float())
    assert {parameter.dtype for parameter in mini_bert().parameters()} == {torch.float32}  # stored in float16
    student = build_student(MINI_BERT, 2, LABELS)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert student.config.dtype == torch.float32


# -------------------------------------------------------------------------------- hidden states, fingerprint
def test_cls_states_are_those_of_the_named_layers() -> None:
    hidden_states = [torch.randn(5, 7, 3) for _ in range(4 + 1)]
    every = cls_states(hidden_states)
    assert every.shape == (5, 4, 3)
    for layer in range(1, 5):
        assert torch.equal(every[:, layer - 1], hidden_states[layer][:, 0])
    some = cls_states(hidden_states, [2, 4])
    assert some.shape == (5, 2, 3)
    assert torch.equal(some, every[:, [1, 3]])


def test_layer_numbers_are_those_of_the_blocks() -> None:
    model = build_student(MINI_BERT, 3, LABELS).eval()
    seen = {}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, layer=layer: seen.update({layer: output}))
        for layer, module in enumerate([model.base_model.embeddings, *model.base_model.encoder.layer])
    ]
    batch = small_task().splits["dev"][range(4)]
    with torch.no_grad():
        output = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    for handle in handles:
        handle.remove()
    assert len(output.hidden_states) == 4
    for layer, block in seen.items():
        block = block[0] if isinstance(block, tuple) else block
        assert torch.equal(cls_states(output.hidden_states, [layer])[:, 0], block[:, 0])


def test_fingerprint_survives_saving_and_follows_the_weights(tmp_path: Path) -> None:
    model = build_student(MINI_BERT, 2, LABELS)
    fingerprint = weights_fingerprint(model)
    model.save_pretrained(tmp_path)
    assert weights_fingerprint(load_classifier(tmp_path)) == fingerprint
    assert weights_fingerprint(model.train()) == weights_fingerprint(model.eval()) == fingerprint
    bias = model.base_model.encoder.layer[1].output.dense.bias
    with torch.no_grad():
        before = bias[3].clone()
        bias[3] += 1e-6
        assert weights_fingerprint(model) != fingerprint
        bias[3] = before
        model.classifier.weight.neg_()
        assert weights_fingerprint(model) != fingerprint
        model.classifier.weight.neg_()
    assert weights_fingerprint(model) == fingerprint


def test_fingerprint_differs_by_seed_and_precision() -> None:
    model = build_student(MINI_BERT, 1, LABELS, seed=0)
    fingerprint = weights_fingerprint(model)
    assert weights_fingerprint(build_student(MINI_BERT, 1, LABELS, seed=1)) != fingerprint
    assert weights_fingerprint(model.to(torch.bfloat16)) != fingerprint
