"""Intervals and tests against hand computation and scipy's own; corrections, rows and their warning."""

import math
import warnings
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pkdlib.analysis.statistics import (
    bootstrap_interval,
    decide,
    detectable,
    differences_by,
    holm,
    mcnemar,
    mean_interval,
    nested_difference,
    paired_difference,
    size_warning,
    smallest_difference,
    summary,
    verdict,
)

CLASSES = st.integers(0, 1)
THREE_COLUMNS = st.lists(st.tuples(CLASSES, CLASSES, CLASSES), min_size=1, max_size=40).map(
    lambda rows: zip(*rows, strict=True)
)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def scores(**by_method: dict[int, float]) -> pd.DataFrame:
    """A tidy frame of seed -> score for each method."""
    found = [
        {"method": method, "seed": seed, "dev_accuracy": value}
        for method, values in by_method.items()
        for seed, value in values.items()
    ]
    return pd.DataFrame(found)


# ------------------------------------------------------------------------------------------------ intervals
def test_mean_interval_by_hand() -> None:
    # Mean 3, variance 2.5, so a standard error of sqrt(1/2); t at 97.5 % with 4 degrees of freedom is 2.776445.
    half = 2.776445 * sqrt(0.5)
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((3, 3 - half, 3 + half), rel=1e-6)


def test_mean_interval_is_scipy_s() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.02, 7)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((values.mean(), interval.low, interval.high))


def test_one_value_has_a_mean_and_no_interval() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, low, high = mean_interval([0.7])
    assert mean == 0.7
    assert math.isnan(low)
    assert math.isnan(high)


def test_summary_has_mean_interval_and_runs_of_each_group_in_order_of_appearance() -> None:
    frame = scores(PKD={0: 0.8, 1: 0.9}, KD={0: 0.7})
    table = summary(frame, "dev_accuracy", ["method"])
    assert table["method"].tolist() == ["PKD", "KD"]
    assert table["runs"].tolist() == [2, 1]
    half = 12.7062 * 0.05  # t with one degree of freedom; the standard error of 0.8 and 0.9 is 0.05
    assert table.loc[0, ["mean", "low", "high"]].tolist() == pytest.approx([0.85, 0.85 - half, 0.85 + half], rel=1e-5)
    assert table.loc[1, "mean"] == 0.7
    assert table.loc[1, ["low", "high"]].isna().all()


def test_summary_groups_by_several_columns() -> None:
    frame = scores(KD={0: 0.7, 1: 0.8}).assign(num_hidden_layers=[3, 6])
    table = summary(frame, "dev_accuracy", ["num_hidden_layers", "method"])
    assert table[["num_hidden_layers", "method", "mean"]].values.tolist() == [[3, "KD", 0.7], [6, "KD", 0.8]]


def test_paired_difference_by_hand() -> None:
    # Differences 0.1, 0.2 and 0.3: mean 0.2, standard error 0.1 / sqrt 3; t with 2 degrees of freedom is 4.302653.
    frame = scores(PKD={0: 0.6, 1: 0.8, 2: 1.0}, KD={2: 0.7, 1: 0.6, 0: 0.5})
    half = 4.302653 * 0.1 / sqrt(3)
    found = paired_difference(frame, "dev_accuracy", "PKD", "KD")
    assert found == {
        "method": "PKD",
        "baseline": "KD",
        "difference": pytest.approx(0.2),
        "low": pytest.approx(0.2 - half, rel=1e-6),
        "high": pytest.approx(0.2 + half, rel=1e-6),
        "p": pytest.approx(0.0741799, rel=1e-5),  # t = 2 sqrt 3; with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)
        "pairs": 3,
        "detectable": pytest.approx(0.326404, rel=1e-5),  # see test_detectable_differences_are_seen_four_times_in_five
    }


def test_paired_difference_is_scipy_s_paired_t_interval_whatever_the_rows_order() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.82, 0.02, 8), rng.normal(0.8, 0.02, 8)
    frame = scores(PKD=dict(enumerate(ours)), KD=dict(enumerate(theirs))).sample(frac=1, random_state=0)
    found = paired_difference(frame, "dev_accuracy", "PKD", "KD")
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    expected = ((ours - theirs).mean(), interval.low, interval.high, stats.ttest_rel(ours, theirs).pvalue)
    assert tuple(found[name] for name in ("difference", "low", "high", "p")) == pytest.approx(expected)


