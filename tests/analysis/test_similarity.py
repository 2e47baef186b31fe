"""Each metric against hand computation and its invariances, and what is read off a matrix."""

from fractions import Fraction
from math import isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import mini_tokenizer, save_backbone, small_data
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from pkdlib.analysis.similarity import (
    SIMILARITIES,
    centered_cosine,
    checkpoint_cls_states,
    get_similarity,
    linear_cka,
    matched_similarity,
    most_similar_layers,
    nearest_rows,
    principal_components,
    raw_cosine,
    rsa,
    shuffled_baseline,
    split_cls_states,
    usable_similarities,
)
from pkdlib.data import encode_split
from pkdlib.engine.checks import say_once
from pkdlib.models import load_backbone


def states(layers: int) -> st.SearchStrategy[Tensor]:
    """(12 rows, layers, width 5)."""
    seeds = st.integers(0, 2**32 - 1)
    return seeds.map(lambda seed: torch.randn(12, layers, 5, generator=torch.Generator().manual_seed(seed)))


def test_centered_cosine_by_hand() -> None:
    student = torch.tensor([[[4.0, 1.0]], [[2.0, 1.0]]])  # (2 rows, 1 layer, 2), centred: (1, 0) and (-1, 0)
    teacher = torch.tensor(  # (2 rows, 4 layers, 2)
        [
            [[5.0, 7.0], [2.0, 2.0], [0.0, 9.0], [9.0, 3.0]],
            [[5.0, 1.0], [0.0, 0.0], [8.0, 9.0], [3.0, 3.0]],
        ]
    )  # centred: (0, 3) and (0, -3); (1, 1) and (-1, -1); (-4, 0) and (4, 0); (3, 0) and (-3, 0)
    expected = torch.tensor([[0.0, 1 / sqrt(2), -1.0, 1.0]])
    torch.testing.assert_close(centered_cosine(student, teacher), expected)


def test_centered_cosine_is_the_mean_over_rows() -> None:
    student = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[-2.0, 0.0]]])  # its mean state is zero
    teacher = torch.tensor([[[1.0, 0.0]], [[-1.0, 1.0]], [[0.0, -1.0]]])  # and so is this one's
    rows = (1.0, -1 / sqrt(2), 0.0)
    assert centered_cosine(student, teacher).item() == pytest.approx(sum(rows) / 3, rel=1e-6)


def test_centering_takes_off_what_all_rows_share() -> None:
    rng = torch.Generator().manual_seed(0)
    shared = 100 * torch.ones(1, 1, 32)
    student, teacher = (shared + torch.randn(2000, 1, 32, generator=rng) for _ in range(2))
    raw = torch.cosine_similarity(student, teacher, dim=-1).mean()
    assert raw > 0.99
    assert abs(centered_cosine(student, teacher).item()) < 0.02


@given(states(3), states(4))
def test_a_similarity_has_a_row_per_student_layer_and_lies_within_one(student: Tensor, teacher: Tensor) -> None:
    found = centered_cosine(student, teacher)
    assert found.shape == (3, 4)
    assert found.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(centered_cosine(teacher, student), found.T)


@given(states(4))
def test_a_model_s_layers_are_most_similar_to_themselves(model: Tensor) -> None:
    found = centered_cosine(model, model)
    torch.testing.assert_close(found.diagonal(), torch.ones(4))
    assert most_similar_layers(found) == [1, 2, 3, 4]


@given(states(3), states(4), st.lists(st.floats(0.01, 100), min_size=3, max_size=3), states(3))
def test_scaling_or_shifting_a_layer_s_states_changes_nothing(
    student: Tensor, teacher: Tensor, scales: list[float], shift: Tensor
) -> None:
    changed = student * torch.tensor(scales)[:, None] + 10 * shift[:1]  # one factor and one vector per layer
    expected = centered_cosine(student, teacher)
    torch.testing.assert_close(centered_cosine(changed, teacher), expected, rtol=0, atol=5e-3)


@given(states(3), states(4), st.permutations(range(12)))
def test_the_rows_order_does_not_matter_as_long_as_it_is_shared(
    student: Tensor, teacher: Tensor, order: list[int]
) -> None:
    torch.testing.assert_close(centered_cosine(student[order], teacher[order]), centered_cosine(student, teacher))


