"""Statistics of scores: intervals, paired differences, corrections for many tests, and what one row is worth."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from pkdlib.engine.configs import ConfigError, pick, whole
from pkdlib.tasks import METRICS

TELLING_ROWS = 6  # k rows that all fall to one side have p = 2 / 2^k, which is below 5 % from here on


def mean_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """(mean, low, high) of the 95 % t interval; low and high are NaN for fewer than two values."""
    values = pd.Series(list(values), dtype=float)
    mean, count = float(values.mean()), len(values)
    half = float(stats.sem(values) * stats.t.ppf(0.975, count - 1)) if count > 1 else math.nan
    return mean, mean - half, mean + half


def summary(frame: pd.DataFrame, metric: str, by: list[str]) -> pd.DataFrame:
    """Mean, 95 % interval and number of runs of `metric` for every group, in the groups' order of appearance."""
    pick("metric", metric, list(frame))
    rows = [(*key, *mean_interval(scores), len(scores)) for key, scores in frame.groupby(by, sort=False)[metric]]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "runs"])


def detectable(error: float, freedom: int) -> float:
    """The least true difference that a t test at 5 % sees in 80 % of repetitions (its power).

    error: the standard error of the mean; freedom: its degrees of freedom. NaN where there are none.
    """
    from statsmodels.stats.power import TTestPower  # here, because it takes a second to import

    if freedom < 1:
        return math.nan
    size = TTestPower().solve_power(nobs=freedom + 1, alpha=0.05, power=0.8)  # in standard deviations
    return float(error * math.sqrt(freedom + 1) * size)


def paired_difference(frame: pd.DataFrame, metric: str, method: str, baseline: str) -> dict[str, Any]:
    """`method` minus `baseline` on equal seeds: mean, 95 % t interval, p (NaN without variance), number of pairs.

    detectable: the difference that so many pairs, as far apart as these, would show with a power of 80 %.
    """
    differences = _differences(frame, metric, method, baseline, ["seed"])
    p = 1.0 if len(differences) > 1 and not differences.any() else math.nan
    if len(differences) > 1 and np.ptp(differences) >= 1e-12:  # else they are the same number of rows, but for rounding
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    mean, low, high = mean_interval(differences)
    row = {"method": method, "baseline": baseline, "difference": mean, "low": low, "high": high, "p": p}
    error = float(stats.sem(differences)) if len(differences) > 1 else math.nan
    return row | {"pairs": len(differences), "detectable": detectable(error, len(differences) - 1)}


