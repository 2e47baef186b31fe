"""Figures of models, their states and losses: data and an Axes in, the Axes out; colours all readers can tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from pkdlib.analysis.statistics import summary
from pkdlib.losses import PKDTerms

STYLE = Path(__file__).with_name("pkd.mplstyle")
COLORS = {"teacher": "#000000", "FT": "#7f7f7f", "KD": "#E69F00", "PKD-Skip": "#0072B2", "PKD-Last": "#D55E00"}
OTHER = "#009E73"  # own layer maps


def use_style() -> None:
    """The kit's look for all figures of a session."""
    plt.style.use(STYLE)


def plot_layer_map(
    num_teacher_layers: int,
    num_student_layers: int,
    layers: Sequence[int],
    ax: Axes,
    color: str = COLORS["PKD-Skip"],
) -> Axes:
    """Teacher and student as columns of layers, an arrow from each matched student layer to its teacher layer."""
    n, k = num_teacher_layers, num_student_layers
    for x, count, name in ((0, k, "student"), (1, n, "teacher")):
        for layer in range(1, count + 1):
            matched = layer in layers if name == "teacher" else layer <= len(layers)
            face = "#56B4E9" if matched else "#eeeeee"
            ax.add_patch(Rectangle((x - 0.2, layer - 0.4), 0.4, 0.8, facecolor=face, edgecolor="#444444"))
            ax.text(x, layer, layer, ha="center", va="center", fontsize=8)
        ax.text(x, count + 0.9, name, ha="center")
    for student, teacher in enumerate(layers, start=1):
        arrow = {"arrowstyle": "->", "color": color}
        ax.annotate("", xy=(0.8, teacher), xytext=(0.2, student), arrowprops=arrow)
    ax.set(xlim=(-0.5, 1.5), ylim=(0.3, n + 1.5))
    ax.axis("off")
    return ax


def plot_similarity(
    similarity: Tensor | np.ndarray, ax: Axes, layers: Sequence[int] = (), title: str = "", colorbar: bool = True
) -> Axes:
    """A student x teacher heatmap on a fixed 0-1 scale; the layer map outlined, each row's maximum marked by a dot."""
    matrix = np.asarray(similarity)
    sns.heatmap(matrix, ax=ax, vmin=0, vmax=1, cmap="cividis", cbar=colorbar, square=True,
                xticklabels=range(1, matrix.shape[1] + 1), yticklabels=range(1, matrix.shape[0] + 1))  # fmt: skip
    for row, layer in enumerate(layers):
        ax.add_patch(Rectangle((layer - 1, row), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2))
    ax.scatter(matrix.argmax(axis=1) + 0.5, np.arange(len(matrix)) + 0.5, s=12, color="#ffffff", edgecolor="#000000")
    ax.set(xlabel="teacher layer", ylabel="student layer", title=title)
    ax.tick_params(axis="y", rotation=0)
    return ax


def plot_distillation(num_teacher_layers: int, num_student_layers: int, layers: Sequence[int], ax: Axes) -> Axes:
    """The whole of PKD: the layer map, and above it the predictions and the labels, with the loss of each arrow."""
    n, k = num_teacher_layers, num_student_layers
    plot_layer_map(n, k, layers, ax)
    box = {"boxstyle": "round", "facecolor": "#f5e9d0", "edgecolor": "#444444"}
    for x, y, text in ((0, k + 2.6, "prediction"), (1, n + 2.6, "prediction"), (-0.75, k + 2.6, "label")):
        ax.text(x, y, text, ha="center", va="center", bbox=box)
    for start, end, color, text in (
        ((0.8, n + 2.6), (0.2, k + 2.8), COLORS["KD"], "$L_{DS}$: softened predictions"),
        ((-0.6, k + 2.6), (-0.2, k + 2.6), COLORS["FT"], "$L_{CE}$"),
    ):
        ax.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "->", "color": color, "linewidth": 2})
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.5)
        ax.text(*middle, text, ha="right" if "DS" in text else "center", va="bottom", color=color)
    if layers:
        ax.text(0.5, 0.2, "$L_{PT}$: [CLS] states", color=COLORS["PKD-Skip"], ha="center", va="top")
    ax.set(xlim=(-1, 1.5), ylim=(-0.8, n + 3.6))
    return ax