@pytest.mark.parametrize(
    ("shape", "rule"),
    [((7, 4, 5), "rows must be equal"), ((12, 4, 6), "a cosine needs equal widths; cka and rsa do not")],
    ids=["rows", "width"],
)
def test_differing_rows_or_widths_are_refused_with_both_shapes(shape: tuple[int, ...], rule: str) -> None:
    with pytest.raises(ValueError) as error:
        centered_cosine(torch.zeros(12, 3, 5), torch.zeros(shape))
    assert str(error.value) == f"states are (12, 3, 5) and {shape}: {rule}"


# ------------------------------------------------------------------------------------------- every metric
def noise(rows: int, hidden: int, layers: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(rows, layers, hidden, generator=torch.Generator().manual_seed(seed))


def test_raw_cosine_by_hand() -> None:
    a = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]])  # (2 rows, 1 layer, 2)
    b = torch.tensor([[[1.0, 0.0], [6.0, 8.0]], [[0.0, 5.0], [-2.0, 0.0]]])
    torch.testing.assert_close(raw_cosine(a, b), torch.tensor([[0.3, 0.0]]))  # (0.6 + 0) / 2 and (1 - 1) / 2


def test_cka_by_hand() -> None:
    x = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0])[:, None, None]  # (5 rows, 1 layer, 1), their mean is zero
    y = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0])[:, None, None]
    # Biased: tr(KL) = (x'y)^2 = 4, tr(KK) = 16, tr(LL) = 4.
    assert linear_cka(x, y, debiased=False).item() == pytest.approx(4 / sqrt(16 * 4))
    # Debiased, without diagonals, times n (n - 3): row sums of K are (-1, -1, -1, -1, 0), those of L (-1, -1, 0, 0, 0).
    both = (4 - 2) + 4 * 2 / 12 - 2 * 2 / 3
    x_self, y_self = (16 - 4) + 16 / 12 - 2 * 4 / 3, (4 - 2) + 4 / 12 - 2 * 2 / 3
    assert linear_cka(x, y).item() == pytest.approx(both / sqrt(x_self * y_self))


def test_debiased_cka_is_that_of_the_gram_matrices_definition() -> None:
    x, y = noise(9, 5)[:, 0].double() + 2, noise(9, 4, seed=1)[:, 0].double()

    def hsic(k: Tensor, el: Tensor) -> Tensor:
        n, ones = len(k), torch.ones(len(k), dtype=k.dtype)
        k, el = k - k.diag().diag(), el - el.diag().diag()
        sums = (ones @ k @ ones) * (ones @ el @ ones) / ((n - 1) * (n - 2)) - 2 * (ones @ k @ el @ ones) / (n - 2)
        return (torch.trace(k @ el) + sums) / (n * (n - 3))

    k, el = x @ x.T, y @ y.T  # neither is centred: the estimator does it
    expected = hsic(k, el) / (hsic(k, k) * hsic(el, el)).sqrt()
    assert linear_cka(x[:, None].float(), y[:, None].float()).item() == pytest.approx(expected.item(), abs=1e-5)


def exact_hsic(x: list[list[int]], y: list[list[int]]) -> Fraction:
    """The debiased HSIC of Song et al. in exact arithmetic, from Gram matrices, up to n (n - 3)."""
    n = len(x)
    K, L = (
        [[sum(p * q for p, q in zip(rows[i], rows[j], strict=True)) * (i != j) for j in range(n)] for i in range(n)]
        for rows in (x, y)
    )
    k, l_ = [sum(row) for row in K], [sum(row) for row in L]
    trace = sum(K[i][j] * L[j][i] for i in range(n) for j in range(n))
    both = sum(p * q for p, q in zip(k, l_, strict=True))
    return trace + Fraction(sum(k) * sum(l_), (n - 1) * (n - 2)) - Fraction(2 * both, n - 2)


small_states = st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=5, max_size=5)


