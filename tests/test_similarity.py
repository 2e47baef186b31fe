"""Centred cosines against hand computation and their invariances, and what is read off them."""

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pkdlib import centered_cosine, map_agreement, most_similar_layers


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


@pytest.mark.parametrize("shape", [(7, 4, 5), (12, 4, 6)], ids=["rows", "width"])
def test_differing_rows_or_widths_are_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as error:
        centered_cosine(torch.zeros(12, 3, 5), torch.zeros(shape))
    assert str(error.value) == f"student_cls is (12, 3, 5) and teacher_cls {shape}: rows and widths must be equal"


# --------------------------------------------------------------------------------------- read off a matrix
SIMILARITY = torch.tensor(  # a student of three layers and a teacher of four; the best: 2, 4, 1
    [[0.1, 0.9, 0.3, 0.2], [0.0, 0.2, 0.5, 0.6], [0.8, 0.1, 0.7, 0.1]]
)


def test_most_similar_layers_are_counted_from_one() -> None:
    assert most_similar_layers(SIMILARITY) == [2, 4, 1]


@pytest.mark.parametrize(
    ("layers", "within", "agreeing"),
    [([2, 4], 0, 2), ([2, 3], 0, 1), ([2, 3], 1, 2), ([1, 2], 1, 1), ([4, 1], 1, 0), ([4, 1], 3, 2), ([], 1, 0)],
)
def test_agreement_counts_matched_layers_near_their_most_similar_one(
    layers: list[int], within: int, agreeing: int
) -> None:
    assert map_agreement(SIMILARITY, layers, within) == agreeing
    if within == 1:
        assert map_agreement(SIMILARITY, layers) == agreeing
