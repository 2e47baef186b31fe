"""The layer maps of section 3.2: the paper's numbers, what follows from the closed forms, and refusals."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdlib import layer_map
from pkdlib.analysis.widgets import parse_layers

sizes = st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))  # (N, k) with k <= N


@pytest.mark.parametrize(
    ("teacher", "student", "strategy", "expected"),
    [
        (12, 6, "skip", [2, 4, 6, 8, 10]),
        (12, 3, "skip", [4, 8]),
        (24, 6, "skip", [4, 8, 12, 16, 20]),
        (24, 3, "skip", [8, 16]),
        (6, 3, "skip", [2, 4]),
        (12, 6, "last", [7, 8, 9, 10, 11]),
        (12, 3, "last", [10, 11]),
        (24, 6, "last", [19, 20, 21, 22, 23]),
        (24, 3, "last", [22, 23]),
        (6, 3, "last", [4, 5]),
        (12, 3, "reverse", [8, 4]),
        (12, 6, "reverse", [10, 8, 6, 4, 2]),
        (12, 3, "one", [11, 11]),
        (24, 6, "one", [23, 23, 23, 23, 23]),
        (12, 3, [8, 4], [8, 4]),
        (12, 3, [12, 12], [12, 12]),
    ],
)
def test_map_is_the_paper_s(teacher: int, student: int, strategy: str, expected: list[int]) -> None:
    assert layer_map(teacher, student, strategy) == expected


def test_skip_is_the_default() -> None:
    assert layer_map(12, 6) == layer_map(12, 6, "skip")


def test_skip_rounds_down_where_k_does_not_divide_n() -> None:
    assert layer_map(12, 5, "skip") == [2, 4, 7, 9]  # 2.4, 4.8, 7.2, 9.6


@given(sizes, st.sampled_from(["skip", "last"]))
def test_every_student_layer_but_the_last_has_its_own_teacher_layer_in_order(
    size: tuple[int, int], strategy: str
) -> None:
    n, k = size
    layers = layer_map(n, k, strategy)
    assert len(layers) == k - 1
    assert all(a < b for a, b in pairwise(layers))
    assert all(1 <= layer < n for layer in layers)  # below N: the teacher's last layer feeds its classifier


@given(sizes, st.integers(0, 2**32 - 1))
def test_a_random_map_is_of_different_layers_below_the_last_and_follows_from_its_seed(
    size: tuple[int, int], seed: int
) -> None:
    n, k = size
    layers = layer_map(n, k, "random", seed)
    assert layers == layer_map(n, k, "random", seed)
    assert len({*layers}) == k - 1
    assert all(1 <= layer < n for layer in layers)


def test_random_maps_of_many_seeds_are_of_all_layers_and_in_any_order() -> None:
    maps = [layer_map(12, 3, "random", seed) for seed in range(200)]
    assert {layer for layers in maps for layer in layers} == {*range(1, 12)}
    assert 0.3 < sum(a > b for a, b in maps) / len(maps) < 0.7


@given(sizes)
def test_skip_steps_are_n_over_k_rounded_down_or_up(size: tuple[int, int]) -> None:
    n, k = size
    steps = {b - a for a, b in pairwise([0, *layer_map(n, k, "skip")])}
    assert steps <= {n // k, -(-n // k)}


@given(sizes)
def test_skip_takes_every_layer_at_an_equal_step_where_k_divides_n(size: tuple[int, int]) -> None:
    step, k = size
    assert layer_map(step * k, k, "skip") == list(range(step, step * k, step))


@given(sizes)
def test_last_takes_the_k_minus_1_layers_below_the_teacher_s_last(size: tuple[int, int]) -> None:
    n, k = size
    assert layer_map(n, k, "last") == list(range(n - k + 1, n))


@given(sizes)
def test_skip_never_lies_above_last(size: tuple[int, int]) -> None:
    assert all(skip <= last for skip, last in zip(layer_map(*size, "skip"), layer_map(*size, "last"), strict=True))


@given(st.integers(1, 64), st.sampled_from(["skip", "last"]))
def test_a_student_as_deep_as_its_teacher_is_matched_one_to_one(n: int, strategy: str) -> None:
    assert layer_map(n, n, strategy) == list(range(1, n))


@given(st.data())
def test_own_increasing_layers_are_returned_as_a_list(data: st.DataObject) -> None:
    n, k = data.draw(sizes)
    own = sorted(data.draw(st.sets(st.integers(1, n), min_size=k - 1, max_size=k - 1)))
    assert layer_map(n, k, own) == own
    assert layer_map(n, k, tuple(own)) == own


def test_own_layers_may_hold_the_teacher_s_last() -> None:
    assert layer_map(12, 3, [6, 12]) == [6, 12]


@pytest.mark.parametrize(("teacher", "student"), [(12, 0), (12, -1), (12, 13), (0, 1), (0, 0)])
def test_a_student_size_outside_1_to_n_is_refused(teacher: int, student: int) -> None:
    with pytest.raises(ValueError, match=rf"num_student_layers = {student}: .* teacher's {teacher} layers"):
        layer_map(teacher, student)


@pytest.mark.parametrize(("teacher", "student"), [(12, 2.5), (12, 3.0), (12, "3"), (12, None), (12.0, 3), ("12", 3)])
def test_numbers_of_layers_are_whole(teacher: object, student: object) -> None:
    with pytest.raises(ValueError, match=rf"^num_student_layers = {student!r}: .* teacher's {teacher} layers$"):
        layer_map(teacher, student)


@pytest.mark.parametrize(
    ("strategy", "complaint"),
    [
        ("Skip", "strategy = 'Skip': must be one of skip, last, reverse, one, random or a list"),
        ("", "strategy = '': must be one of skip, last, reverse, one, random or a list"),
        (5, "strategy = 5: must be one of skip, last, reverse, one, random or a list"),
        (None, "strategy = None: must be one of skip, last, reverse, one, random or a list"),
        ([4, "8"], "strategy = [4, '8']: teacher layers must be whole numbers"),
        ([4.0, 8.0], "strategy = [4.0, 8.0]: teacher layers must be whole numbers"),
        ([True, 8], "strategy = [True, 8]: teacher layers must be whole numbers"),
        ([4], "strategy = [4]: must be 2 teacher layers"),
        ([4, 8, 12], "strategy = [4, 8, 12]: must be 2 teacher layers"),
        ([0, 8], "strategy = [0, 8]: teacher layers must be whole numbers in 1..12"),
        ([4, 13], "strategy = [4, 13]: teacher layers must be whole numbers in 1..12"),
    ],
)
def test_a_bad_strategy_is_refused_by_name_and_value(strategy: object, complaint: str) -> None:
    with pytest.raises(ValueError) as refusal:
        layer_map(12, 3, strategy)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "layers"), [("2, 4,6", [2, 4, 6]), (" 12 ", [12]), ("", []), ("  ", []), ("2,2", [2, 2])]
)
def test_a_text_names_layers(text: str, layers: list[int]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["2, x", "2;4", "2,,4", "2.5", "-1", ","])
def test_a_text_of_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_layers(text)
    assert str(error.value) == f"strategy = {text!r}: must be teacher layers with commas between them, such as 2, 4, 6"