def test_paired_difference_takes_shared_seeds_only() -> None:
    frame = scores(PKD={0: 0.6, 1: 0.8, 5: 0.0}, KD={0: 0.5, 1: 0.5, 7: 1.0}, FT={0: 0.1})
    found = paired_difference(frame, "dev_accuracy", "PKD", "KD")
    assert (found["pairs"], found["difference"]) == (2, pytest.approx(0.2))


@pytest.mark.parametrize(("error", "freedom"), [(1.0, 2), (0.5, 4), (0.01, 30)])
def test_detectable_differences_are_seen_four_times_in_five(error: float, freedom: int) -> None:
    # A t test at 5 % of a true difference d is a noncentral t of d / error; its two tails beyond t are the power.
    ratio, bound = detectable(error, freedom) / error, stats.t.ppf(0.975, freedom)
    power = stats.nct.sf(bound, freedom, ratio) + stats.nct.cdf(-bound, freedom, ratio)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(detectable(error, 0))


def nested(
    deviations: tuple[float, float, float], backbones: int = 5, seed: int = 0, shared: float = 0.0
) -> pd.DataFrame:
    """Runs of two methods, 0.05 apart, whose differences vary by backbone, teacher and run so much.

    shared: how much they vary by what runs of equal rows and seed have in common; where it is zero, no rows are shared.
    """
    rng, rows = np.random.default_rng(seed), []
    in_common = np.random.default_rng(seed + 1).normal(0, shared, (3, 4))
    for backbone in range(backbones):
        of_backbone = rng.normal(0, deviations[0])
        for teacher in range(3):
            of_teacher = rng.normal(0, deviations[1])
            for run in range(4):
                source = f"rows {teacher}" if shared else f"rows {backbone}, {teacher}"
                place = {"backbone": backbone, "teacher": teacher, "source": source, "seed": run}
                base = rng.normal(0.8, 0.03)
                above = 0.05 + of_backbone + of_teacher + in_common[teacher, run] + rng.normal(0, deviations[2])
                rows += [place | {"method": "KD", "s": base}, place | {"method": "PKD", "s": base + above}]
    return pd.DataFrame(rows)


def test_a_nested_difference_is_the_t_interval_of_the_backbones_means_where_those_part() -> None:
    frame = nested((0.02, 0.01, 0.01))
    found = nested_difference(frame, "s", "PKD", "KD")
    wide = frame.pivot_table("s", ["backbone", "teacher", "seed"], "method")
    pairs = wide["PKD"] - wide["KD"]
    expected = mean_interval(pairs.groupby("backbone").mean())  # exact for a balanced design
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(expected, abs=1e-5)
    assert (found["plain_low"], found["plain_high"]) == pytest.approx(mean_interval(pairs)[1:])
    assert found["plain_low"] > found["low"] and found["plain_high"] < found["high"]  # too narrow
    of_means = stats.ttest_1samp(pairs.groupby("backbone").mean(), 0)
    assert found["p"] == pytest.approx(of_means.pvalue, rel=1e-3)
    assert (found["pairs"], found["backbones"], found["teachers"]) == (60, 5, 15)
    assert found["detectable"] == pytest.approx(
        detectable((expected[2] - expected[0]) / stats.t.ppf(0.975, 4), 4), rel=1e-3
    )


def test_nested_differences_have_the_deviations_of_their_parts() -> None:
    found = nested_difference(nested((0.03, 0.02, 0.01), backbones=60), "s", "PKD", "KD")
    parts = [found[f"sd_{name}"] for name in ("backbone", "teacher", "rest")]
    assert parts == pytest.approx([0.03, 0.02, 0.01], rel=0.2) and found["sd_seed"] == 0
    assert found["difference"] == pytest.approx(0.05, abs=0.01)


