"""Every figure: data and an Axes in, the Axes out; in colours that all readers can tell apart.

In this order: the method and its losses, hidden states, scores, differences, speed.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from pkdlib.analysis.statistics import mean_interval
from pkdlib.losses import PKDTerms

STYLE = Path(__file__).with_name("pkd.mplstyle")
COLORS = {"teacher": "#000000", "FT": "#7f7f7f", "KD": "#E69F00", "PKD-Skip": "#0072B2", "PKD-Last": "#D55E00"}
OTHER = "#009E73"  # own layer maps


def use_style() -> None:
    """Give all figures of the session the kit's look."""
    plt.style.use(STYLE)


def plot_layer_map(
    num_teacher_layers: int, num_student_layers: int, layers: Sequence[int], ax: Axes, color: str = COLORS["PKD-Skip"]
) -> Axes:
    """Teacher and student as columns of layers, an arrow from each matched student layer to its teacher layer."""
    matched = range(1, len(layers) + 1)
    columns = {"student": (num_student_layers, matched), "teacher": (num_teacher_layers, layers)}
    for x, (name, (count, marked)) in enumerate(columns.items()):
        for layer in range(1, count + 1):
            face = "#56B4E9" if layer in marked else "#eeeeee"
            ax.add_patch(Rectangle((x - 0.2, layer - 0.4), 0.4, 0.8, facecolor=face, edgecolor="#444444"))
            ax.text(x, layer, layer, ha="center", va="center", fontsize=8)
        ax.text(x, count + 0.9, name, ha="center")
    for student, teacher in zip(matched, layers, strict=True):
        ax.annotate("", (0.8, teacher), (0.2, student), arrowprops={"arrowstyle": "->", "color": color})
    ax.set(xlim=(-0.5, 1.5), ylim=(0.3, num_teacher_layers + 1.5))
    ax.axis("off")
    return ax


def plot_distillation(num_teacher_layers: int, num_student_layers: int, layers: Sequence[int], ax: Axes) -> Axes:
    """The whole of PKD: the layer map, and above it the predictions and the labels, with the loss of each arrow."""
    plot_layer_map(num_teacher_layers, num_student_layers, layers, ax)
    teacher, student = num_teacher_layers + 2.6, num_student_layers + 2.6  # heights of the predictions
    box = {"boxstyle": "round", "facecolor": "#f5e9d0", "edgecolor": "#444444"}
    for x, y, text in ((0, student, "prediction"), (1, teacher, "prediction"), (-0.75, student, "label")):
        ax.text(x, y, text, ha="center", va="center", bbox=box)
    for start, end, method, text, side in (
        ((0.8, teacher), (0.2, student + 0.2), "KD", "$L_{DS}$: softened predictions", "right"),
        ((-0.6, student), (-0.2, student), "FT", "$L_{CE}$", "center"),
    ):
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": COLORS[method], "linewidth": 2})
        x, y = np.mean([start, end], axis=0)
        ax.text(x, y + 0.5, text, ha=side, va="bottom", color=COLORS[method])
    if layers:
        ax.text(0.5, 0.2, "$L_{PT}$: [CLS] states", color=COLORS["PKD-Skip"], ha="center", va="top")
    ax.set(xlim=(-1, 1.5), ylim=(-0.8, num_teacher_layers + 3.6))
    return ax


def plot_soft_targets(teacher: Tensor, student: Tensor, ax: Axes, label_names: Sequence[str] = ()) -> Axes:
    """Two probabilities (classes,) side by side, a pair of bars per class."""
    positions = np.arange(len(teacher))
    for shift, values, name, method in ((-0.2, teacher, "teacher", "teacher"), (0.2, student, "student", "PKD-Skip")):
        bars = ax.bar(positions + shift, np.asarray(values), width=0.36, color=COLORS[method], label=name)
        ax.bar_label(bars, fmt="%.2f", fontsize=8)
    names = label_names or [f"class {position}" for position in positions]
    ax.set(xticks=positions, xticklabels=names, ylim=(0, 1.15), yticks=np.linspace(0, 1, 6), ylabel="probability")
    ax.legend(ncols=2, loc="upper center", fontsize=8)
    return ax


