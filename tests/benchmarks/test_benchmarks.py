"""Every benchmark runs end to end at tiny sizes and writes its file; its arithmetic equals sums by hand."""

import copy
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import bert_config, mini_tokenizer, noisy_copy, same_weights, save_backbone, small_task
from transformers import BertModel, Trainer

from pkdlib.engine.batches import SortedBatches
from tests.benchmarks.__main__ import OPTIONS_OF
from tests.benchmarks.__main__ import main as run_all
from tests.benchmarks.common import QUICK_RESULTS, arguments, figure, ratios, take_turns
from tests.benchmarks.contenders import (
    Case,
    _padded,
    authors,
    authors_terms,
    kit,
    settings,
    textbrewer_terms,
    trainer,
    trainer_terms,
)
from tests.benchmarks.inference import flops
from tests.benchmarks.loader import padding_share
from tests.benchmarks.peers import token_limits
from tests.benchmarks.step import kit_epochs, plain_epochs

FIGURES = {  # that a run on the embedded tasks writes, among others
    "accuracy": {"dev_accuracy_kit", "dev_accuracy_authors"},
    "cache": {"cache_build_vs_forward", "cache_read_share", "cache_memory_mb_200"},
    "distillations": {"wall_teacher", "wall_PKD-Skip", "dev_accuracy_FT"},
    "export": {"export_ms_teacher_pytorch_1", "export_speedup_student_int8_32", "export_difference_student_onnx"},
    "inference": {"inference_speedup_6", "inference_speedup_3_cls", "inference_speedup_6_of_limit"},
    "loader": {"padding_share_mini_sentiment", "loader_tokens"},
    "peers": {"mini_sentiment_vs_authors", "mini_inference_vs_authors", "mini_sentiment_vs_authors_limit"},
    "startup": {"startup_import", "startup_first_batch"},
    "sweep": {"sweep_2_workers", "sweep_one_s", "sweep_two_s"},
    "variants": {"distil_cka_vs_skip", "distil_alp_vs_skip", "distil_tinybert_vs_skip"},
    "trainer": {"distil_12_to_6_vs_trainer", "distil_12_to_6_vs_trainer_precomputed", "matmul_share_12_to_6_training"},
    "step": {"pkd_step_vs_finetune_step", "pkd_step_vs_plain_loop", "pkd_step_float32_vs_bf16"},
}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Four layers to two, of width 32, on 40 rows, without dropout."""
    config = bert_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    backbone = save_backbone(tmp_path / "backbone", config)
    teacher = noisy_copy(BertModel.from_pretrained(backbone), ("negative", "positive"))
    changes = {"num_hidden_layers": 2, "train_batch_size": 8, "num_train_epochs": 3, "learning_rate": 1e-3}
    return Case(small_task(), teacher, settings(backbone=str(backbone), **changes))


@pytest.mark.parametrize("name", FIGURES)
def test_quick_run_writes_the_agreed_form(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--out", str(tmp_path)])
    importlib.import_module(f"tests.benchmarks.{name}").main()
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result.keys() == {"figures", "provenance"}
    assert {"machine", "versions", "threads", "date", "settings"} <= result["provenance"].keys()
    for one in result["figures"]:
        assert one.keys() - {"values"} == {"name", "median", "low", "high", "unit"}
        assert one["low"] <= one["median"] <= one["high"]
        if "values" in one:  # of every round
            assert len(one["values"]) > 1 and np.median(one["values"]) == one["median"]
    names = [one["name"].removesuffix("_cuda") for one in result["figures"]]
    assert len(set(names)) == len(names)
    assert FIGURES[name] <= set(names)


def test_the_authors_dropout_is_a_record_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", "--quick", "--same-dropout", "--out", str(tmp_path)])
    importlib.import_module("tests.benchmarks.peers").main()
    (path,) = tmp_path.glob("peers_same_dropout*.json")
    names = {one["name"].removesuffix("_cuda") for one in json.loads(path.read_text())["figures"]}
    assert {f"mini_sentiment_vs_authors_same_dropout{ending}" for ending in ("", "_limit")} <= names
    assert not any("textbrewer" in name or name.endswith("vs_authors") for name in names)


def test_quick_replaces_the_sizes_that_a_benchmark_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["loader", "--rows", "500", "--rounds", "9"])
    assert vars(arguments("loader", "x", "rows", "rounds")) == {"quick": False, "out": None, "rows": 500, "rounds": 9}
    sys.argv.append("--quick")
    assert vars(arguments("loader", "x", "rows", "rounds")) == {"quick": True, "out": None, "rows": 64, "rounds": 2}


def test_all_in_turn_knows_every_benchmark(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OPTIONS_OF.keys() == FIGURES.keys()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "stepp"])
    with pytest.raises(SystemExit, match="2"):
        run_all()
    assert "NAME = 'stepp': must be one of step, trainer, peers" in capsys.readouterr().err


def test_all_in_turn_runs_those_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "loader", "--backbone", "data/mini-bert-24"])
    (QUICK_RESULTS / "loader.json").unlink(missing_ok=True)
    assert run_all() == 0
    assert json.loads((QUICK_RESULTS / "loader.json").read_text())["figures"]


# --------------------------------------------------------------------------------------- equal arithmetic
def test_the_loop_has_the_losses_of_a_plain_one(case: Case, tmp_path: Path) -> None:
    student = case.student()
    targets = case.targets(case.objective(student), tmp_path / "cache")
    fast, plain = kit_epochs(case, targets, student), plain_epochs(case, targets, student)
    assert fast == pytest.approx(plain, rel=1e-5)
    assert fast[2] < fast[0]
    assert kit_epochs(case, None, student) != pytest.approx(plain, rel=1e-2)


def test_the_contenders_have_the_case_s_terms(case: Case) -> None:
    """The authors' objective by their own formulas, and TextBrewer's settings by its own names."""
    config = case.config.model_copy(update={"alpha": 0.6, "beta": 0.25, "temperature": 4.0, "num_hidden_layers": 3})
    case = replace(case, config=config)
    student = case.student().eval()
    batch = case.data.splits["train"][[0, 5, 9]]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        ours, theirs = (model(**inputs, output_hidden_states=True) for model in (student, case.teacher))
    batch |= {"logits": theirs.logits, "states": torch.stack([state[:, 0] for state in theirs.hidden_states[1:]], 1)}
    log_p, p = (ours.logits / 4).log_softmax(-1), (theirs.logits / 4).softmax(-1)
    kl = (p * (p.log() - log_p)).mean() * 4**2
    pairs = [(ours.hidden_states[k][:, 0], theirs.hidden_states[layer][:, 0]) for k, layer in ((1, 1), (2, 2))]
    unit = torch.stack([torch.nn.functional.normalize(one, dim=-1) for pair in pairs for one in pair])
    squares = (unit[0::2] - unit[1::2]).square()  # (layers, batch, hidden), of which theirs is the mean
    terms = authors_terms(case, student)(ours, batch)
    assert terms.loss_kd.item() == pytest.approx(kl.item(), rel=1e-4)
    assert terms.loss_pt.item() == pytest.approx(squares.mean().item(), rel=1e-4)
    patience = 0.25 * squares.sum().item() / 3  # the paper's: a sum for each of three rows
    assert terms.loss.item() == pytest.approx(0.4 * terms.loss_ce.item() + 0.6 * kl.item() + patience, rel=1e-4)
    match = {"feature": "hidden", "loss": "pkd", "weight": 0.25}
    assert textbrewer_terms(case, student) == {
        "temperature": 4.0, "kd_loss_weight": 0.6, "hard_label_weight": 0.4,
        "intermediate_matches": [{"layer_T": 1, "layer_S": 1, **match}, {"layer_T": 2, "layer_S": 2, **match}],
    }  # fmt: skip


CHANGES = {"temperature": 3.0, "alpha": 0.5, "beta": 0.5, "strategy": [2, 3]}


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_the_trainer_has_the_kit_s_terms(case: Case, change: str | None) -> None:
    """Both by their own code on one batch; a wrong layer, temperature or weight would be seen."""
    config = case.config.model_copy(update={"alpha": 0.6, "beta": 0.25, "temperature": 4.0, "num_hidden_layers": 3})
    case = replace(case, config=config)
    student, batch = case.student().eval(), case.data.splits["train"][[0, 5, 9]]
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    goal = case.objective(student)
    with torch.no_grad():
        ours, theirs = (model(**inputs, output_hidden_states=True) for model in (student, case.teacher))
    kit_s = goal(ours, batch | {name: want(theirs) for name, want in goal.wants.items()})
    other = replace(case, config=config.model_copy(update={change: CHANGES[change]})) if change else case
    states = torch.stack([theirs.hidden_states[layer][:, 0] for layer in other.objective(student).layers], dim=1)
    terms = trainer_terms(other, ours, batch["labels"], theirs.logits, states)
    values = [[term.item() for term in one] for one in (terms, kit_s)]
    assert (values[0] == pytest.approx(values[1], rel=1e-5)) is (change is None)


def test_every_contender_scores_every_epoch(case: Case) -> None:
    config = case.config.model_copy(update={"num_train_epochs": 12})
    case = replace(case, config=config)
    assert len(authors(case)) == len(kit(case)) == 12


@pytest.mark.parametrize("precomputed", [False, True])
def test_the_trainer_starts_from_the_kit_s_student_and_learns(
    case: Case, precomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, passes = [], []
    monkeypatch.setattr(Trainer, "train", lambda self: starts.append(copy.deepcopy(self.model)))
    assert trainer(case, precomputed) == []
    assert same_weights(starts[0], case.student())
    monkeypatch.undo()
    hook = case.teacher.register_forward_hook(lambda *_: passes.append(1))  # goes with its copy
    assert len(trainer(case, precomputed)) == 3
    hook.remove()
    batches = len(SortedBatches(case.data.splits["train"].lengths, case.config.eval_batch_size))
    assert len(passes) == (batches if precomputed else 3 * 5)  # forty rows in batches of eight, three epochs


def test_padded_rows_are_the_split_s(case: Case) -> None:
    split = case.data.splits["dev"]
    rows = _padded(split, 64)
    assert {name: tuple(rows[name].shape) for name in ("input_ids", "attention_mask")} == {
        "input_ids": (24, 64), "attention_mask": (24, 64),
    }  # fmt: skip
    assert rows["attention_mask"].sum(dim=1).tolist() == split.lengths.tolist()
    last = int(split.lengths[23])
    assert rows["input_ids"][23, last - 1] == mini_tokenizer().sep_token_id
    assert (rows["input_ids"][23, last:] == mini_tokenizer().pad_token_id).all()


# ----------------------------------------------------------------------------------------- of given times
def test_contenders_take_turns() -> None:
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = take_turns(contenders, 2, warmup=1)
    assert "".join(calls) == "cababcbca"
    assert len(times) == 6
    assert times["contender"].tolist() == list("abcbca")
    assert times["round"].tolist() == [1, 1, 1, 2, 2, 2]


def test_ratios_are_paired_by_round() -> None:
    rows = [("slow", 1, 8.0), ("fast", 1, 2.0), ("fast", 2, 1.0), ("slow", 2, 10.0), ("slow", 3, 9.0), ("fast", 3, 3.0)]
    times = pd.DataFrame(rows, columns=["contender", "round", "seconds"])
    assert ratios(times, "slow", "fast").tolist() == [4.0, 10.0, 3.0]
    assert figure("x", ratios(times, "slow", "fast"), "x") == {
        "name": "x", "median": 4.0, "low": 3.0, "high": 10.0, "unit": "x", "values": [4.0, 10.0, 3.0],
    }  # fmt: skip


def test_padding_share_by_hand() -> None:
    masks = [np.array([[1, 1, 1], [1, 0, 0]]), np.array([[1, 1]])]
    assert padding_share({"attention_mask": torch.from_numpy(mask)} for mask in masks) == pytest.approx(2 / 8)


def test_flops_by_hand() -> None:
    # A token of width 2 in a row of 3: projections 4 x 2 x 2 x 2, feed-forward 2 x 2 x 2 x 8, attention 2 x 2 x 3 x 2.
    assert flops(layers=1, hidden=2, batch=1, length=3) == 3 * (32 + 64 + 24) + 8


def test_token_limits_by_hand(case: Case) -> None:
    split = case.data.splits["train"]
    limits = token_limits(case)
    # Per epoch, the student's 2 layers forward and backward are 6 passes, the teacher's 4, once in 3 epochs, 4/3.
    assert limits["authors"] == pytest.approx(64 / split.lengths.mean())
    assert limits["warm"] == pytest.approx((6 + 4) / 6)
    padded = sum(8 * split.lengths[start : start + 8].max() for start in range(0, 40, 8))
    assert limits["shuffled"] == pytest.approx((6 + 4) / (6 + 4 / 3) * padded / split.lengths.sum())