def test_what_a_seed_does_to_all_backbones_alike_widens_the_interval_of_a_nested_difference() -> None:
    """Students from random weights that have no teacher are the same runs with every backbone."""
    found = nested_difference(nested((0.002, 0.002, 0.004), shared=0.03), "s", "PKD", "KD")
    sds = [found[f"sd_{name}"] for name in ("backbone", "teacher", "seed", "rest")]
    error = sqrt(sum(sd**2 / count for sd, count in zip(sds, (5, 15, 12, 60), strict=True)))  # of a balanced design
    half = stats.t.ppf(0.975, 4) * error
    assert found["high"] - found["difference"] == pytest.approx(half, rel=1e-3)
    drawn = np.random.default_rng(1).normal(0, 0.03, 12).std(ddof=1)
    assert sds[2:] == pytest.approx([drawn, 0.004], rel=0.2)
    frame = nested((0.002, 0.002, 0.004), shared=0.03)
    alone = frame.assign(source=frame["source"] + frame["backbone"].astype(str))  # as if no rows were shared
    narrow = nested_difference(alone, "s", "PKD", "KD")
    assert narrow["high"] - narrow["low"] < 0.7 * (found["high"] - found["low"])


def test_teachers_of_equal_names_are_other_teachers_with_another_backbone() -> None:
    frame = nested((0.01, 0.02, 0.01))
    named = frame.assign(teacher=frame["backbone"].astype(str) + "/" + frame["teacher"].astype(str))
    assert nested_difference(frame, "s", "PKD", "KD") == nested_difference(named, "s", "PKD", "KD")


def test_nested_differences_without_any_variance_between_backbones_have_an_interval_too() -> None:
    found = nested_difference(nested((0.0, 0.0, 0.02), seed=1), "s", "PKD", "KD")
    assert found["low"] < 0.05 < found["high"]
    assert found["sd_backbone"] < 0.02


@pytest.mark.parametrize("kept", ["backbone == 0", "teacher == 0"])
def test_nested_differences_need_backbones_and_teachers(kept: str) -> None:
    with pytest.raises(ValueError, match=r"^PKD, KD: needs two backbones or more, and two teachers of each$"):
        nested_difference(nested((0.01, 0.01, 0.01)).query(kept), "s", "PKD", "KD")


def test_what_is_decided_is_decided_over_the_whole_table() -> None:
    table = decide(pd.DataFrame({"difference": [1.0, 2.0, 3.0, 4.0], "p": [0.01, 0.04, 0.03, math.nan]}))
    assert table["p_holm"].tolist()[:3] == pytest.approx([0.03, 0.06, 0.06])  # 0.01 x 3; 0.03 x 2, and no less after it
    assert table["decided"].tolist() == [True, False, False, False]
    assert table["difference"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_verdict_says_what_the_numbers_say() -> None:
    row = {"method": "PKD", "baseline": "KD", "difference": 0.062, "low": 0.03, "high": 0.094, "detectable": 0.041}
    against = row | {"difference": -0.062, "low": -0.094, "high": -0.03}
    assert verdict(row | {"decided": True}) == "PKD is ahead of KD by +6.2 points [+3.0, +9.4]"
    assert verdict(against | {"decided": True}) == "PKD is behind KD by -6.2 points [-9.4, -3.0]"
    assert verdict(row | {"low": -0.01, "decided": False}) == (
        "PKD against KD is not decided: +6.2 points [-1.0, +9.4]; a difference of 4.1 would be seen four times in five"
    )


def test_paired_difference_turns_its_sign_with_its_sides() -> None:
    frame = scores(PKD={0: 0.6, 1: 0.8}, KD={0: 0.5, 1: 0.6})
    there, back = (
        paired_difference(frame, "dev_accuracy", "PKD", "KD"),
        paired_difference(frame, "dev_accuracy", "KD", "PKD"),
    )
    assert (back["difference"], back["low"]) == pytest.approx((-there["difference"], -there["high"]))


def test_one_pair_has_a_difference_and_no_interval() -> None:
    found = paired_difference(scores(PKD={0: 0.6}, KD={0: 0.5}), "dev_accuracy", "PKD", "KD")
    assert found["difference"] == pytest.approx(0.1)
    assert math.isnan(found["low"]) and math.isnan(found["p"])


def test_a_seed_twice_in_a_method_is_refused() -> None:
    frame = pd.concat([scores(PKD={0: 0.6}, KD={0: 0.5}), scores(PKD={0: 0.7})])
    with pytest.raises(ValueError, match="PKD or KD has a seed twice"):
        paired_difference(frame, "dev_accuracy", "PKD", "KD")


def test_a_seed_twice_in_the_baseline_is_refused() -> None:
    frame = pd.concat([scores(PKD={0: 0.6}, KD={0: 0.5}), scores(KD={0: 0.7})])
    with pytest.raises(ValueError, match="PKD or KD has a seed twice: select one setting first"):
        paired_difference(frame, "dev_accuracy", "PKD", "KD")


@pytest.mark.parametrize("frame", [scores(PKD={0: 0.6}, KD={1: 0.5}), scores(PKD={0: 0.6}), scores(FT={0: 0.6})])
def test_methods_without_a_shared_seed_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="PKD and KD share no seed"):
        paired_difference(frame, "dev_accuracy", "PKD", "KD")


