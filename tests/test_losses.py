"""The objective's terms against numbers worked out by hand, the authors' formulas and what the equations imply."""

import warnings
from dataclasses import asdict
from math import log, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pkdlib import ce_loss, convert_beta, kd_loss, patience_loss, pkd_loss
from pkdlib.losses import LossSettings, PKDTerms, soft_targets
from pkdlib.variants.distances import DISTANCES

FORMS = ("paper", "official")

# At T = 1 the student's probabilities are (1/4, 3/4) in both rows; at T = 2 they are (1/(1+sqrt 3), ...).
STUDENT = torch.tensor([[0.0, log(3)], [5.0, 5.0 + log(3)]])
TEACHER = torch.tensor([[log(4), 0.0], [2.0, 2.0]])  # (4/5, 1/5) and (1/2, 1/2) at T = 1
LABELS = torch.tensor([1, 0])
CE = (-log(3 / 4) - log(1 / 4)) / 2
CROSS_ENTROPY = (-(4 / 5 * log(1 / 4) + 1 / 5 * log(3 / 4)) - (1 / 2 * log(1 / 4) + 1 / 2 * log(3 / 4))) / 2
TEACHER_ENTROPY = (-(4 / 5 * log(4 / 5) + 1 / 5 * log(1 / 5)) + log(2)) / 2

# Two rows, two matched layers, width 2.
STUDENT_CLS = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 2.0], [1.0, 1.0]]])
TEACHER_CLS = torch.tensor([[[0.0, 5.0], [-2.0, 0.0]], [[0.0, 9.0], [1.0, -1.0]]])
RAW_DISTANCES = (9 + 1) + 9, 49 + 4  # of each row, over its layers
UNIT_DISTANCES = (0.6**2 + 0.2**2) + 4, 0 + 2


def random_tensor(*shape: int) -> st.SearchStrategy[Tensor]:
    return st.integers(0, 2**32 - 1).map(lambda seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-5, abs=1e-6)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


# ------------------------------------------------------------------------------------- the terms, by hand
def test_ce_is_the_mean_of_minus_log_probabilities() -> None:
    assert ce_loss(STUDENT, LABELS).item() == close(CE)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 20.0])
@pytest.mark.parametrize("t_squared", [None, False, True])
def test_kd_of_the_paper_is_the_mean_soft_cross_entropy(temperature: float, t_squared: bool | None) -> None:
    loss = kd_loss(STUDENT * temperature, TEACHER * temperature, temperature, "paper", t_squared)
    assert loss.item() == close(CROSS_ENTROPY * (temperature**2 if t_squared else 1))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 20.0])
@pytest.mark.parametrize("t_squared", [None, False, True])
def test_official_kd_is_kl_per_batch_and_class_times_t_squared(temperature: float, t_squared: bool | None) -> None:
    loss = kd_loss(STUDENT * temperature, TEACHER * temperature, temperature, "official", t_squared)
    kl_per_class = (CROSS_ENTROPY - TEACHER_ENTROPY) / 2
    assert loss.item() == close(kl_per_class * (1 if t_squared is False else temperature**2))