@settings(max_examples=300)
@given(x=small_states, y=small_states, shift=st.sampled_from([0, 40]))
def test_debiased_cka_is_nan_where_exact_arithmetic_has_no_value(x: list, y: list, shift: int) -> None:
    a, b = (torch.tensor(rows, dtype=torch.float32)[:, None] + shift for rows in (x, y))
    found = linear_cka(a, b).item()
    square = exact_hsic(x, x) * exact_hsic(y, y)
    if square == 0:
        assert isnan(found)
    else:
        assert found == pytest.approx(float(exact_hsic(x, y)) / sqrt(square), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("rows", [4, 10, 40, 1000])
@pytest.mark.parametrize("noise", [0.0, 3e-7])
def test_all_rows_equal_but_one_cannot_be_compared(rows: int, noise: float, capsys) -> None:
    rng, say = torch.Generator().manual_seed(rows), say_once
    say.cache_clear()
    a, b = (torch.randn(1, 1, 16, generator=rng).expand(rows, 1, 16).clone() for _ in range(2))
    a[rows // 2], b[rows // 2] = torch.randn(2, 1, 16, generator=rng)
    a, b = (states * (1 + noise * torch.randn(states.shape, generator=rng)) for states in (a, b))
    other = torch.randn(rows, 1, 16, generator=rng)
    assert linear_cka(a, b).isnan() and linear_cka(a, other).isnan() and linear_cka(other, b).isnan()
    assert linear_cka(other, other).item() == pytest.approx(1)
    why = "are not finite, or differ between rows by rounding alone or in one row alone"
    assert capsys.readouterr().out == f"CKA: NaN for a layer whose states {why}\n"


@pytest.mark.parametrize("metric", ["cka", "rsa", "centered_cosine"])
@pytest.mark.parametrize("offset", [1.0, 100.0])
def test_rows_that_differ_by_rounding_alone_cannot_be_compared(metric: str, offset: float) -> None:
    rng = torch.Generator().manual_seed(3)
    same = offset + torch.randn(1, 1, 16, generator=rng).expand(40, 1, 16)
    noisy = same * (1 + 2.0**-23 * torch.randint(-1, 2, same.shape, generator=rng))
    other = torch.randn(40, 2, 16, generator=rng)
    for states in (same, noisy):
        assert get_similarity(metric)(torch.cat([other, states], dim=1), other).isnan().tolist() == [
            [False, False], [False, False], [True, True],
        ]  # fmt: skip


def test_sixteen_last_places_of_a_state_are_rounding_and_more_are_not() -> None:
    """Less their mean, the rows are 1 and -1; of a row of 2^19 that is 16 of its last places, 2^-19."""
    rows = torch.tensor([2.0**19, 2.0**19 - 2])[:, None, None]
    assert centered_cosine(rows, rows).item() == 0.5  # the first row counts as none
    assert centered_cosine(rows - 1, rows - 1).item() == 1
    assert centered_cosine(rows + 2, rows + 2).isnan()


def test_cka_far_from_the_origin_by_hand() -> None:
    """As in `test_cka_by_hand`: sqrt(HSIC(K, K)) is 3.27; of rounding it is up to 2^-18 sqrt(5) |c| |X|, |X| is 2."""
    x = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0])[:, None, None]
    y = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0])[:, None, None]
    expected = linear_cka(x, y).item()
    assert linear_cka(x + 2**17, y).item() == linear_cka(y, x - 2**17).item() == pytest.approx(expected)  # 2.24
    assert linear_cka(x + 2**18, y).isnan() and linear_cka(y, x - 2**18).isnan()  # 4.47


def test_a_layer_of_zeros_has_no_cosine_and_a_row_of_zeros_counts_as_nought(capsys) -> None:
    a = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])  # (2 rows, 2 layers, 2)
    b = torch.tensor([[[1.0, 0.0]], [[5.0, 5.0]]])
    say_once.cache_clear()
    assert raw_cosine(b, b).item() == pytest.approx(1) and capsys.readouterr().out == ""
    expected = torch.tensor([[float("nan")], [0.3]])  # (0.6 + 0) / 2
    torch.testing.assert_close(raw_cosine(a, b), expected, equal_nan=True)
    torch.testing.assert_close(raw_cosine(b, a), expected.T, equal_nan=True)
    assert capsys.readouterr().out.startswith("cosine: NaN for a layer whose states ")


@pytest.mark.parametrize("metric", SIMILARITIES)
def test_a_layer_s_size_says_nothing_of_another_layer(metric: str) -> None:
    x = noise(10, 4, layers=2)
    found = get_similarity(metric)(torch.cat([x, 1e7 * x], dim=1), x)
    torch.testing.assert_close(found, get_similarity(metric)(x, x).repeat(2, 1))