def test_differences_by_value_pair_equal_seeds_at_each() -> None:
    frame = pd.DataFrame(
        [
            {"rows": rows, "method": method, "seed": seed, "score": score}
            for rows, method, scores in (
                (500, "KD", (0.50, 0.60)), (500, "FT", (0.40, 0.52)), (100, "FT", (0.3, 0.3)),
                (9000, "KD", (0.9, 0.9)), (9000, "FT", (0.9, 0.8)),
            )
            for seed, score in enumerate(scores)
        ]
    )  # fmt: skip
    found = differences_by(frame, "score", "rows", [("KD", "FT")])
    assert found["rows"].tolist() == [500, 9000]  # at 100 there is no KD
    assert found["difference"].tolist() == pytest.approx([0.09, 0.05])
    assert found["low"].tolist()[0] == pytest.approx(0.09 - 12.7062 * 0.01, abs=1e-4)


def test_nested_differences_by_value() -> None:
    frame = pd.concat([nested((0.02, 0.01, 0.01), seed=seed).assign(start=start) for seed, start in enumerate("ab")])
    found = differences_by(frame, "s", "start", [("PKD", "KD")], nested_difference)
    each = [nested_difference(frame[frame["start"] == start], "s", "PKD", "KD") for start in "ab"]
    assert found.drop(columns="start").to_dict("records") == each