def plot_terms(terms: PKDTerms, alpha: float, beta: float, ax: Axes) -> Axes:
    """The three weighted terms of the objective and their sum, a bar each."""
    bars = {
        r"$(1 - \alpha)\, L_{CE}$": ((1 - alpha) * terms.loss_ce, "FT"),
        r"$\alpha\, L_{DS}$": (alpha * terms.loss_kd, "KD"),
        r"$\beta\, L_{PT}$": (beta * terms.loss_pt, "PKD-Skip"),
        "$L_{PKD}$": (terms.loss, "teacher"),
    }
    heights = [float(value) for value, _ in bars.values()]
    drawn = ax.bar(list(bars), heights, color=[COLORS[method] for _, method in bars.values()])
    ax.bar_label(drawn, fmt="%.3g", fontsize=8)
    ax.margins(y=0.1)
    ax.set(ylabel="loss")
    return ax


def plot_similarity(
    similarity: Tensor | np.ndarray,
    ax: Axes,
    layers: Sequence[int] = (),
    title: str = "",
    colorbar: bool = True,
    chosen: int | None = None,
) -> Axes:
    """A student x teacher heatmap on a fixed 0-1 scale; the layer map outlined, each row's maximum marked by a dot.

    chosen: a student layer (from 1) whose row is framed.
    """
    matrix = np.asarray(similarity)
    rows, columns = matrix.shape
    sns.heatmap(matrix, ax=ax, vmin=0, vmax=1, cmap="cividis", cbar=colorbar, square=True,
                xticklabels=range(1, columns + 1), yticklabels=range(1, rows + 1))  # fmt: skip
    for row, layer in enumerate(layers):
        ax.add_patch(Rectangle((layer - 1, row), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2))
    if chosen is not None:  # not clipped: half of the frame's line lies outside
        frame = Rectangle((0, chosen - 1), columns, 1, fill=False, edgecolor="#D55E00", linewidth=3)
        ax.add_patch(frame).set_clip_on(False)
    ax.scatter(matrix.argmax(axis=1) + 0.5, np.arange(rows) + 0.5, s=12, color="#ffffff", edgecolor="#000000")
    ax.set(xlabel="teacher layer", ylabel="student layer", title=title)
    ax.tick_params(axis="y", rotation=0)
    return ax


def plot_matched_layers(matched: pd.DataFrame, ax: Axes) -> Axes:
    """`similarity` by student `layer`, a line per method with a band over seeds; the `baseline`s' range in grey.

    matched: columns method, seed, layer, similarity and baseline, one student size and one layer map.
    """
    noise = matched.groupby("layer")["baseline"].agg(["min", "max"])
    ax.fill_between(noise.index, noise["min"], noise["max"], color="#999999", alpha=0.6, label="shuffled pairs")
    _plot_means(matched, "layer", "similarity", ax, **BANDS)
    ax.axhline(0, color="#000000", linewidth=0.5)
    ax.set(xlabel="student layer", ylim=(min(-0.1, noise["min"].min()), 1.05), xticks=noise.index)
    ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8)  # lines may be anywhere
    return ax


def plot_points(
    points: np.ndarray, labels: np.ndarray | None, label_names: Sequence[str], ax: Axes, shares: Sequence[float] = ()
) -> Axes:
    """Points (rows, 2) coloured by label, or in one colour where there are none; the axes' shares of the variance."""
    classes = [(0, "no labels")] if labels is None else list(enumerate(label_names))
    labels = np.zeros(len(points), dtype=int) if labels is None else labels
    for (index, name), color in zip(classes, ("#0072B2", "#D55E00", "#009E73"), strict=False):
        ax.scatter(*points[labels == index].T, s=8, alpha=0.5, linewidth=0, color=color, label=name)
    _name_axes(ax, shares)
    ax.legend(markerscale=2)
    return ax


def plot_neighbours(points: np.ndarray, row: int, nearest: Sequence[int], ax: Axes, shares: Sequence[float]) -> Axes:
    """Points (rows, 2), the chosen row and its nearest ones marked; the axes' shares of the variance."""
    ax.scatter(*points.T, s=8, color="#bbbbbb", linewidth=0, label="all rows")
    ax.scatter(*points[list(nearest)].T, s=36, color=COLORS["PKD-Skip"], edgecolor="#000000", label="nearest")
    ax.scatter(*points[row], s=120, marker="*", color=COLORS["KD"], edgecolor="#000000", label="chosen row")
    _name_axes(ax, shares)
    ax.legend(fontsize=8)
    return ax


def _name_axes(ax: Axes, shares: Sequence[float]) -> None:
    first, second = [f" ({100 * share:.0f} %)" for share in shares] or ["", ""]
    ax.set(xlabel=f"first axis{first}", ylabel=f"second axis{second}")


BANDS = {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.15, "linewidth": 0}}  # from the lowest to the highest
INTERVALS = {"errorbar": lambda values: mean_interval(values)[1:], "err_style": "bars"}  # 95 %, Student's t