def test_two_groups_of_equal_rows_can_be_compared() -> None:
    one, two = torch.eye(2)
    states = torch.stack([one, one, one, two, two, two])[:, None]
    for metric in ("cka", "rsa", "centered_cosine"):
        assert get_similarity(metric)(states, states).item() == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_compared_is_most_similar_to_none() -> None:
    similarity = torch.tensor([[0.1, float("nan"), 0.3], [float("nan")] * 3, [-0.5, -0.2, float("nan")]])
    assert most_similar_layers(similarity) == [3, 0, 2]


def test_only_the_debiased_cka_of_independent_noise_is_near_zero() -> None:
    a, b = noise(277, 768), noise(277, 768, seed=1)
    assert linear_cka(a, b, debiased=False).item() == pytest.approx(0.73, abs=0.02)
    assert abs(linear_cka(a, b).item()) < 0.02


@pytest.mark.parametrize(("spearman", "correlation"), [(True, spearmanr), (False, pearsonr)])
def test_rsa_is_scipys_correlation_of_the_upper_triangles(spearman: bool, correlation) -> None:
    a, b = noise(10, 5), noise(10, 3, seed=1)
    triangles = []
    for states in (a[:, 0].double().numpy(), b[:, 0].double().numpy()):
        lengths = np.linalg.norm(states, axis=1)
        distances = 1 - states @ states.T / np.outer(lengths, lengths)
        triangles.append([distances[i, j] for i in range(10) for j in range(i + 1, 10)])
    assert rsa(a, b, spearman).item() == pytest.approx(correlation(*triangles).statistic, abs=1e-5)


def test_rsa_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0]])[:, None]  # distances of rows 12, 13, 23 rank 1, 3, 2
    y = torch.tensor([[2.0, 0.0], [1.0, 2.0], [0.0, 3.0]])[:, None]  # and 2, 3, 1
    assert rsa(x, y).item() == pytest.approx(1 - 6 * 2 / (3 * 8))
    near = torch.tensor([[1.0, 0.0], [1.0, 3e-4], [1.0, 1e-4]])[:, None]  # ranks 3, 1, 2, of angles below 1e-3
    assert rsa(near, y).item() == pytest.approx(1 - 6 * 6 / (3 * 8))


@pytest.mark.parametrize("spearman", [True, False])
def test_rsa_of_rows_that_are_all_as_far_apart_is_nan(spearman: bool) -> None:
    even = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])[:, None]  # all distances are 1/2
    turned = even.double() @ torch.linalg.qr(noise(3, 3)[:, 0].double())[0]  # which rounds them differently
    assert rsa(even, noise(3, 4), spearman).isnan() and rsa(noise(3, 4), turned, spearman).isnan()


@pytest.mark.parametrize(("texts", "times"), [(4, 5), (5, 3)])
def test_rsa_of_equal_distances_has_equal_ranks(texts: int, times: int) -> None:
    """Each text stands there several times; SciPy's distances are equal but for rounding, here taken off."""
    a, b = noise(texts, 32).repeat(times, 1, 1), noise(texts * times, 32, seed=1)
    distances = [pdist(states[:, 0].double().numpy(), "cosine").round(12) for states in (a, b)]
    assert rsa(a, b).item() == pytest.approx(spearmanr(*distances).statistic, abs=1e-6)


@pytest.mark.parametrize("metric", SIMILARITIES)
@given(a=states(3), b=states(4))
def test_swapping_sides_transposes_and_self_similarity_is_one(metric: str, a: Tensor, b: Tensor) -> None:
    similarity = get_similarity(metric)
    found = similarity(a, b)
    assert (found.shape, found.dtype) == ((3, 4), torch.float32)
    torch.testing.assert_close(similarity(b, a), found.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(similarity(a, a).diagonal(), torch.ones(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("metric", ["cka", "rsa"])
@given(a=states(2), b=states(3), turn=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 100))
def test_rotation_and_scale_of_one_side_change_nothing(
    metric: str, a: Tensor, b: Tensor, turn: int, scale: float
) -> None:
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(turn)))
    similarity = get_similarity(metric)
    torch.testing.assert_close(similarity(scale * a @ rotation, b), similarity(a, b), rtol=0, atol=2e-3)