def test_soft_targets_by_hand() -> None:
    expected = torch.tensor([[2 / 3, 1 / 3], [1 / 2, 1 / 2]])  # at T = 2 the root of 4 is against 1
    torch.testing.assert_close(soft_targets(TEACHER, 2.0), expected)
    torch.testing.assert_close(soft_targets(STUDENT.half(), 1.0), torch.tensor([[1 / 4, 3 / 4]] * 2), rtol=1e-3, atol=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_soft_targets_need_a_positive_temperature(temperature: float) -> None:
    with pytest.raises(ValueError) as error:
        soft_targets(TEACHER, temperature)
    assert str(error.value) == f"temperature = {temperature}: must be positive"


@pytest.mark.parametrize("form", FORMS)
def test_no_axis_or_mean_is_left_for_torch_to_choose(form: str) -> None:
    """It warns where one is: a later release may choose another."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kd_loss(STUDENT, TEACHER, 2.0, form)


def test_kd_softens_by_the_temperature() -> None:
    student = (1 / (1 + sqrt(3)), sqrt(3) / (1 + sqrt(3)))  # softmax of (0, log 3) / 2
    teacher = (2 / 3, 1 / 3)  # softmax of (log 4, 0) / 2
    expected = -teacher[0] * log(student[0]) - teacher[1] * log(student[1])
    assert kd_loss(STUDENT[:1], TEACHER[:1], temperature=2.0).item() == close(expected)


def test_patience_of_the_paper_sums_over_layers_and_width() -> None:
    assert patience_loss(STUDENT_CLS, TEACHER_CLS).item() == close(sum(UNIT_DISTANCES) / 2)
    assert patience_loss(STUDENT_CLS, TEACHER_CLS, normalize=False).item() == close(sum(RAW_DISTANCES) / 2)


def test_official_patience_averages_over_batch_layers_and_width() -> None:
    assert patience_loss(STUDENT_CLS, TEACHER_CLS, form="official").item() == close(sum(UNIT_DISTANCES) / 8)
    raw = patience_loss(STUDENT_CLS, TEACHER_CLS, normalize=False, form="official")
    assert raw.item() == close(sum(RAW_DISTANCES) / 8)


def test_pkd_weighs_its_terms_by_one_minus_alpha_alpha_and_beta() -> None:
    terms = pkd_loss(STUDENT, LABELS, TEACHER, STUDENT_CLS, TEACHER_CLS, alpha=0.25, beta=0.5, temperature=1.0)
    patience = sum(UNIT_DISTANCES) / 2
    assert [term.item() for term in terms] == [
        close(0.75 * CE + 0.25 * CROSS_ENTROPY + 0.5 * patience),
        close(CE),
        close(CROSS_ENTROPY),
        close(patience),
    ]


def test_pkd_passes_form_normalisation_temperature_and_t_squared_on() -> None:
    options = dict(temperature=2.0, form="official", t_squared=False)
    terms = pkd_loss(STUDENT, LABELS, TEACHER, STUDENT_CLS, TEACHER_CLS, beta=1.0, normalize=False, **options)
    assert torch.equal(terms.loss_kd, kd_loss(STUDENT, TEACHER, **options))
    assert torch.equal(terms.loss_pt, patience_loss(STUDENT_CLS, TEACHER_CLS, normalize=False, form="official"))


def test_terms_without_tensors_are_zero() -> None:
    terms = pkd_loss(STUDENT, LABELS, alpha=0.0)
    assert (terms.loss_kd.item(), terms.loss_pt.item()) == (0.0, 0.0)


def test_terms_without_tensors_lie_where_the_logits_do() -> None:
    terms = pkd_loss(torch.zeros(2, 2, device="meta"), torch.zeros(2, dtype=torch.long, device="meta"), alpha=0.0)
    assert {term.device.type for term in terms} == {"meta"}


# ---------------------------------------------------------------------------------- the authors' formulas
@given(random_tensor(4, 3), random_tensor(4, 3), st.sampled_from([5.0, 10.0, 20.0]))
def test_official_kd_is_the_authors_formula(student: Tensor, teacher: Tensor, temperature: float) -> None:
    # Their KLDivLoss(reduction="mean") is the mean over batch and classes; a later PyTorch is to change what it means.
    pointwise = nn.KLDivLoss(reduction="none")(
        F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    )
    theirs = pointwise.mean() * temperature * temperature
    torch.testing.assert_close(kd_loss(student, teacher, temperature, "official"), theirs)


@given(random_tensor(4, 5, 8), random_tensor(4, 5, 8))
def test_official_patience_is_the_authors_formula(student: Tensor, teacher: Tensor) -> None:
    theirs = F.mse_loss(F.normalize(teacher, p=2, dim=2), F.normalize(student, p=2, dim=2))
    torch.testing.assert_close(patience_loss(student, teacher, form="official"), theirs)
    torch.testing.assert_close(patience_loss(student, teacher, False, "official"), F.mse_loss(student, teacher))


@given(random_tensor(4, 3), random_tensor(4, 3), st.floats(0.5, 20))
def test_official_kd_has_the_paper_s_gradient_times_t_squared_over_classes(
    student: Tensor, teacher: Tensor, temperature: float
) -> None:
    student.requires_grad_()
    paper = gradient(kd_loss(student, teacher, temperature, "paper"), student)
    official = gradient(kd_loss(student, teacher, temperature, "official"), student)
    torch.testing.assert_close(official, paper * temperature**2 / 3, rtol=1e-4, atol=1e-6)


def test_beta_1000_of_the_authors_is_about_a_quarter_on_the_paper_s_scale() -> None:
    assert convert_beta(1000, 5, 768, "official", "paper") == pytest.approx(1000 / 3840)
    assert convert_beta(1000 / 3840, 5, 768, "paper", "official") == pytest.approx(1000)
    assert convert_beta(7.0, 5, 768, "paper", "paper") == convert_beta(7.0, 5, 768, "official", "official") == 7.0


@given(st.floats(0.001, 1e5), st.integers(1, 6), st.integers(1, 9), st.booleans(), st.sampled_from(FORMS), st.data())
def test_a_converted_beta_weighs_the_patience_term_equally(
    beta: float, layers: int, width: int, normalize: bool, source: str, data: st.DataObject
) -> None:
    student, teacher = (data.draw(random_tensor(3, layers, width)) for _ in range(2))
    for target in FORMS:
        converted = convert_beta(beta, layers, width, source, target)
        before = beta * patience_loss(student, teacher, normalize, source)
        torch.testing.assert_close(converted * patience_loss(student, teacher, normalize, target), before)


# ------------------------------------------------------------------- the special cases, bit for bit
def with_gradients(objective: str, form: str = "paper") -> list[Tensor]:
    """Loss and weight gradients of a small two-layer network under one objective."""
    rng = torch.Generator().manual_seed(0)
    inputs, weights = torch.randn(6, 4, generator=rng), torch.randn(2, 4, 4, generator=rng).requires_grad_()
    teacher_logits, teacher_cls = torch.randn(6, 4, generator=rng), torch.randn(6, 1, 4, generator=rng)
    hidden = torch.tanh(inputs @ weights[0])  # (batch, hidden)
    logits, labels = hidden @ weights[1], torch.tensor([0, 1, 2, 3, 0, 1])
    if objective == "CE":
        loss = ce_loss(logits, labels)
    elif objective == "KD":
        loss = 0.5 * ce_loss(logits, labels) + 0.5 * kd_loss(logits, teacher_logits, 5.0, form)
    else:
        alpha = {"alpha = beta = 0": 0.0, "beta = 0": 0.5}[objective]
        terms = pkd_loss(logits, labels, teacher_logits, hidden[:, None], teacher_cls, alpha=alpha, beta=0.0, form=form)
        assert terms.loss_kd > 0
        assert terms.loss_pt > 0
        loss = terms.loss
    return [loss, gradient(loss, weights)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("special", "plain"), [("alpha = beta = 0", "CE"), ("beta = 0", "KD")])
def test_a_zero_weight_leaves_loss_and_gradients_bit_for_bit(special: str, plain: str, form: str) -> None:
    for found, expected in zip(with_gradients(special, form), with_gradients(plain, form), strict=True):
        assert torch.equal(found, expected)


def test_beta_zero_is_the_same_with_and_without_cls_states() -> None:
    without = pkd_loss(STUDENT, LABELS, TEACHER, alpha=0.7, beta=0.0)
    given_them = pkd_loss(STUDENT, LABELS, TEACHER, STUDENT_CLS, TEACHER_CLS, alpha=0.7, beta=0.0)
    assert torch.equal(without.loss, given_them.loss)


@pytest.mark.parametrize("one", [{"student_cls": STUDENT_CLS}, {"teacher_cls": TEACHER_CLS}])
def test_one_side_s_cls_states_alone_change_nothing_with_beta_zero(one: dict[str, Tensor]) -> None:
    alone, without = pkd_loss(STUDENT, LABELS, TEACHER, **one), pkd_loss(STUDENT, LABELS, TEACHER)
    assert all(torch.equal(a, b) for a, b in zip(alone, without, strict=True))
    assert alone.loss_pt.item() == 0


def test_pkd_measures_by_the_distance_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DISTANCES, "excess", lambda student, teacher: (2 * student - teacher).relu())
    options = {"beta": 1.0, "normalize": False, "distance": "excess"}
    terms = pkd_loss(STUDENT, LABELS, TEACHER, STUDENT_CLS, TEACHER_CLS, **options)
    assert terms.loss_pt.item() == close(((6 + 3 + 4) + (1 + 3)) / 2)


def test_the_defaults_are_the_documented_ones() -> None:
    """alpha 0.5, beta 0, T 5 without T^2, the paper's sums of squared distances between directions."""
    assert asdict(LossSettings()) == {
        "temperature": 5.0, "normalize": True, "distance": "squared", "form": "paper", "t_squared": None,
        "weights": None,
    }  # fmt: skip
    terms = pkd_loss(STUDENT, LABELS, TEACHER, STUDENT_CLS, TEACHER_CLS)
    assert terms.loss_kd.item() == close(kd_loss(STUDENT, TEACHER, 5.0).item())
    assert terms.loss_pt.item() == close(sum(UNIT_DISTANCES) / 2)
    assert terms.loss.item() == close(0.5 * CE + 0.5 * terms.loss_kd.item())


# -------------------------------------------------------------------------- what the equations imply
@given(random_tensor(3, 4, 6), random_tensor(3, 4, 6))
def test_normalised_patience_lies_between_0_and_4_per_layer(student: Tensor, teacher: Tensor) -> None:
    assert 0 <= patience_loss(student, teacher) <= 4 * 4 + 1e-5


def test_patience_reaches_its_bounds_at_equal_and_at_opposite_directions() -> None:
    states = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [2.0, 2.0]]])  # (1, 3, 2)
    assert patience_loss(states, 7 * states).item() == close(0)
    assert patience_loss(states, -states).item() == close(4 * 3)


