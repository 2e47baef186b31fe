"""Each explorer, live but without a browser: every control changes the figure, and putting it back restores it."""

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from pkdlib import pkd_loss
from pkdlib.analysis.similarity import SIMILARITIES, linear_cka, most_similar_layers, nearest_rows
from pkdlib.analysis.widgets import Explorer, layer_map_picker, loss_explorer, similarity_explorer
from pkdlib.config import DistillConfig

PNG = b"\x89PNG"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


BATCH = {
    "student_logits": random(4, 2), "teacher_logits": 3 * random(4, 2, seed=1), "labels": torch.tensor([0, 1, 1, 0]),
    "student_cls": random(4, 2, 8, seed=2), "teacher_cls": random(4, 2, 8, seed=3),
}  # fmt: skip
ROWS = ((["a<", "b", "c", "d"], ["e", "f", "g", "h"]), ("bad", "good"))  # the batch's texts and the labels' names
TEXTS = ([f"row <{row}>" for row in range(12)],)
A, SMALL = random(12, 4, 6), random(12, 2, 3, seed=1)
STATES = {"A": A, "B": A[:, ::2] + 0.3 * random(12, 2, 6, seed=2), "small": SMALL}  # B's layers are like A's 1 and 3


def shows(explorer: Explorer) -> tuple[bytes, str]:
    return bytes(explorer.figure.value), explorer.text.value


@pytest.mark.parametrize(
    ("explorer", "moves"),
    [
        (lambda: layer_map_picker(12, 6), {"teacher": 13, "student": 3, "strategy": "last"}),
        (
            lambda: loss_explorer(BATCH, *ROWS),
            {
                "row": 0, "temperature": 9.5, "alpha": 0.1, "beta": 100.0, "form": "official", "t_squared": False,
                "normalize": False,
            },
        ),
        (
            lambda: similarity_explorer(STATES, TEXTS),
            {"a": "B", "b": "A", "metric": "rsa", "layer": 1, "row": 7},
        ),
    ],
    ids=["layer map", "loss", "similarity"],
)  # fmt: skip
def test_every_control_changes_the_figure_and_putting_it_back_restores_it(explorer, moves: dict) -> None:
    shown = explorer()
    start = shows(shown)
    assert start[0].startswith(PNG)
    assert shown.controls.keys() - moves.keys() <= {"own"}
    for name, value in moves.items():
        control = shown.controls[name]
        before = control.value
        control.value = value
        assert shows(shown)[0].startswith(PNG)
        assert shows(shown)[0] != start[0], name
        control.value = before
        assert shows(shown) == start, name
    assert all(control.description for control in shown.controls.values())
    assert plt.get_fignums() == []  # none stays open


def test_the_picker_shows_the_library_s_maps_and_keeps_k_within_n() -> None:
    picker = layer_map_picker(12, 6)
    assert picker.text.value == "skip: [2, 4, 6, 8, 10]"
    picker.controls["strategy"].value = "last"
    assert picker.text.value == "last: [7, 8, 9, 10, 11]"
    picker.controls["teacher"].value = 4
    assert (picker.controls["student"].value, picker.controls["student"].max) == (4, 4)
    assert picker.text.value == "last: [1, 2, 3]"


def test_an_own_map_starts_from_the_one_shown_and_is_drawn() -> None:
    picker = layer_map_picker(12, 3)
    own = picker.controls["own"]
    assert (own.value, own.disabled) == ("4, 8", True)
    picker.controls["strategy"].value = "own"
    assert (own.value, own.disabled, picker.text.value) == ("4, 8", False, "own: [4, 8]")
    before = shows(picker)[0]
    own.value = "1, 12"
    assert shows(picker)[0] != before
    assert picker.text.value == "own: [1, 12]"
    picker.controls["student"].value = 2  # what was typed stays
    assert own.value == "1, 12"
    assert "must be 1 teacher layers" in picker.text.value


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("0, 4", "strategy = [0, 4]: teacher layers must be whole numbers in 1..12"),
        ("4, 13", "strategy = [4, 13]: teacher layers must be whole numbers in 1..12"),
        ("4", "strategy = [4]: must be 2 teacher layers, one per student layer but the last"),
        (
            "4 <b>",
            "strategy = &#x27;4 &lt;b&gt;&#x27;: must be teacher layers with commas between them, such as 2, 4, 6",
        ),
    ],
)
def test_an_impossible_map_is_one_line_and_no_arrows(own: str, message: str) -> None:
    picker = layer_map_picker(12, 3)
    picker.controls["strategy"].value = "own"
    good = shows(picker)
    picker.controls["own"].value = own
    assert f">{message}</span>" in picker.text.value
    assert shows(picker)[0] != good[0]
    picker.controls["own"].value = "4, 8"
    assert shows(picker) == good