def test_a_rotation_changes_the_cosine_and_not_cka() -> None:
    """A student that does its teacher's work along other axes is unlike it to a cosine, and the same to CKA."""
    x = noise(500, 64)
    right_angle = torch.eye(64)[torch.arange(64) ^ 1] * torch.tensor([1.0, -1.0]).repeat(32)  # in each pair of axes
    for name, expected in (("cosine", 0.0), ("centered_cosine", 0.0), ("cka", 1.0), ("rsa", 1.0)):
        assert get_similarity(name)(x, x @ right_angle).item() == pytest.approx(expected, abs=1e-5), name
    any_turn, _ = torch.linalg.qr(noise(64, 64)[:, 0])
    assert abs(centered_cosine(x, x @ any_turn).item()) < 0.1
    turned_back = x @ any_turn @ any_turn.T
    assert centered_cosine(x, turned_back).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("metric", ["cka", "rsa"])
def test_widths_may_differ_where_no_cosine_is_taken(metric: str) -> None:
    x = noise(40, 6)
    wider = torch.cat([x, torch.zeros(40, 1, 3)], dim=-1)  # the same geometry in more dimensions
    assert get_similarity(metric)(x, wider).item() == pytest.approx(1, abs=1e-5)
    assert usable_similarities(x, wider) == ["cka", "rsa"]
    assert usable_similarities(x, x) == list(SIMILARITIES)


@pytest.mark.parametrize("metric", ["centered_cosine", "cka", "rsa"])
def test_shuffled_pairs_of_equal_states_are_near_zero_and_repeatable(metric: str) -> None:
    x = noise(300, 8, layers=2)
    found = shuffled_baseline(metric, x, x, seed=3)
    assert get_similarity(metric)(x, x).diagonal().min() > 0.999
    assert found.abs().max() < 0.1
    assert torch.equal(found, shuffled_baseline(metric, x, x, seed=3))
    assert not torch.equal(found, shuffled_baseline(metric, x, x, seed=4))


def test_shuffling_moves_the_second_model_s_rows_by_seed_0_unless_told() -> None:
    a, b = noise(30, 4, layers=2), noise(30, 4, layers=3, seed=1)
    found = shuffled_baseline("cosine", a, b)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, raw_cosine(a, b[order]))
    assert found.shape == (2, 3)


# ------------------------------------------------------------------------------------------ a model's states
def test_a_model_s_states_are_those_of_its_own_passes(tmp_path: Path) -> None:
    """160 rows, in two passes of at most 128; longest rows go first, and every row's states stay in its place."""
    folder, rows = save_backbone(tmp_path / "model"), small_data(train=160).splits["train"]
    split = encode_split(rows, mini_tokenizer(), 16)
    model = load_backbone(folder)
    passes: list[int] = []
    hook = model.register_forward_hook(lambda _module, _inputs, output: passes.append(len(output[0])))
    found = split_cls_states(model, split)
    hook.remove()
    assert sorted(passes) == [32, 128]
    assert (found.shape, found.dtype) == ((160, 4, 32), torch.float32)
    for row in (0, 77, 159):
        batch = split[[row]]
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        with torch.no_grad():
            alone = model(**inputs, output_hidden_states=True).hidden_states
        expected = torch.stack([states[0, 0] for states in alone[1:]])
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(checkpoint_cls_states(folder, rows, 16), found)