@given(
    random_tensor(3, 4, 6), random_tensor(3, 4, 6), st.floats(0.01, 100), st.floats(0.01, 100), st.sampled_from(FORMS)
)
def test_normalised_patience_ignores_the_states_lengths(
    student: Tensor, teacher: Tensor, student_scale: float, teacher_scale: float, form: str
) -> None:
    scaled = patience_loss(student * student_scale, teacher * teacher_scale, form=form)
    torch.testing.assert_close(scaled, patience_loss(student, teacher, form=form), rtol=1e-4, atol=1e-6)


@given(random_tensor(5, 3), random_tensor(5, 3), st.floats(0.5, 20), st.sampled_from(FORMS))
def test_kd_is_least_at_equal_logits_and_flat_there(
    student: Tensor, teacher: Tensor, temperature: float, form: str
) -> None:
    equal = teacher.clone().requires_grad_()
    least = kd_loss(equal, teacher, temperature, form)
    assert kd_loss(student, teacher, temperature, form) >= least - 1e-5
    torch.testing.assert_close(gradient(least, equal), torch.zeros(5, 3), rtol=0, atol=1e-5)


@given(random_tensor(5, 3), random_tensor(5, 3), random_tensor(5, 1), random_tensor(5, 1), st.sampled_from(FORMS))
def test_a_constant_added_to_a_row_s_logits_changes_nothing(
    student: Tensor, teacher: Tensor, student_shift: Tensor, teacher_shift: Tensor, form: str
) -> None:
    labels = torch.tensor([0, 1, 2, 0, 1])
    plain = pkd_loss(student, labels, teacher, form=form)
    shifted = pkd_loss(student + 10 * student_shift, labels, teacher + 10 * teacher_shift, form=form)
    torch.testing.assert_close(tuple(shifted), tuple(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, form: str) -> None:
    rng = torch.Generator().manual_seed(1)
    logits = [(40 * torch.randn(4, 3, generator=rng)).to(dtype) for _ in range(2)]
    states = [(1000 * torch.randn(4, 2, 8, generator=rng)).to(dtype) for _ in range(2)]  # squares overflow float16
    labels = torch.tensor([0, 1, 2, 0])

    def terms(kind: torch.dtype) -> PKDTerms:
        (student, teacher), (student_cls, teacher_cls) = ([t.to(kind) for t in pair] for pair in (logits, states))
        return pkd_loss(student, labels, teacher, student_cls, teacher_cls, beta=0.1, normalize=False, form=form)

    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms(dtype))
    assert all(torch.equal(half, full) for half, full in zip(terms(dtype), terms(torch.float32), strict=True))