@pytest.mark.parametrize("form", ["paper", "official"])
def test_the_losses_shown_are_the_objective_s_and_the_soft_term_s_floor_is_the_teacher_s_entropy(form: str) -> None:
    explorer = loss_explorer(BATCH, *ROWS)
    explorer.controls["form"].value = form
    explorer.controls["temperature"].value = 2.0
    settings = {name: explorer.controls[name].value for name in ("alpha", "beta", "t_squared", "normalize")}
    assert settings == {"alpha": 0.7, "beta": 0.3, "t_squared": True, "normalize": True}
    terms = pkd_loss(**BATCH, form=form, temperature=2.0, **settings)
    soft = (BATCH["teacher_logits"] / 2).softmax(-1)
    floor = {"paper": 4 * -(soft * soft.log()).sum(-1).mean(), "official": 0.0}[form]
    shown = f"loss_ce {terms.loss_ce:.4f}, loss_kd {terms.loss_kd:.4f}, loss_pt {terms.loss_pt:.4f}"
    assert f"Without their weights: {shown}; the weighted sum: {terms.loss:.4f}.<br>" in explorer.text.value
    assert explorer.text.value.endswith(f"where the student says what the teacher says: {floor:.4f}")


def test_it_opens_on_the_row_whose_label_the_teacher_believes_least_and_with_the_given_settings() -> None:
    believed = BATCH["teacher_logits"].softmax(-1)[range(4), BATCH["labels"]].tolist()
    assert believed.index(min(believed)) == 3
    start = DistillConfig(temperature=25.0, alpha=0.33, beta=0.7, form="official", normalize=False, t_squared=False)
    values = {name: control.value for name, control in loss_explorer(BATCH, *ROWS, start).controls.items()}
    assert values == {
        "row": 3, "temperature": 25, "alpha": 0.33, "beta": 0.7, "form": "official", "t_squared": False,
        "normalize": False,
    }  # fmt: skip


def test_the_row_is_shown_with_its_texts_and_its_label() -> None:
    explorer = loss_explorer(BATCH, *ROWS)
    assert explorer.text.value.startswith("d | h <b>Label: bad.</b>")
    explorer.controls["row"].value = 0
    assert explorer.text.value.startswith("a&lt; | e <b>Label: bad.</b>")
    explorer.controls["row"].value = 2
    assert explorer.text.value.startswith("c | g <b>Label: good.</b>")


def test_neighbours_shown_are_those_of_the_layer_and_of_the_one_it_is_most_like() -> None:
    explorer = similarity_explorer(STATES, TEXTS)
    explorer.controls["row"].value = 5
    assert most_similar_layers(linear_cka(STATES["B"], A)) == [1, 3]
    html = explorer.text.value
    assert html.startswith("cka: layer 2 of B is most like layer 3 of A.<br>")
    for title, states in (("B, layer 2", STATES["B"][:, 1]), ("A, layer 3", A[:, 2])):
        assert f">{title}</th>" in html
        for row in nearest_rows(states, 5):
            assert f"<td><b>{row}</b> row &lt;{row}&gt;</td>" in html
    assert html.count("<td>") == 2 * 5


def test_neighbours_are_shown_with_their_labels() -> None:
    names = ["<good>" if row % 3 else "bad" for row in range(12)]
    explorer = similarity_explorer(STATES, TEXTS, labels=names)
    explorer.controls["row"].value = 5
    assert "<b>Row 5, &lt;good&gt;:</b> row &lt;5&gt;<br>" in explorer.text.value
    for row in nearest_rows(STATES["B"][:, 1], 5):
        name = "&lt;good&gt;" if row % 3 else "bad"
        assert f"<td><b>{row}, {name}</b> row &lt;{row}&gt;</td>" in explorer.text.value
    assert shows(explorer)[0] != shows(similarity_explorer(STATES, TEXTS))[0]


def test_a_layer_that_can_be_compared_with_none_is_said_to_be_one() -> None:
    alike = A.clone()
    alike[:, 1] = A[:1, 1]  # the second layer says the same of every row
    explorer = similarity_explorer({"A": A, "B": alike}, TEXTS)
    explorer.controls["layer"].value = 2
    assert explorer.text.value.startswith("cka: layer 2 of B can be compared with no layer of A.<br>")
    explorer.controls["layer"].value = 3
    assert explorer.text.value.startswith("cka: layer 3 of B is most like layer 3 of A.<br>")


def test_other_models_bring_their_own_metrics_and_layers() -> None:
    explorer = similarity_explorer(STATES, TEXTS, metric="cosine")
    metric, layer = explorer.controls["metric"], explorer.controls["layer"]
    assert (metric.value, metric.options) == ("cosine", tuple(SIMILARITIES))
    explorer.controls["b"].value = "A"
    layer.value = 4
    explorer.controls["b"].value = "small"  # narrower, and of two layers
    assert (metric.value, metric.options) == ("cka", ("cka", "rsa"))
    assert (layer.value, layer.max) == (2, 2)
    assert explorer.text.value.startswith("cka: layer 2 of small is most like layer ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: similarity_explorer({"A": A}, TEXTS), "states: holds 1 model, at least two are needed"),
        (
            lambda: similarity_explorer({"A": A, "B": A[:11]}, TEXTS),
            "rows differ in number: states {'A': 12, 'B': 11}, texts [12]",
        ),
        (
            lambda: similarity_explorer({"A": A, "B": A}, (["only one"],)),
            "rows differ in number: states {'A': 12, 'B': 12}, texts [1]",
        ),
        (
            lambda: layer_map_picker(4, 6),
            "num_student_layers = 6: must be between 1 and the teacher's 4 layers",
        ),
    ],
    ids=["one model", "rows", "texts", "sizes"],
)
def test_what_cannot_be_shown_is_refused_with_one_line(call, message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
