"""Every encoder that the reference names is fine-tuned, distilled, cached, resumed and read again.

The models have random weights; each tokenizer is of the class that the encoder's checkpoints have.
"""

import copy
import re
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from helpers import ENCODERS, mini_tokenizer, same_weights, small_data
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import (
    AlbertTokenizer,
    AutoModel,
    BertTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from pkdlib import ROOT
from pkdlib.analysis.similarity import checkpoint_cls_states, split_cls_states
from pkdlib.config import DistillConfig, FineTuneConfig, method_config, validate
from pkdlib.data import EncodedTask, encode_split, encode_task
from pkdlib.engine.batches import Batch
from pkdlib.engine.last_layer import run
from pkdlib.evaluation import predict
from pkdlib.models import build_student, cls_states, load_backbone, load_classifier, load_tokenizer
from pkdlib.objectives import PKD, pkd_wants
from pkdlib.targets import teacher_targets
from pkdlib.training import Run, distill, fine_tune

KINDS = {  # architecture -> its name in the reference, its tokenizer's class
    "bert": ("BERT", BertTokenizer),
    "distilbert": ("DistilBERT", DistilBertTokenizer),
    "roberta": ("RoBERTa", RobertaTokenizer),
    "xlm-roberta": ("XLM-R", XLMRobertaTokenizer),
    "electra": ("ELECTRA", BertTokenizer),
    "albert": ("ALBERT", AlbertTokenizer),
    "deberta-v2": ("DeBERTa-v2", DebertaV2Tokenizer),
    "mpnet": ("MPNet", MPNetTokenizer),
    "modernbert": ("ModernBERT", PreTrainedTokenizerFast),
}
SHORT = {"bert", "roberta", "xlm-roberta", "electra"}  # whose last layer is computed for [CLS] alone
SEGMENTS = {"bert", "electra", "albert", "deberta-v2"}  # whose rows have token_type_ids
VALUES = {"num_train_epochs": 2, "train_batch_size": 16, "learning_rate": 2e-3}


def tokenizer_of(kind: type, texts: list[str]) -> PreTrainedTokenizerBase:
    """A tokenizer of that class: of word pieces, the embedded one's; of other kinds, trained on the texts."""
    words = sorted(mini_tokenizer().get_vocab(), key=mini_tokenizer().get_vocab().get)
    if kind is MPNetTokenizer:
        words = ["<s>", "<pad>", "</s>", "[UNK]", *words[5:], "<mask>"]
    if kind in (BertTokenizer, DistilBertTokenizer, MPNetTokenizer):
        return kind(vocab={word: number for number, word in enumerate(words)})
    if kind is not PreTrainedTokenizerFast:
        return kind().train_new_from_iterator(texts, 300)
    # ModernBERT's has no class of its own: bytes between BERT's special tokens, without segments.
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(texts, BpeTrainer(vocab_size=300, special_tokens=[*special.values()]))
    places = [(token, tokenizer.token_to_id(token)) for token in special.values()]
    pair = "[CLS] $A [SEP] $B [SEP]"
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=places)
    return kind(tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **special)


@dataclass
class Made:
    kind: str
    folder: Path  # with backbone, teacher and cache in it
    data: EncodedTask
    teacher: Run

    def distill(self, method: str = "PKD-Skip", out: Path | None = None, on_epoch=None, **changes) -> Run:
        base = validate(DistillConfig, backbone=str(self.folder / "backbone"), num_hidden_layers=2, **VALUES)
        config = method_config(method, base, **changes)
        return distill(self.data, config, self.folder / "teacher", out, self.folder / "cache", on_epoch)