# ----------------------------------------------------------------------------------------- many comparisons
def test_holm_by_hand() -> None:
    # In order 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 are 0.04, 0.06, 0.06, 0.04, and none may fall below the last.
    assert holm([0.03, 0.01, 0.04, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]


def test_holm_does_not_count_what_has_no_test() -> None:
    found = holm([0.01, math.nan, 0.02])
    assert found[[0, 2]].tolist() == pytest.approx([0.02, 0.02])
    assert math.isnan(found[1])
    assert holm([]).tolist() == []


@given(P_VALUES)
def test_holm_keeps_the_order_raises_no_p_above_bonferroni_s_and_lowers_none(p_values: list[float]) -> None:
    found, p_values = holm(p_values), np.array(p_values)
    assert (found >= p_values).all() and (found <= np.minimum(len(p_values) * p_values, 1) + 1e-12).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    # Benjamini and Hochberg's, which guards against less, are never larger.
    assert (stats.false_discovery_control(p_values) <= found + 1e-12).all()


def test_paired_p_of_equal_differences() -> None:
    def paired_p(differences: list[float]) -> float:
        frame = scores(PKD=dict(enumerate(differences)), KD=dict.fromkeys(range(len(differences)), 0.0))
        return paired_difference(frame, "dev_accuracy", "PKD", "KD")["p"]

    assert paired_p([0.0, 0.0, 0.0]) == paired_p([0.0, 0.0]) == 1.0
    assert paired_p([0.1, 0.3]) == pytest.approx(stats.ttest_rel([0.1, 0.3], [0.0, 0.0]).pvalue)
    for without_variance in ([0.5, 0.5], [0.8 - 0.7, 0.4 - 0.3, 0.9 - 0.8], [0.5], [0.0], [0.0, 1e-13]):
        assert math.isnan(paired_p(without_variance))


# --------------------------------------------------------------------------------------------- rows of one run
def test_bootstrap_interval_is_the_binomial_s_for_accuracy() -> None:
    # 80 of 100 right: a drawn split's number right is binomial(100, 0.8), with 2.5 % below 72 and above 87.
    labels, predictions = np.zeros(100, int), np.arange(100) // 80
    score, low, high = bootstrap_interval(labels, predictions, resamples=4000)
    expected = stats.binom(100, 0.8).ppf([0.025, 0.975]) / 100
    assert score == 0.8
    assert (low, high) == pytest.approx(tuple(expected), abs=0.011)
    assert bootstrap_interval(labels, predictions, resamples=4000) == (score, low, high)  # the seed is given


def test_bootstrap_draws_2000_times_from_seed_0_unless_told() -> None:
    labels, predictions = np.arange(97) % 3 == 0, np.arange(97) % 7 < 3  # F1 takes many values, so each draw counts
    found = bootstrap_interval(labels, predictions, "f1")
    assert found == bootstrap_interval(labels, predictions, "f1", 0.95, 2000, 0)
    for other in ({"resamples": 2001}, {"resamples": 9999}, {"seed": 1}, {"confidence": 0.9}):
        assert bootstrap_interval(labels, predictions, "f1", **other)[1:] != found[1:], other
    right = labels == predictions
    rows = np.random.default_rng(1).integers(0, 97, (2000, 97))
    expected = np.percentile(right[rows].mean(axis=1), [2.5, 97.5])
    assert bootstrap_interval(labels, predictions)[1:] == pytest.approx(expected, abs=0.02)


def test_bootstrap_draws_labels_and_predictions_together() -> None:
    labels = np.array([0, 1, 0, 1, 1, 0])
    assert bootstrap_interval(labels, labels, resamples=50) == (1.0, 1.0, 1.0)
    assert bootstrap_interval(labels, 1 - labels, resamples=50) == (0.0, 0.0, 0.0)


def test_bootstrap_of_f1_is_about_f1() -> None:
    labels, predictions = np.tile([1, 1, 0, 0], 25), np.tile([1, 0, 1, 0], 25)
    score, low, high = bootstrap_interval(labels, predictions, "f1", resamples=300)
    assert score == pytest.approx(0.5) and 0.3 < low < 0.5 < high < 0.7
    assert bootstrap_interval([1, 0], [1, 0], "f1", resamples=50)[1] == 0.0  # a draw without a 1 has no F1: 0


@pytest.mark.parametrize("confidence", [0.5, 0.8])
def test_bootstrap_narrows_with_confidence(confidence: float) -> None:
    labels, predictions = np.zeros(50, int), np.arange(50) % 3 == 0
    _, low, high = bootstrap_interval(labels, predictions, resamples=500)
    _, inner_low, inner_high = bootstrap_interval(labels, predictions, confidence=confidence, resamples=500)
    assert low < inner_low < inner_high < high


def test_unequal_rows_and_unknown_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(2,\), \(3,\): must be \(rows,\), equal and not empty"):
        bootstrap_interval([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match=r"metric = 'bleu': must be one of accuracy, f1"):
        bootstrap_interval([0, 1], [0, 1], "bleu")
    with pytest.raises(ValueError, match="not empty"):
        mcnemar([], [], [])
    with pytest.raises(ValueError, match=r"shapes \(1, 2\), \(1, 2\): must be \(rows,\)"):
        bootstrap_interval([[0, 1]], [[0, 1]])


FRAME = scores(KD={0: 0.5})


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: summary(FRAME, "f1", ["seed"]), "metric = 'f1': must be one of method, seed, dev_accuracy"),
        (
            lambda: paired_difference(FRAME, "f1", "KD", "FT"),
            "metric = 'f1': must be one of method, seed, dev_accuracy",
        ),
        (lambda: holm([0.5, 1.1]), "p_values = [0.5, 1.1]: must be numbers from 0 to 1 in one row, or NaN"),
        (lambda: holm([-0.1]), "p_values = [-0.1]: must be numbers from 0 to 1 in one row, or NaN"),
        (lambda: holm([[0.5]]), "p_values = [[0.5]]: must be numbers from 0 to 1 in one row, or NaN"),
        (lambda: bootstrap_interval([0], [0], confidence=0), "confidence = 0: must be between 0 and 1"),
        (lambda: bootstrap_interval([0], [0], confidence=1), "confidence = 1: must be between 0 and 1"),
        (lambda: bootstrap_interval([0], [0], resamples=0), "resamples = 0: must be at least 1"),
        (lambda: bootstrap_interval([0], [0], seed=-1), "seed = -1: must be at least 0"),
        (lambda: smallest_difference(0), "rows = 0: must be at least 1"),
        (lambda: size_warning(0.1, 0), "rows = 0: must be at least 1"),
    ],
)
def test_numbers_that_are_none_of_the_kind_are_refused(call, line: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == line


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # SciPy takes the deviation of a single draw, too
def test_the_ends_of_what_is_allowed_are_allowed() -> None:
    assert holm([0.0, 1.0]).tolist() == [0.0, 1.0]
    assert bootstrap_interval([0, 1], [0, 1], confidence=1e-6, resamples=1, seed=0) == (1.0, 1.0, 1.0)
    assert smallest_difference(1) == 6 and size_warning(1.0, 1).startswith("too few rows: 1 cannot ")


def test_mcnemar_by_hand() -> None:
    # Alone right: the first on 5 rows, the second on 1. Of 6 coins, at most 1 or at least 5: 2 (1 + 6) / 64.
    labels = np.zeros(10, int)
    first, second = np.array([0] * 5 + [1] + [0] * 4), np.array([1] * 5 + [0] + [0] * 4)
    found = mcnemar(labels, first, second)
    assert found == {"only_first": 5, "only_second": 1, "difference": pytest.approx(0.4), "p": pytest.approx(14 / 64)}
    with pytest.raises(ValueError, match="must be of classes: a value is neither right nor wrong"):
        mcnemar(labels, first, second + 0.5)


@given(THREE_COLUMNS)
def test_mcnemar_turns_with_its_sides_and_its_difference_is_that_of_the_accuracies(columns) -> None:
    labels, first, second = map(np.array, columns)
    there, back = mcnemar(labels, first, second), mcnemar(labels, second, first)
    assert there["p"] == pytest.approx(back["p"]) and 0 < there["p"] <= 1
    assert there["difference"] == pytest.approx((first == labels).mean() - (second == labels).mean())
    assert there["difference"] == -back["difference"]
    assert mcnemar(labels, first, first)["p"] == 1.0


@given(st.integers(6, 400))
@settings(max_examples=25)
def test_nothing_smaller_than_the_smallest_difference_is_found_and_it_is(rows: int) -> None:
    least = round(smallest_difference(rows) * rows)
    assert least == 6
    for changed in (least - 1, least):
        first = np.arange(rows) < changed
        found = mcnemar(np.ones(rows, int), np.ones(rows, int), (~first).astype(int))
        assert found["only_first"] == changed
        assert (found["p"] < 0.05) == (changed == least)


def test_the_warning_says_what_a_row_is_worth() -> None:
    assert size_warning(0.003, 277) == "less than one row: a row is 0.36 points"
    assert size_warning(0.001, 65) == "less than one row: a row is 1.5 points"
    assert size_warning(1 / 65, 65) == "too few rows: 65 cannot tell two runs less than 9.2 points apart"
    told = "too few rows: 277 cannot tell two runs less than 2.2 points apart"
    assert size_warning(-0.01, 277) == told
    assert size_warning(5 / 277, 277) == told
    assert size_warning(1 / 277, 277) == told  # one row is one row, whatever the rounding
    assert size_warning(6 / 277, 277) == size_warning(-0.1, 277) == ""