def _plot_means(frame: pd.DataFrame, x: str, y: str, ax: Axes, marker: str = "o", **look: Any) -> None:
    """The mean of `y` at every `x`, a line per method in its colour, in the methods' order of appearance."""
    palette = {method: COLORS.get(method, OTHER) for method in frame["method"].unique()}
    look = {"marker": marker, "markersize": {"o": 5, "D": 7}[marker], "markeredgewidth": 0} | look
    sns.lineplot(frame, x=x, y=y, hue="method", hue_order=list(palette), palette=palette, ax=ax, **look)
    ax.set(ylabel=y.replace("_", " "))


def plot_history(history: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """`metric` by epoch, a line per method: the mean over seeds in a band from the lowest to the highest."""
    _plot_means(history, "epoch", metric, ax, **BANDS)
    ax.set(xticks=sorted(history["epoch"].unique()))
    ax.legend()
    return ax


def plot_comparison(frame: pd.DataFrame, metric: str, ax: Axes, teacher: float | None = None) -> Axes:
    """`metric` of one student size by method: a dot per seed, the mean with its 95 % interval, the teacher's line."""
    methods = list(frame["method"].unique())
    places = frame["method"].map(methods.index)
    colors = [COLORS.get(method, OTHER) for method in frame["method"]]
    ax.scatter(places - 0.12, frame[metric], s=14, color=colors, alpha=0.5)
    means = {"marker": "D", "linestyle": "", "legend": False, "err_kws": {"capsize": 4}}
    _plot_means(frame.assign(place=places + 0.12), "place", metric, ax, **INTERVALS, **means)
    ax.set(xticks=range(len(methods)), xticklabels=methods, xlim=(-0.6, len(methods) - 0.4), xlabel="")
    if teacher is not None:
        ax.axhline(teacher, color=COLORS["teacher"], linestyle="--", linewidth=1)
        ax.text(len(methods) - 0.42, teacher, "teacher", ha="right", va="bottom", fontsize=8)
    return ax


def plot_ablation(frame: pd.DataFrame, by: str, metric: str, ax: Axes) -> Axes:
    """`metric` at every value of the column `by`, evenly spaced: a line per method, its mean with 95 % intervals."""
    values, methods = sorted(frame[by].unique()), list(frame["method"].unique())
    shifts = 0.06 * (frame["method"].map(methods.index) - (len(methods) - 1) / 2)  # so that no interval hides another
    places = frame[by].map(values.index) + shifts
    _plot_means(frame.assign(place=places), "place", metric, ax, **INTERVALS, err_kws={"capsize": 3})
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    ax.set(xticks=range(len(values)), xticklabels=names, xlabel=by.replace("_", " "))
    ax.legend()
    return ax


def _reach(row: Mapping[str, float], middle: str, low: str, high: str) -> list[list[float]]:
    """How far an interval reaches below and above its middle, as matplotlib's error bars want it."""
    return [[row[middle] - row[low]], [row[high] - row[middle]]]


def plot_differences(differences: pd.DataFrame, ax: Axes, shift: float = 0.0) -> Axes:
    """Paired differences with their 95 % intervals, in percentage points, against the line of no difference."""
    points = differences.assign(**100 * differences[["difference", "low", "high"]]).to_dict("records")
    for place, row in enumerate(points):
        ax.errorbar(row["difference"], place + shift, xerr=_reach(row, "difference", "low", "high"), fmt="D",
                    color=COLORS.get(row["method"], OTHER), capsize=4)  # fmt: skip
    labels = [f"{row['method']} minus {row['baseline']}" for row in points]
    ax.axvline(0, color="#000000", linewidth=1)
    ax.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    ax.set(xlabel="difference, percentage points")
    return ax


def plot_beside_paper(differences: pd.DataFrame, ax: Axes, one_row: float | None = None) -> Axes:
    """Differences to a baseline in percentage points: ours with 95 % intervals, the paper's and the authors' hollow.

    differences: one student size of `differences_beside_paper`; one_row: the worth of one row of our split, 0..1.
    """
    plot_differences(differences, ax, shift=-0.12)
    ax.plot([], [], "D", color="#000000", label="ours")
    for name, marker, label in (("paper_test", "o", "the paper, GLUE test"), ("authors_dev", "s", "the authors, dev")):
        ax.plot(100 * differences[name], np.arange(len(differences)) + 0.16, marker, fillstyle="none", color="#000000",
                markersize=8, label=label)  # fmt: skip
    if one_row is not None:
        ax.axvspan(-100 * one_row, 100 * one_row, color="#cccccc", alpha=0.6, linewidth=0, label="one row")
    ax.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)  # markers may be anywhere
    return ax