@pytest.fixture(scope="module", params=ENCODERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A backbone with its tokenizer, and a teacher fine-tuned from it on pairs of texts."""
    folder = tmp_path_factory.mktemp(request.param)
    rows = small_data("mini-inference")
    one, two = rows.splits["train"].texts
    tokenizer = tokenizer_of(KINDS[request.param][1], [*one, *two])
    tokenizer.save_pretrained(folder / "backbone")
    config = copy.deepcopy(ENCODERS[request.param])
    config.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(7)
        AutoModel.from_config(config).save_pretrained(folder / "backbone")
    data = encode_task(rows, load_tokenizer(folder / "backbone"), 64)
    tuning = validate(FineTuneConfig, backbone=str(folder / "backbone"), **VALUES)
    return Made(request.param, folder, data, fine_tune(data, tuning, folder / "teacher"))


def inputs(made: Made, rows: range = range(6)) -> Batch:
    batch = made.data.splits["dev"][rows]
    return {name: tensor for name, tensor in batch.items() if name not in ("rows", "labels")}


@torch.no_grad()
def outputs(model: PreTrainedModel, batch: Batch):
    was_training = model.training
    output = model.eval()(**batch, output_hidden_states=True)
    model.train(was_training)
    return output


# ---------------------------------------------------------------------------------------------------- what is named
def test_the_reference_names_exactly_the_encoders_that_are_proved_here() -> None:
    page = (ROOT / "notebooks" / "guide" / "reference.md").read_text(encoding="utf-8")
    section = page.partition("## Which encoders?\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| (\S+) \| (yes|no) \|$", section, re.MULTILINE)
    assert named == [(KINDS[kind][0], "yes" if kind in SHORT else "no") for kind in ENCODERS]
    assert KINDS.keys() == ENCODERS.keys()


@pytest.mark.parametrize("place", ["notebooks/guide/speed.md", "notebooks/05_speed_benchmark.ipynb"])
def test_other_pages_name_the_encoders_whose_last_layer_is_short(place: str) -> None:
    *most, last = (KINDS[kind][0] for kind in ENCODERS if kind in SHORT)
    assert f"{', '.join(most)} and {last}" in " ".join((ROOT / place).read_text(encoding="utf-8").split())


# ----------------------------------------------------------------------------------------------------- the teacher
def test_a_teacher_is_trained_saved_and_read_again(made: Made) -> None:
    assert len(made.teacher.record.history) == 2
    dev, again = made.data.splits["dev"], load_classifier(made.folder / "teacher", made.data.task.label_names)
    assert type(again).__name__ == type(made.teacher.model).__name__
    assert same_weights(again, made.teacher.model)
    assert torch.equal(predict(again, dev), predict(made.teacher.model, dev))
    assert predict(again, dev).std(dim=0).min() > 0  # rows differ
    tokenizer = load_tokenizer(made.folder / "teacher")
    rows = small_data("mini-inference").splits["dev"]
    assert encode_split(rows, tokenizer, 64).fingerprint == dev.fingerprint


def test_rows_have_segments_where_the_encoder_was_trained_with_them(made: Made) -> None:
    columns = made.data.splits["dev"].columns
    assert ("token_type_ids" in columns) == (made.kind in SEGMENTS)
    assert made.kind not in SEGMENTS or set(columns["token_type_ids"]) == {0, 1}


def test_a_row_is_read_as_it_is_whatever_padding_is_beside_it(made: Made) -> None:
    dev = made.data.splits["dev"]
    assert dev.lengths.min() < dev.lengths.max()
    together = outputs(made.teacher.model, inputs(made, range(len(dev))))
    for row in range(0, len(dev), 3):
        alone = outputs(made.teacher.model, inputs(made, range(row, row + 1)))
        torch.testing.assert_close(together.logits[[row]], alone.logits, rtol=1e-4, atol=1e-5)
        states = cls_states(together.hidden_states)[[row]]
        torch.testing.assert_close(states, cls_states(alone.hidden_states), rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------- the students
CASES = [*((method, "pretrained") for method in ("FT", "KD", "PKD-Skip", "PKD-Last")), ("PKD-Skip", "teacher")]


@pytest.mark.parametrize(("method", "init"), CASES)
def test_a_student_starts_from_its_source_learns_and_is_read_again(
    method: str, init: str, made: Made, tmp_path: Path
) -> None:
    source = load_backbone(made.folder / "backbone") if init == "pretrained" else made.teacher.model.base_model
    whole, theirs = source.state_dict(), outputs(source, inputs(made)).hidden_states
    final = getattr(source, "final_norm", nn.Identity())  # ModernBERT's, after the last layer
    first: dict[str, torch.Tensor] = {}

    def look(epoch: int, model: PreTrainedModel, _: dict) -> None:
        if epoch:
            return
        body, ours = model.base_model.state_dict(), outputs(model, inputs(made)).hidden_states
        first.update({name: weights.clone() for name, weights in model.state_dict().items()})
        assert body.keys() <= whole.keys()
        assert all(torch.equal(weights, whole[name]) for name, weights in body.items())
        assert len(ours) == 3 and len(theirs) == 5
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
        assert torch.equal(ours[2], final(theirs[2]))

    run = made.distill(method, tmp_path / "student", look, init=init)
    terms = {"FT": ("ce",), "KD": ("ce", "kd")}.get(method, ("ce", "kd", "pt"))
    for epoch in run.record.history:
        assert {term for term in ("ce", "kd", "pt") if epoch[f"train_loss_{term}"] > 0} == set(terms)
    assert run.record.layer_map == {"PKD-Skip": [2], "PKD-Last": [3]}.get(method, [])
    trained = run.model.state_dict()
    assert not any(
        torch.equal(trained[name], first[name]) for name in first if "word_embeddings" in name or "tok_" in name
    )
    smaller = run.model.num_parameters() < made.teacher.model.num_parameters()
    assert smaller == (made.kind != "albert")  # whose layers share their weights
    again = load_classifier(tmp_path / "student")
    assert again.config.num_hidden_layers == 2
    assert same_weights(again, run.model)
    assert torch.equal(predict(again, made.data.splits["dev"]), predict(run.model, made.data.splits["dev"]))


def test_an_interrupted_distillation_goes_on_to_the_same_weights(made: Made, tmp_path: Path, capsys) -> None:
    def stop(epoch: int, *_: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    whole = made.distill()
    with pytest.raises(KeyboardInterrupt):
        made.distill(out=tmp_path / "student", on_epoch=stop)
    resumed = made.distill(out=tmp_path / "student")
    assert "resumes after epoch 1/2" in capsys.readouterr().out
    assert same_weights(resumed.model, whole.model)


# ------------------------------------------------------------------------------------------------------ its states
def test_states_are_of_every_layer_in_order(made: Made) -> None:
    model, dev, seen = made.teacher.model, made.data.splits["dev"], []
    blocks = next(part for part in model.base_model.modules() if isinstance(part, nn.ModuleList))  # ALBERT's: one

    def see(_: nn.Module, given: tuple, given_by_name: dict, output) -> None:
        states = given[0] if given else given_by_name["hidden_states"]
        seen.append((states, output[0] if isinstance(output, tuple) else output))

    handles = [block.register_forward_hook(see, with_kwargs=True) for block in blocks]
    output = outputs(model, inputs(made, range(len(dev))))
    for handle in handles:
        handle.remove()
    assert len(output.hidden_states) == 5 and len(seen) == 4
    final = getattr(model.base_model, "final_norm", nn.Identity())
    assert torch.equal(output.hidden_states[0], seen[0][0])  # the embeddings, as the first layer reads them
    for layer, (_, states) in enumerate(seen, start=1):
        assert torch.equal(output.hidden_states[layer], states if layer < 4 else final(states))
    states = split_cls_states(model, dev, batch_size=5)
    assert states.shape == (len(dev), 4, 32)
    for layer in range(1, 5):
        torch.testing.assert_close(states[:, layer - 1], output.hidden_states[layer][:, 0], rtol=1e-4, atol=1e-5)
    assert not any(torch.equal(states[:, one], states[:, two]) for one, two in combinations(range(4), 2))


def test_a_checkpoint_s_states_are_those_of_its_backbone(made: Made) -> None:
    states = checkpoint_cls_states(made.folder / "backbone", small_data("mini-inference").splits["dev"], 64)
    assert states.shape == (24, 4, 32)
    hidden_states = outputs(load_backbone(made.folder / "backbone"), inputs(made, range(24))).hidden_states
    torch.testing.assert_close(states, cls_states(hidden_states), rtol=1e-4, atol=1e-5)


def test_the_short_last_layer_gives_what_the_long_one_gives_and_others_take_the_long_one(made: Made) -> None:
    teacher, batch = made.teacher.model, inputs(made)
    student = build_student(made.folder / "backbone", 2, made.data.task.label_names).eval()
    results = {}
    for last_layer in ("cls", "all"):
        config = validate(DistillConfig, num_hidden_layers=2, last_layer=last_layer)
        for model in (teacher, student):
            with torch.inference_mode():
                results[last_layer, model] = run(model, batch, **PKD(config, student, teacher).asks)
    for model in (teacher, student):
        short, whole = results["cls", model], results["all", model]
        length = batch["input_ids"].shape[1]
        assert short.hidden_states[-1].shape[1] == (1 if made.kind in SHORT else length) != 0
        assert whole.hidden_states[-1].shape[1] == length > 1
        same = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5 if made.kind in SHORT else 0)
        same(short.logits, whole.logits)
        same(cls_states(short.hidden_states), cls_states(whole.hidden_states))


def test_cached_targets_are_those_of_a_live_pass(made: Made, tmp_path: Path) -> None:
    train, student = made.data.splits["train"], made.distill("KD").model
    for model in (made.teacher.model, student):
        wants = pkd_wants(range(1, model.config.num_hidden_layers + 1))
        asks = {"output_hidden_states": True, "cls_alone": True}
        written = teacher_targets(model, train, wants, tmp_path, asks)
        files = {path: path.stat().st_mtime_ns for path in written.paths.values()}
        targets = teacher_targets(model, train, wants, tmp_path, asks)
        assert {path: path.stat().st_mtime_ns for path in targets.paths.values()} == files
        for row in range(0, len(train), 4):
            batch = train[[row]]  # without padding
            rows, _ = batch.pop("rows"), batch.pop("labels")
            live, cached = outputs(model, batch), targets.of(rows)
            assert cached.keys() == wants.keys()
            for name, want in wants.items():
                torch.testing.assert_close(cached[name].float(), want(live), rtol=2e-3, atol=2e-3)
