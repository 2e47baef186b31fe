"""Every figure of the course: data and an Axes in, the Axes out; colours that colour-blind readers can tell apart."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from pkdlib.results import summary

STYLE = Path(__file__).with_name("pkd.mplstyle")
COLORS = {"teacher": "#000000", "FT": "#7f7f7f", "KD": "#E69F00", "PKD-Skip": "#0072B2", "PKD-Last": "#D55E00"}
OTHER = "#009E73"  # own layer maps


def use_style() -> None:
    """The kit's look for all figures of a session."""
    plt.style.use(STYLE)


def plot_layer_map(num_teacher_layers: int, num_student_layers: int, layers: Sequence[int], ax: Axes) -> Axes:
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
        arrow = {"arrowstyle": "->", "color": COLORS["PKD-Skip"]}
        ax.annotate("", xy=(0.8, teacher), xytext=(0.2, student), arrowprops=arrow)
    ax.set(xlim=(-0.5, 1.5), ylim=(0.3, n + 1.5))
    ax.axis("off")
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


def plot_size(frame: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """`metric` against the number of parameters, a labelled marker per run."""
    for row in frame.to_dict("records"):
        color = COLORS.get(row["method"], OTHER)
        ax.scatter(row["num_parameters"] / 1e6, row[metric], s=20 * row["num_hidden_layers"], color=color)
        label = f"{row['method']}, {row['num_hidden_layers']} layers"
        ax.annotate(label, (row["num_parameters"] / 1e6, row[metric]), xytext=(10, 0), textcoords="offset points")
    ax.margins(x=0.3, y=0.2)
    ax.set(xlabel="parameters, millions", ylabel=metric.replace("_", " "))
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