def nested_difference(frame: pd.DataFrame, metric: str, method: str, baseline: str) -> dict[str, Any]:
    """`method` minus `baseline` on equal backbones, teachers and seeds, by a mixed model with all three random.

    frame: a row per run, as of `tables.results_frame`: its backbone, teacher, seed, source (of its rows) and method.
    The model is d = mu + B[backbone] + T[backbone, teacher] + S[source, seed] + e, fitted by restricted maximum
    likelihood (statsmodels); S, what a seed does to the students of every backbone alike, is there where backbones
    share rows and seeds. The 95 % interval and p are of a t distribution with one degree of freedom less than
    backbones, as another backbone is what a claim is about. plain_low and plain_high: the interval of all pairs as if
    they were independent. sd_backbone, sd_teacher, sd_seed, sd_rest: the standard deviations of B, T, S and e.

    Raises ValueError with fewer than two backbones, or one without two teachers.
    """
    import statsmodels.formula.api as models  # here, because it takes seconds to import

    same = ["backbone", "teacher", "source", "seed"]
    pairs = _differences(frame, metric, method, baseline, same).reset_index(name="d").astype(dict.fromkeys(same, str))
    teachers = pairs.groupby("backbone")["teacher"].nunique()
    if len(teachers) < 2 or (teachers < 2).any():
        raise ValueError(f"{method}, {baseline}: needs two backbones or more, and two teachers of each")
    pairs["teacher"] = pairs["backbone"] + " " + pairs["teacher"]
    pairs["seed"] = pairs["source"] + " " + pairs["seed"]
    parts = ["backbone", "teacher"] + ["seed"] * int(pairs["seed"].duplicated().any())
    scale = float(pairs["d"].std()) or 1.0  # the optimiser expects numbers near one
    model = models.mixedlm(
        "d ~ 1", pairs.assign(d=pairs["d"] / scale, whole=1), groups="whole",
        vc_formula={part: f"0 + C({part})" for part in parts},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance of zero is a finding, no failure
        methods = ["powell", "nm"]  # gradients mislead where a variance is zero
        fit = model.fit(reml=True, method=methods, xtol=1e-8, ftol=1e-10)
    mean, error = scale * float(fit.params["Intercept"]), scale * float(fit.bse["Intercept"])
    freedom = len(teachers) - 1
    half = error * float(stats.t.ppf(0.975, freedom))
    row = {"method": method, "baseline": baseline, "difference": mean, "low": mean - half, "high": mean + half}
    row |= {"p": float(2 * stats.t.sf(abs(mean) / error, freedom)), "pairs": len(pairs)}
    row |= {"detectable": detectable(error, freedom), "backbones": len(teachers), "teachers": int(teachers.sum())}
    _, row["plain_low"], row["plain_high"] = mean_interval(pairs["d"])
    variances = {"seed": 0.0, **dict(zip(model.exog_vc.names, fit.vcomp, strict=True)), "rest": fit.scale}
    return row | {f"sd_{name}": scale * math.sqrt(max(variance, 0)) for name, variance in variances.items()}


def decide(table: pd.DataFrame) -> pd.DataFrame:
    """The table of differences with Holm's p over all its rows, and what that decides: p_holm below 5 %."""
    adjusted = holm(table["p"])
    return table.assign(p_holm=adjusted, decided=adjusted < 0.05)


def verdict(row: Mapping[str, Any]) -> str:
    """One row of `decide`, scores in 0..1, in words: ahead of, behind, or not decided, with the interval in points."""
    points = {name: 100 * row[name] for name in ("difference", "low", "high", "detectable")}
    interval = "{difference:+z.1f} points [{low:+z.1f}, {high:+z.1f}]".format(**points)
    if not row["decided"]:
        wanting = f"; a difference of {points['detectable']:.1f} would be seen four times in five"
        return f"{row['method']} against {row['baseline']} is not decided: {interval}{wanting}"
    return f"{row['method']} is {'ahead of' if row['difference'] > 0 else 'behind'} {row['baseline']} by {interval}"


def _differences(frame: pd.DataFrame, metric: str, method: str, baseline: str, same: list[str]) -> pd.Series:
    """`method` minus `baseline`, of each value of the columns `same` that both have, in order."""
    pick("metric", metric, list(frame))
    ours, theirs = (frame[frame["method"] == name].set_index(same)[metric] for name in (method, baseline))
    if ours.index.has_duplicates or theirs.index.has_duplicates:
        raise ValueError(f"{method} or {baseline} has a {same[-1]} twice: select one setting first")
    differences = (ours - theirs).dropna().sort_index()
    if differences.empty:
        raise ValueError(f"{method} and {baseline} share no {same[-1]}")
    return differences


def differences_by(
    frame: pd.DataFrame, metric: str, by: str, pairs: Iterable[tuple[str, str]],
    difference: Callable[..., dict[str, Any]] = paired_difference,
) -> pd.DataFrame:  # fmt: skip
    """The difference of every (method, baseline) at every value of the column `by` that has runs of both.

    difference: `paired_difference` or `nested_difference`.
    """
    groups = [(value, runs, pair) for value, runs in frame.groupby(by) for pair in pairs]
    present = [group for group in groups if set(group[2]) <= set(group[1]["method"])]
    return pd.DataFrame({by: value, **difference(runs, metric, *pair)} for value, runs, pair in present)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's adjusted p values: with all below 0.05 believed, the chance of any false one is at most 5 %; NaN stays."""
    p_values = np.array(p_values, dtype=float)
    if p_values.ndim != 1 or (p_values < 0).any() or (p_values > 1).any():
        raise ValueError(f"p_values = {p_values.tolist()}: must be numbers from 0 to 1 in one row, or NaN")
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    scaled = p_values[order] * np.arange(len(order), 0, -1)  # the i-th smallest of m by m - i + 1
    p_values[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return p_values


def bootstrap_interval(labels: ArrayLike, predictions: ArrayLike, metric: str = "accuracy", confidence: float = 0.95,
                       resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:  # fmt: skip
    """(score, low, high) of one run's predictions, class indices (rows,), by the percentiles of draws of the rows."""
    rows = _same_rows(labels, predictions)
    score = pick("metric", metric, METRICS)
    whole("resamples", resamples, 1), whole("seed", seed)
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence = {confidence}: must be between 0 and 1")
    low, high = stats.bootstrap(
        rows, score, paired=True, vectorized=False, n_resamples=resamples, confidence_level=confidence,
        method="percentile", random_state=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return score(*rows), float(low), float(high)


def mcnemar(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> dict[str, float]:
    """McNemar's exact test: rows that each of two predictions alone has right, difference in accuracy, two-sided p.

    Raises ValueError of values, as in regression: none of those is right or wrong.
    """
    labels, first, second = _same_rows(labels, first, second)
    if {"f"} & {one.dtype.kind for one in (labels, first, second)}:
        raise ValueError("labels and predictions: must be of classes: a value is neither right nor wrong")
    only_first = int(((first == labels) & (second != labels)).sum())
    only_second = int(((second == labels) & (first != labels)).sum())
    difference, apart = (only_first - only_second) / len(labels), only_first + only_second
    p = float(stats.binomtest(only_first, apart).pvalue) if apart else 1.0
    return {"only_first": only_first, "only_second": only_second, "difference": difference, "p": p}


def smallest_difference(rows: int) -> float:
    """The least difference in accuracy of two predictions of so many rows that `mcnemar` can find at 5 %."""
    return TELLING_ROWS / whole("rows", rows, 1)


def size_warning(difference: float, rows: int) -> str:
    """Why a split of so many rows is too small for a difference in accuracy (in 0..1; about so for F1), or ""."""
    changed = round(abs(difference) * whole("rows", rows, 1), 6)  # in rows
    if changed < 1:
        return f"less than one row: a row is {100 / rows:.2g} points"
    too_few = f"too few rows: {rows} cannot tell two runs less than {100 * smallest_difference(rows):.2g} points apart"
    return too_few if changed < TELLING_ROWS else ""


def _same_rows(*columns: ArrayLike) -> list[np.ndarray]:
    arrays = [np.asarray(column) for column in columns]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1 or not arrays[0].size:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"labels and predictions: shapes {shapes}: must be (rows,), equal and not empty")
    return arrays
