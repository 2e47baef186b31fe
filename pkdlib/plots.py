"""Figures of models, their states and losses: data and an Axes in, the Axes out; colours all readers can tell apart."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

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
