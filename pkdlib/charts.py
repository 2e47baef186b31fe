"""The charts of results and of speed: a tidy table and an Axes in, the Axes out."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pkdlib.plots import COLORS, OTHER
from pkdlib.statistics import summary


def plot_history(history: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """`metric` by epoch, a line per method: the mean over seeds in a band from the lowest to the highest."""
    for method, runs in history.groupby("method", sort=False):
        by_epoch = runs.groupby("epoch")[metric].agg(["mean", "min", "max"])
        color = COLORS.get(method, OTHER)
        ax.plot(by_epoch.index, by_epoch["mean"], marker="o", markersize=4, color=color, label=method)
        ax.fill_between(by_epoch.index, by_epoch["min"], by_epoch["max"], color=color, alpha=0.15, linewidth=0)
    ax.set(xlabel="epoch", ylabel=metric.replace("_", " "), xticks=sorted(history["epoch"].unique()))
    ax.legend()
    return ax


def plot_comparison(frame: pd.DataFrame, metric: str, ax: Axes, teacher: float | None = None) -> Axes:
    """`metric` of one student size by method: a dot per seed, the mean with its 95 % interval, the teacher's line."""
    for position, row in summary(frame, metric, ["method"]).iterrows():
        values = frame.loc[frame["method"] == row["method"], metric]
        color = COLORS.get(row["method"], OTHER)
        ax.scatter([position - 0.12] * len(values), values, s=14, color=color, alpha=0.5)
        ax.errorbar(position + 0.12, row["mean"], [[row["mean"] - row["low"]], [row["high"] - row["mean"]]],
                    fmt="D", color=color, capsize=4)  # fmt: skip
    methods = list(frame["method"].unique())
    ax.set(xticks=range(len(methods)), xlim=(-0.6, len(methods) - 0.4), ylabel=metric.replace("_", " "))
    ax.set_xticklabels(methods)
    if teacher is not None:
        ax.axhline(teacher, color=COLORS["teacher"], linestyle="--", linewidth=1)
        ax.text(len(methods) - 0.42, teacher, "teacher", ha="right", va="bottom", fontsize=8)
    return ax


def plot_differences(differences: pd.DataFrame, ax: Axes) -> Axes:
    """Paired differences with their 95 % intervals, in percentage points, against the line of no difference."""
    for position, row in differences.reset_index(drop=True).iterrows():
        mean, low, high = (100 * row[name] for name in ("difference", "low", "high"))
        color = COLORS.get(row["method"], OTHER)
        ax.errorbar(mean, position, xerr=[[mean - low], [high - mean]], fmt="D", color=color, capsize=4)
    ax.axvline(0, color="#000000", linewidth=1)
    labels = [f"{row.method} minus {row.baseline}" for row in differences.itertuples()]
    ax.set(yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5), xlabel="difference, percentage points")
    ax.set_yticklabels(labels)
    return ax


def plot_ablation(frame: pd.DataFrame, by: str, metric: str, ax: Axes) -> Axes:
    """`metric` at every value of the column `by`, evenly spaced: a line per method, its mean with 95 % intervals."""
    values = sorted(frame[by].unique())
    methods = list(frame["method"].unique())
    for number, method in enumerate(methods):
        found = summary(frame[frame["method"] == method], metric, [by])
        shift = 0.06 * (number - (len(methods) - 1) / 2)  # so that intervals do not hide each other
        places = [values.index(value) + shift for value in found[by]]
        order = np.argsort(places)
        errors = np.stack([found["mean"] - found["low"], found["high"] - found["mean"]])
        ax.errorbar(np.array(places)[order], found["mean"].to_numpy()[order], errors[:, order], marker="o",
                    markersize=4, capsize=3, color=COLORS.get(method, OTHER), label=method)  # fmt: skip
    ax.set(xticks=range(len(values)), xlabel=by.replace("_", " "), ylabel=metric.replace("_", " "))
    ax.set_xticklabels([f"{value:g}" if isinstance(value, float) else str(value) for value in values])
    ax.legend()
    return ax


def plot_beside_paper(differences: pd.DataFrame, ax: Axes, one_row: float | None = None) -> Axes:
    """Differences to a baseline in percentage points: ours with 95 % intervals, the paper's and the authors' hollow.

    differences: one student size of `differences_beside_paper`; one_row: the worth of one row of our split, 0..1.
    """
    styles = (("paper_test", "o", "the paper, GLUE test"), ("authors_dev", "s", "the authors, dev"))
    for position, row in differences.reset_index(drop=True).iterrows():
        mean, low, high = (100 * row[name] for name in ("difference", "low", "high"))
        color = COLORS.get(row["method"], OTHER)
        ax.errorbar(mean, position - 0.12, xerr=[[mean - low], [high - mean]], fmt="D", color=color, capsize=4)
        for name, marker, _ in styles:
            ax.plot(100 * row[name], position + 0.16, marker, markersize=8, fillstyle="none", color="#000000")
    for (_, marker, label), fill in zip((("", "D", "ours"), *styles), ("full", "none", "none"), strict=True):
        ax.plot([], [], marker, fillstyle=fill, color="#000000", label=label)
    if one_row is not None:
        ax.axvspan(-100 * one_row, 100 * one_row, color="#cccccc", alpha=0.6, linewidth=0, label="one row")
    ax.axvline(0, color="#000000", linewidth=1)
    labels = [f"{row.method} minus {row.baseline}" for row in differences.itertuples()]
    ax.set(yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5), xlabel="difference, percentage points")
    ax.set_yticklabels(labels)
    ax.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)  # markers may be anywhere
    return ax