def plot_latency_accuracy(frame: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """`metric` against the time of one batch; the area of a marker grows with the number of parameters.

    frame: columns method, num_hidden_layers, num_parameters, latency_ms and `metric`, a row per marker. Intervals are
    drawn where there are columns latency_low and latency_high (in ms), `metric`_low and `metric`_high.
    """
    ends = {"xerr": ("latency_ms", "latency_low", "latency_high"), "yerr": (metric, f"{metric}_low", f"{metric}_high")}
    ends = {side: names for side, names in ends.items() if set(names) <= set(frame.columns)}
    labels = []
    for row in frame.sort_values(metric).to_dict("records"):
        x, y, color = row["latency_ms"], row[metric], COLORS.get(row["method"], OTHER)
        area = 300 * row["num_parameters"] / frame["num_parameters"].max()
        ax.scatter(x, y, s=area, color=color, alpha=0.6, linewidth=0)
        bars = {side: _reach(row, *names) for side, names in ends.items()}
        ax.errorbar(x, y, fmt=".", color=color, linewidth=1, capsize=3, **bars)
        right = np.fmax(x, row.get("latency_high", x))  # of the bar, where there is one
        labels.append((right, y, f"{row['method']}, {row['num_hidden_layers']} layers", color))
    ax.set(xlim=(0, 1.35 * ax.get_xlim()[1]), xlabel="latency of one batch, ms", ylabel=metric.replace("_", " "))
    _label_apart(labels, ax)
    return ax


def _label_apart(labels: Iterable[tuple[float, float, str, str]], ax: Axes, points: float = 12) -> None:
    """Labels (x, y, text, colour) right of their places, from the lowest up, raised where they would cover another."""
    size = 72 * ax.figure.get_size_inches() * ax.get_position().size  # of the axes, in points
    corner, opposite = np.transpose([ax.get_xlim(), ax.get_ylim()])
    taken: list[tuple[float, float, float]] = []  # height, start and end of each label, in points
    for x, y, text, color in labels:
        start, place = (np.array([x, y]) - corner) / (opposite - corner) * size
        height, end = place, start + 5 * len(text)  # about the width of a letter
        for other, other_start, other_end in sorted(taken):
            if start < other_end and other_start < end and abs(height - other) < points:
                height = other + points
        taken.append((height, start, end))
        ax.annotate(text, (x, y), (12, height - place), textcoords="offset points", va="center", fontsize=8,
                    color=color)  # fmt: skip


def plot_speedup(speedups: Mapping[str, pd.DataFrame], ax: Axes) -> Axes:
    """Speed-ups by number of layers with 95 % intervals, beside the limit that the layers alone would set.

    speedups: label -> a frame of `speed.speedups`, all of the same models; the labels stand side by side.
    """
    for number, (label, table) in enumerate(speedups.items()):
        layers, shift = table["num_hidden_layers"], 0.2 * (number - (len(speedups) - 1) / 2)
        errors = [table["speedup"] - table["low"], table["high"] - table["speedup"]]
        ax.errorbar(layers + shift, table["speedup"], errors, fmt="D", color=("#0072B2", "#E69F00")[number % 2],
                    capsize=4, label=label)  # fmt: skip
    deepest = (table["limit"] * layers).max()  # the baseline's layers
    curve = np.linspace(layers.min(), layers.max(), 100)
    ax.plot(curve, deepest / curve, color="#000000", linestyle="--", linewidth=1, label="limit: ratio of layers")
    ax.set(xlabel="layers", ylabel="times as fast", xticks=sorted(layers))
    ax.legend()
    return ax


def plot_ratios(figures: pd.DataFrame, ax: Axes) -> Axes:
    """Recorded ratios of time, a bar each: the median, its range over rounds, and a tick where the limit is.

    figures: rows of `speed.benchmark_figures` that have a label, of one device, in the plot's order from the top.
    """
    errors = [figures["median"] - figures["low"], figures["high"] - figures["median"]]
    places = range(len(figures))
    ax.barh(places, figures["median"], xerr=errors, height=0.6, color="#56B4E9", capsize=4)
    ax.plot(figures["limit"], places, "|", color="#D55E00", markersize=22, markeredgewidth=2, label="limit")
    ax.axvline(1, color="#000000", linewidth=1)
    ax.set(
        yticks=places, yticklabels=figures["label"], ylim=(len(figures) - 0.5, -0.5), xlabel="times as long as this kit"
    )
    ax.legend(loc="lower right", markerscale=0.4, frameon=True)
    return ax