# ----------------------------------------------------------------------------------------------- refusals
def test_differing_shapes_are_refused_with_both() -> None:
    with pytest.raises(ValueError, match=r"student_logits is \(2, 2\) but teacher_logits is \(2, 3\)"):
        kd_loss(STUDENT, torch.zeros(2, 3), 1.0)
    with pytest.raises(ValueError, match=r"student_cls is \(2, 2, 2\) but teacher_cls is \(2, 3, 2\)"):
        patience_loss(STUDENT_CLS, torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match="batch"):
        ce_loss(STUDENT, torch.tensor([0, 1, 1]))


@pytest.mark.parametrize("form", FORMS)
def test_cls_states_of_one_layer_need_their_layer_dimension(form: str) -> None:
    with pytest.raises(ValueError, match=r"student_cls is \(2, 8\): must be \(batch, layers, hidden\)"):
        patience_loss(torch.zeros(2, 8), torch.zeros(2, 8), form=form)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature = {temperature}: must be positive"):
        kd_loss(STUDENT, TEACHER, temperature)


def test_an_unknown_form_is_refused_everywhere() -> None:
    calls = (
        lambda: kd_loss(STUDENT, TEACHER, 1.0, form="sum"),
        lambda: patience_loss(STUDENT_CLS, TEACHER_CLS, form="sum"),
        lambda: pkd_loss(STUDENT, LABELS, TEACHER, form="sum"),
        lambda: convert_beta(1.0, 5, 768, "sum", "paper"),
        lambda: convert_beta(1.0, 5, 768, "paper", "sum"),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"(form|source|target) = 'sum': must be one of paper, official"):
            call()


def test_an_unknown_distance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^distance = 'manhattan': must be one of squared"):
        patience_loss(STUDENT_CLS, TEACHER_CLS, distance="manhattan")


def test_a_weight_without_its_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha = 0\.5: needs teacher_logits"):
        pkd_loss(STUDENT, LABELS)
    for cls in ({}, {"student_cls": STUDENT_CLS}, {"teacher_cls": TEACHER_CLS}):
        with pytest.raises(ValueError, match=r"beta = 0\.3: needs student_cls and teacher_cls"):
            pkd_loss(STUDENT, LABELS, TEACHER, beta=0.3, **cls)