def plot_latency_accuracy(frame: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """The chart that recurs: `metric` against the time of one batch, the marker's area growing with the parameters.

    frame: columns method, num_hidden_layers, num_parameters, latency_ms and `metric`, a row per marker. Intervals are
    drawn where there are columns latency_low and latency_high (in ms), `metric`_low and `metric`_high.
    """
    frame = frame.sort_values(metric)
    intervals = {
        "xerr": ("latency_ms", "latency_low", "latency_high"),
        "yerr": (metric, f"{metric}_low", f"{metric}_high"),
    }
    bars = {side: names for side, names in intervals.items() if set(names) <= set(frame.columns)}
    largest, labels = frame["num_parameters"].max(), []
    for row in frame.to_dict("records"):
        color, area = COLORS.get(row["method"], OTHER), 300 * row["num_parameters"] / largest
        ax.scatter(row["latency_ms"], row[metric], s=area, color=color, alpha=0.6, linewidth=0)
        errors = {side: [[row[mid] - row[low]], [row[high] - row[mid]]] for side, (mid, low, high) in bars.items()}
        ax.errorbar(row["latency_ms"], row[metric], fmt=".", color=color, linewidth=1, capsize=3, **errors)
        right = np.fmax(row["latency_ms"], row.get("latency_high", row["latency_ms"]))  # of the bar, where there is one
        labels.append((right, row[metric], f"{row['method']}, {row['num_hidden_layers']} layers", color))
    ax.set(xlim=(0, 1.35 * ax.get_xlim()[1]), xlabel="latency of one batch, ms", ylabel=metric.replace("_", " "))
    _label_apart(labels, ax)
    return ax


def _label_apart(labels: Sequence[tuple[float, float, str, str]], ax: Axes, points: float = 12) -> None:
    """Labels (x, y, text, colour) right of their places, from the lowest up, raised where they would cover another."""
    box, size = ax.get_position(), 72 * ax.figure.get_size_inches()
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    taken: list[tuple[float, float, float]] = []  # start, end and height of each label, in points
    for x, y, text, color in labels:
        start = (x - left) / (right - left) * size[0] * box.width
        place = height = (y - low) / (high - low) * size[1] * box.height
        end = start + 5 * len(text)  # about the width of a letter
        for other_start, other_end, other in sorted(taken, key=lambda label: label[2]):
            if start < other_end and other_start < end and abs(height - other) < points:
                height = other + points
        taken.append((start, end, height))
        ax.annotate(
            text, (x, y), (12, height - place), textcoords="offset points", va="center", fontsize=8, color=color
        )


def plot_speedup(speedups: Mapping[str, pd.DataFrame], ax: Axes) -> Axes:
    """Speed-ups by number of layers with 95 % intervals, beside the limit that the layers alone would set.

    speedups: label -> a frame of `pkdlib.speedups`, all of the same models; the labels stand side by side.
    """
    for number, (label, found) in enumerate(speedups.items()):
        layers, shift = found["num_hidden_layers"], 0.2 * (number - (len(speedups) - 1) / 2)
        errors = [found["speedup"] - found["low"], found["high"] - found["speedup"]]
        ax.errorbar(layers + shift, found["speedup"], errors, fmt="D", color=("#0072B2", "#E69F00")[number % 2],
                    capsize=4, label=label)  # fmt: skip
    deepest = (found["limit"] * layers).max()  # the baseline's layers
    curve = np.linspace(layers.min(), layers.max(), 100)
    ax.plot(curve, deepest / curve, color="#000000", linestyle="--", linewidth=1, label="limit: ratio of layers")
    ax.set(xlabel="layers", ylabel="times as fast", xticks=sorted(layers))
    ax.legend()
    return ax


def plot_ratios(figures: pd.DataFrame, labels: Mapping[str, str], ax: Axes) -> Axes:
    """Recorded ratios of time, a bar each: the median, its range over rounds, and a tick where the limit is.

    figures: rows of `pkdlib.benchmark_figures`, of one device; labels: name -> what is compared, in the plot's order.
    """
    found = figures.set_index("name").loc[list(labels)]
    errors = [found["median"] - found["low"], found["high"] - found["median"]]
    places = range(len(found))
    ax.barh(places, found["median"], xerr=errors, height=0.6, color="#56B4E9", capsize=4)
    ax.plot(found["limit"], places, "|", color="#D55E00", markersize=22, markeredgewidth=2, label="limit")
    ax.axvline(1, color="#000000", linewidth=1)
    ax.set(yticks=places, ylim=(len(found) - 0.5, -0.5), xlabel="times as long as this kit")
    ax.set_yticklabels(list(labels.values()))
    ax.legend(loc="lower right", markerscale=0.4, frameon=True)
    return ax
