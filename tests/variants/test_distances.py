"""Each distance against a formula by loops in float64; what it must not see; its gradients; half precision."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pkdlib.analysis.similarity import linear_cka
from pkdlib.losses import FORMS, patience_loss
from pkdlib.variants.distances import ANY_WIDTHS, DISTANCES, TEMPERATURE

NAMES = list(DISTANCES)
OF_DIRECTIONS = ["cosine", "relation", "infonce"]  # which see angles alone, whatever `normalize` is


def states(seed: int, rows: int = 7, layers: int = 3, width: int = 5) -> Tensor:
    return torch.randn(rows, layers, width, generator=torch.Generator().manual_seed(seed))


def cos(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def by_hand(name: str, student: Tensor, teacher: Tensor) -> float:
    """The sum over layers of a distance, averaged over rows, by loops over Python's floats."""
    total, rows = 0.0, len(student)
    for layer in range(student.shape[1]):
        s, t = student[:, layer].double().tolist(), teacher[:, layer].double().tolist()
        pairs = [(i, j) for i in range(rows) for j in range(rows)]
        if name in ("squared", "raw"):
            total += sum((x - y) ** 2 for i in range(rows) for x, y in zip(s[i], t[i], strict=True)) / rows
        elif name == "cosine":
            total += sum(1 - cos(s[i], t[i]) for i in range(rows)) / rows
        elif name == "relation":
            total += sum((cos(s[i], s[j]) - cos(t[i], t[j])) ** 2 for i, j in pairs) / rows**2
        elif name == "infonce":
            for i in range(rows):
                scores = [math.exp(cos(s[i], t[j]) / TEMPERATURE) for j in range(rows)]
                total -= math.log(scores[i] / sum(scores)) / rows
        else:  # by the analysts' function, which is NumPy's and has its own tests
            total += 1 - float(linear_cka(student[:, [layer]], teacher[:, [layer]])[0, 0])
    return total


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_distance_is_its_formula(name: str, normalize: bool) -> None:
    student, teacher = states(0), states(1)
    unit = normalize and name != "raw"
    expected = by_hand(name, *(F.normalize(one, dim=-1) if unit else one for one in (student, teacher)))
    assert patience_loss(student, teacher, normalize, distance=name).item() == pytest.approx(
        expected, rel=1e-6, abs=1e-6
    )


def test_hand_computed_values() -> None:
    """Two rows, one layer: h_s = (1, 0), (0, 1); h_t = (1, 0), (1, 0)."""
    student = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    teacher = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    values = {name: patience_loss(student, teacher, distance=name).item() for name in NAMES}
    assert values["squared"] == values["raw"] == pytest.approx((0 + 2) / 2)
    assert patience_loss(3 * student, teacher, distance="raw").item() == pytest.approx((4 + 10) / 2)
    assert values["cosine"] == pytest.approx((0 + 1) / 2)
    assert values["relation"] == pytest.approx((0 + 1 + 1 + 0) / 4)  # products 1, 0, 0, 1 against 1, 1, 1, 1
    assert values["infonce"] == pytest.approx(math.log(2))  # both teacher rows are alike: a guess among two
    assert values["cka"] == 0  # of fewer than four rows


def test_the_official_form_averages_all_parts() -> None:
    student, teacher = states(0), states(1)
    for name, function in DISTANCES.items():
        parts = function(student, teacher)
        official = patience_loss(student, teacher, False, "official", name)
        paper = patience_loss(student, teacher, False, "paper", name)
        assert official.item() == pytest.approx(paper.item() * len(parts) / parts.numel(), rel=1e-6)


@given(st.integers(0, 2**31), st.integers(4, 9), st.integers(1, 3), st.integers(2, 6))
def test_of_equal_states_it_is_least(seed: int, rows: int, layers: int, width: int) -> None:
    own = states(seed, rows, layers, width)
    for name in NAMES:
        least, other = (
            patience_loss(own, one, distance=name).item() for one in (own, states(seed + 1, rows, layers, width))
        )
        if name == "infonce":  # least where each row is its own nearest, zero only where the others are far
            assert 0 <= least <= math.log(rows) * layers + 1e-5
        else:
            assert least == pytest.approx(0, abs=2e-5)
        assert other >= least - 2e-5


@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_what_it_must_not_see(seed: int, scale: float) -> None:
    """The rows' order; of both sides' axes one common rotation; and, where it sees directions alone, lengths."""
    student, teacher = states(seed), states(seed + 1)
    rows = torch.randperm(len(student), generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(states(seed + 2, 1, 5, 5)[0]).Q
    for name in NAMES:
        value = patience_loss(student, teacher, False, distance=name).item()
        same = [(student[rows], teacher[rows]), (student @ rotation, teacher @ rotation)]
        if name in (*OF_DIRECTIONS, "cka"):
            same += [(scale * student, teacher), (student, scale * teacher)]
        if name in ("relation", "cka"):  # which never compare one side's axes with the other's
            same += [(student @ rotation, teacher)]
        for ours, theirs in same:
            assert patience_loss(ours, theirs, False, distance=name).item() == pytest.approx(value, rel=1e-3, abs=1e-5)
    moved = patience_loss(student + 3, teacher - 2, False, distance="cka")  # centred
    assert moved.item() == pytest.approx(patience_loss(student, teacher, False, distance="cka").item(), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    student, teacher = states(0, 5, 2, 4).double().requires_grad_(), states(1, 5, 2, 4).double()
    assert torch.autograd.gradcheck(lambda one: DISTANCES[name](one, teacher), student)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_few_or_equal_rows_give_finite_losses_and_gradients(name: str, rows: int) -> None:
    for student, teacher in [(states(0, rows), states(1, rows)), (torch.ones(rows, 2, 4), torch.ones(rows, 2, 4)),
                             (torch.zeros(rows, 2, 4), states(1, rows, 2, 4))]:  # fmt: skip
        student.requires_grad_()
        loss = patience_loss(student, teacher, distance=name)
        (loss + 0 * student.sum()).backward()
        assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    student, teacher = states(0).bfloat16(), states(1).half()
    loss = patience_loss(student, teacher, distance=name)
    assert loss.dtype == torch.float32
    assert loss.item() == patience_loss(student.float(), teacher.float(), distance=name).item()
    with torch.autocast("cpu", torch.bfloat16):  # in which products of float32 are halved
        mixed = patience_loss(student.float(), teacher.float(), distance=name)
    assert mixed.dtype == torch.float32 and mixed.item() == loss.item()


@pytest.mark.parametrize("form", FORMS)
def test_widths_may_differ_where_rows_are_compared_with_rows(form: str) -> None:
    student, teacher = states(0, width=4), states(1, width=6)
    for name, function in DISTANCES.items():
        if function in ANY_WIDTHS:
            assert patience_loss(student, teacher, form=form, distance=name).isfinite()
        else:
            with pytest.raises(ValueError, match=r"^student_cls is \(7, 3, 4\) but teacher_cls is \(7, 3, 6\)$"):
                patience_loss(student, teacher, form=form, distance=name)
    with pytest.raises(ValueError, match=r"^student_cls is \(7, 2, 4\) but teacher_cls is \(7, 3, 6\)$"):
        patience_loss(student[:, :2], teacher, form=form, distance="relation")