def test_shuffled_pairs_show_the_direction_that_raw_cosines_see_everywhere() -> None:
    assert shuffled_baseline("cosine", 10 + noise(50, 8), 10 + noise(50, 8)).item() > 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_similarity("ckaa"), "metric = 'ckaa': must be one of centered_cosine, cosine, cka, rsa"),
        (
            lambda: raw_cosine(noise(5, 4), noise(5, 6)),
            "states are (5, 1, 4) and (5, 1, 6): a cosine needs equal widths; cka and rsa do not",
        ),
        (lambda: rsa(noise(5, 4), noise(6, 4)), "states are (5, 1, 4) and (6, 1, 4): rows must be equal"),
        (
            lambda: rsa(noise(5, 4)[:, 0], noise(5, 4)),
            "states are (5, 4) and (5, 1, 4): must be (rows, layers, hidden)",
        ),
        (
            lambda: linear_cka(noise(3, 4), noise(3, 2)),
            "states are (3, 1, 4) and (3, 1, 2): at least 4 rows are needed",
        ),
    ],
    ids=["name", "widths", "rows", "dimensions", "few rows"],
)
def test_what_cannot_be_compared_is_refused_with_one_line(call, message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("metric", "least"),
    [
        (raw_cosine, 1),
        (centered_cosine, 2),
        (linear_cka, 4),
        (lambda a, b: linear_cka(a, b, debiased=False), 2),
        (rsa, 3),
        (lambda a, b: rsa(a, b, spearman=False), 3),
    ],
    ids=["cosine", "centered", "cka", "biased cka", "rsa", "pearson"],
)
def test_each_metric_takes_as_few_rows_as_it_can(metric, least: int) -> None:
    assert metric(noise(least, 4), noise(least, 4, seed=1)).isfinite().all()
    with pytest.raises(ValueError, match=f": at least {least} rows are needed$"):
        metric(noise(least - 1, 4), noise(least - 1, 4, seed=1))


def test_cka_knows_no_scale_however_far_apart() -> None:
    a, b = noise(20, 5), noise(20, 5, seed=1)
    for scale in (1e-15, 1e15):
        torch.testing.assert_close(linear_cka(scale * a, b), linear_cka(a, b), rtol=0, atol=1e-5)
        torch.testing.assert_close(linear_cka(scale * a, a / scale), torch.ones(1, 1), rtol=0, atol=1e-5)


def test_principal_components_of_points_on_a_line() -> None:
    points, shares = principal_components(torch.tensor([[3.0, 4.0], [0.0, 0.0], [-3.0, -4.0]]))
    assert points.shape == (3, 2)
    np.testing.assert_allclose(abs(points), [[5, 0], [0, 0], [5, 0]], atol=1e-5)
    np.testing.assert_allclose(shares, [1, 0], atol=1e-6)
    wide = noise(600, 100)[:, 0]  # scikit-learn would estimate these by random draws
    variances = torch.linalg.svdvals((wide - wide.mean(dim=0)).double()).square()
    np.testing.assert_allclose(principal_components(wide)[1], variances[:2] / variances.sum(), rtol=1e-5)
    points, shares = principal_components(noise(9, 5)[:, 0])
    assert points.shape == (9, 2) and shares.shape == (2,)
    assert points.var(axis=0, ddof=1) / noise(9, 5).numpy().var(axis=0, ddof=1).sum() == pytest.approx(shares, rel=1e-4)


@pytest.mark.parametrize(
    "states",
    [torch.zeros(5), torch.zeros(1, 5), torch.zeros(5, 1), torch.zeros(3, 4, 5), torch.eye(3) / torch.eye(3)],
    ids=["one dimension", "one row", "width 1", "layers", "not finite"],
)
def test_states_without_two_principal_axes_are_refused(states: Tensor) -> None:
    with pytest.raises(ValueError) as error:
        principal_components(states)
    line = f"states are {tuple(states.shape)}: must be (rows, hidden), at least (2, 2), and finite"
    assert str(error.value) == line
    assert principal_components(torch.eye(2))[0].shape == (2, 2)


# --------------------------------------------------------------------------------------- read off a matrix
SIMILARITY = torch.tensor(  # a student of three layers and a teacher of four; the best: 2, 4, 1
    [[0.1, 0.9, 0.3, 0.2], [0.0, 0.2, 0.5, 0.6], [0.8, 0.1, 0.7, 0.1]]
)


def test_most_similar_layers_are_counted_from_one() -> None:
    assert most_similar_layers(SIMILARITY) == [2, 4, 1]


def test_matched_similarity_follows_the_map() -> None:
    assert matched_similarity(SIMILARITY, [2, 4]) == pytest.approx([0.9, 0.6])
    assert matched_similarity(SIMILARITY, []) == []


# --------------------------------------------------------------------------------------------- neighbours
def test_nearest_rows_by_hand() -> None:
    points = torch.tensor([[13.0, 10.0], [10.0, 15.0], [12.0, 12.0], [4.0, 10.0], [11.0, 3.0]])
    assert points.mean(dim=0).tolist() == [10, 10]  # centred: (3, 0), (0, 5), (2, 2), (-6, 0), (1, -7)
    # Cosines with row 0: 0, 0.707, -1, 0.141.
    assert nearest_rows(points, 0, count=4) == [2, 4, 1, 3]
    assert nearest_rows(points, 0, count=2) == [2, 4]
    assert nearest_rows(points, 3, count=1) == [1]  # 0 there, below zero for the others