def plot_matched_layers(matched: pd.DataFrame, ax: Axes) -> Axes:
    """`similarity` by student `layer`, a line per method with a band over seeds; the `baseline`s' range in grey.

    matched: columns method, seed, layer, similarity and baseline, one student size and one layer map.
    """
    noise = matched.groupby("layer")["baseline"].agg(["min", "max"])
    ax.fill_between(noise.index, noise["min"], noise["max"], color="#999999", alpha=0.6, label="shuffled pairs")
    for method, runs in matched.groupby("method", sort=False):
        by_layer = runs.groupby("layer")["similarity"].agg(["mean", "min", "max"])
        color = COLORS.get(method, OTHER)
        ax.plot(by_layer.index, by_layer["mean"], marker="o", markersize=4, color=color, label=method)
        ax.fill_between(by_layer.index, by_layer["min"], by_layer["max"], color=color, alpha=0.15, linewidth=0)
    ax.axhline(0, color="#000000", linewidth=0.5)
    ax.set(xlabel="student layer", ylabel="similarity", ylim=(min(-0.1, noise["min"].min()), 1.05))
    ax.set_xticks(sorted(matched["layer"].unique()))
    ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8)  # lines may be anywhere
    return ax


def plot_points(
    points: np.ndarray, labels: np.ndarray | None, label_names: Sequence[str], ax: Axes, shares: Sequence[float] = ()
) -> Axes:
    """Points (rows, 2) coloured by label, or in one colour where there are none; the axes' shares of the variance."""
    classes = [(0, "no labels")] if labels is None else list(enumerate(label_names))
    labels = np.zeros(len(points), dtype=int) if labels is None else labels
    for (index, name), color in zip(classes, ("#0072B2", "#D55E00", "#009E73"), strict=False):
        chosen = points[labels == index]
        ax.scatter(chosen[:, 0], chosen[:, 1], s=8, alpha=0.5, linewidth=0, color=color, label=name)
    parts = [f" ({100 * share:.0f} %)" for share in shares] or ["", ""]
    ax.set(xlabel=f"first axis{parts[0]}", ylabel=f"second axis{parts[1]}")
    ax.legend(markerscale=2)
    return ax


def plot_chosen_layer(similarity: Tensor | np.ndarray, layer: int, ax: Axes, title: str = "") -> Axes:
    """The heatmap of `plot_similarity` with the row of one student layer (from 1) framed."""
    plot_similarity(similarity, ax, title=title)
    frame = Rectangle((0, layer - 1), similarity.shape[1], 1, fill=False, edgecolor="#D55E00", linewidth=3)
    frame.set_clip_on(False)  # half of its line lies outside
    ax.add_patch(frame)
    return ax


def plot_neighbours(points: np.ndarray, row: int, nearest: Sequence[int], ax: Axes, shares: Sequence[float]) -> Axes:
    """Points (rows, 2), the chosen row and its nearest ones marked; the axes' shares of the variance."""
    ax.scatter(points[:, 0], points[:, 1], s=8, color="#bbbbbb", linewidth=0, label="all rows")
    ax.scatter(*points[list(nearest)].T, s=36, color=COLORS["PKD-Skip"], edgecolor="#000000", label="nearest")
    ax.scatter(*points[row], s=120, marker="*", color=COLORS["KD"], edgecolor="#000000", label="chosen row")
    ax.set(xlabel=f"first axis ({100 * shares[0]:.0f} %)", ylabel=f"second axis ({100 * shares[1]:.0f} %)")
    ax.legend(fontsize=8)
    return ax


def plot_soft_targets(teacher: Tensor, student: Tensor, ax: Axes, label_names: Sequence[str] = ()) -> Axes:
    """Two probabilities (classes,) side by side, a pair of bars per class."""
    positions = np.arange(len(teacher))
    for offset, values, name, color in (
        (-0.2, teacher, "teacher", COLORS["teacher"]),
        (0.2, student, "student", COLORS["PKD-Skip"]),
    ):
        bars = ax.bar(positions + offset, np.asarray(values), width=0.36, color=color, label=name)
        ax.bar_label(bars, fmt="%.2f", fontsize=8)
    ax.set(xticks=positions, ylim=(0, 1.15), yticks=np.linspace(0, 1, 6), ylabel="probability")
    ax.set_xticklabels(label_names or [f"class {position}" for position in positions])
    ax.legend(ncols=2, loc="upper center", fontsize=8)
    return ax


def plot_terms(terms: PKDTerms, alpha: float, beta: float, ax: Axes) -> Axes:
    """The three weighted terms of the objective and their sum, a bar each."""
    bars = {
        r"$(1 - \alpha)\, L_{CE}$": ((1 - alpha) * terms.loss_ce, COLORS["FT"]),
        r"$\alpha\, L_{DS}$": (alpha * terms.loss_kd, COLORS["KD"]),
        r"$\beta\, L_{PT}$": (beta * terms.loss_pt, COLORS["PKD-Skip"]),
        "$L_{PKD}$": (terms.loss, COLORS["teacher"]),
    }
    drawn = ax.bar(
        list(bars), [float(value) for value, _ in bars.values()], color=[color for _, color in bars.values()]
    )
    ax.bar_label(drawn, fmt="%.3g", fontsize=8)
    ax.margins(y=0.1)
    ax.set(ylabel="loss")
    return ax


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