def test_nearest_rows_leave_out_the_row_and_end_with_the_rows() -> None:
    points = noise(9, 4)[:, 0]
    for row in range(9):
        assert sorted([row, *nearest_rows(points, row, count=20)]) == list(range(9))


def test_nearest_rows_are_those_of_scikit_learn_s_cosine_of_centred_states() -> None:
    points = noise(40, 3)[:, 0] * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([5.0, -3.0, 0.5])
    cosines = cosine_similarity((points - points.mean(dim=0)).numpy())
    for row in (0, 17, 39):
        expected = sorted((other for other in range(40) if other != row), key=lambda other: -cosines[row, other])
        assert nearest_rows(points, row, count=39) == expected


@pytest.mark.parametrize(("row", "count"), [(-1, 5), (9, 5), (0, 0), (0, -1)])
def test_a_row_that_is_none_or_a_count_below_one_is_refused(row: int, count: int) -> None:
    with pytest.raises(ValueError) as error:
        nearest_rows(noise(9, 4)[:, 0], row, count)
    assert str(error.value) == f"{row = }, {count = }: must be a row, at least 1; states (rows, hidden) (9, 4)"


def test_neighbours_are_five_of_states_of_two_dimensions() -> None:
    points = noise(9, 4)[:, 0]
    for row in (0, 8):
        assert len(nearest_rows(points, row)) == 5 and len(nearest_rows(points, row, 1)) == 1
    with pytest.raises(ValueError, match=r"states \(rows, hidden\) \(9, 1, 4\)$"):
        nearest_rows(noise(9, 4), 0)


def test_equal_rows_come_first_and_in_order() -> None:
    points = torch.tensor([[0.0, 1.0], [5.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert nearest_rows(points, 2) == [0, 3, 1]
    many = torch.tensor([[0.0, 1.0], [5.0, 0.0]] * 300)
    assert nearest_rows(many, 2, count=299) == [row for row in range(0, 600, 2) if row != 2]


@given(states(1), st.integers(0, 11))
def test_neither_shift_nor_scale_changes_the_neighbours(points: Tensor, row: int) -> None:
    points = points[:, 0].double()
    assert nearest_rows(8 * points + 4, row) == nearest_rows(points, row)


# ------------------------------------------------------------------------------------ beside independent libraries
def unbiased_hsic(k: np.ndarray, other: np.ndarray) -> float:
    """Song et al. (2012), equation 4, from the matrices themselves."""
    n = len(k)
    k, other = k - np.diag(k.diagonal()), other - np.diag(other.diagonal())
    means = k.sum() * other.sum() / ((n - 1) * (n - 2)) - 2 * (k @ other).sum() / (n - 2)
    return (np.trace(k @ other) + means) / (n * (n - 3))


def test_every_metric_agrees_with_an_independent_computation_to_a_millionth() -> None:
    """277 rows, as RTE's dev split has, of BERT-base's width; the second model half a copy of the first."""
    a = noise(277, 768) + 3  # with a direction that all rows share
    b = 0.5 * a + noise(277, 768, seed=1)
    x, y = (states[:, 0].double().numpy() for states in (a, b))
    expected = {
        "cosine": cosine_similarity(x, y).diagonal().mean(),
        "centered_cosine": cosine_similarity(x - x.mean(0), y - y.mean(0)).diagonal().mean(),
        "rsa": spearmanr(pdist(x, "cosine"), pdist(y, "cosine")).statistic,
        "cka": unbiased_hsic(x @ x.T, y @ y.T)
        / np.sqrt(unbiased_hsic(x @ x.T, x @ x.T) * unbiased_hsic(y @ y.T, y @ y.T)),
    }
    assert expected.keys() == SIMILARITIES.keys()
    for metric, value in expected.items():
        assert get_similarity(metric)(a, b).item() == pytest.approx(value, abs=1e-6), metric
    assert linear_cka(a, a).item() == pytest.approx(1, abs=1e-6)
