"""Every figure: data and an Axes in, the Axes out; in colours that all readers can tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike
from torch import Tensor

from pkdlib.analysis.statistics import mean_interval
from pkdlib.engine.batches import has_label
from pkdlib.losses import PKDTerms, ce_loss, kd_loss

STYLE = Path(__file__).with_name("pkd.mplstyle")
COLORS = {"teacher": "#000000", "FT": "#7f7f7f", "KD": "#E69F00", "PKD-Skip": "#0072B2", "PKD-Last": "#D55E00"}
COLORS |= {"PKD-Reverse": "#CC79A7", "PKD-One": "#56B4E9", "PKD-Random": "#882255"}
COLORS |= {"ONNX": "#CC79A7", "ONNX, 8 bits": "#56B4E9"}
OTHER = "#009E73"  # own layer maps
BANDS = {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.15, "linewidth": 0}}  # from the lowest to the highest
INTERVALS = {"errorbar": lambda values: mean_interval(values)[1:], "err_style": "bars"}  # 95 %, Student's t


def use_style() -> None:
    """Give all figures of the session the kit's look."""
    plt.style.use(STYLE)


def _finish(ax: Axes, legend: Mapping[str, Any] | None = None, **settings: Any) -> Axes:
    ax.set(**settings)
    if legend is not None:
        ax.legend(**legend)
    return ax


def share_legend(figure: Figure) -> None:
    """One legend below all panels in place of theirs, with each label once."""
    shown = {}
    for ax in filter(Axes.get_legend, figure.axes):
        shown |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        ax.get_legend().remove()
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=len(shown))


def plot_layer_map(num_teacher_layers: int, num_student_layers: int, layers: Sequence[int], ax: Axes,
                   color: str = COLORS["PKD-Skip"]) -> Axes:  # fmt: skip
    """Teacher and student as columns of layers, an arrow from each teacher layer to the student layer it teaches."""
    matched = range(1, len(layers) + 1)
    columns = (0, "student", num_student_layers, matched), (1, "teacher", num_teacher_layers, layers)
    for x, name, count, marked in columns:
        for layer in range(1, count + 1):
            face = "#56B4E9" if layer in marked else "#eeeeee"
            ax.add_patch(Rectangle((x - 0.2, layer - 0.4), 0.4, 0.8, facecolor=face, edgecolor="#444444"))
            ax.text(x, layer, layer, ha="center", va="center", fontsize=8)
        ax.text(x, count + 0.9, name, ha="center")
    for student, teacher in zip(matched, layers, strict=True):
        ax.annotate("", (0.2, student), (0.8, teacher), arrowprops={"arrowstyle": "->", "color": color})
    ax.axis("off")
    return _finish(ax, xlim=(-0.5, 1.5), ylim=(0.3, num_teacher_layers + 1.5))


def plot_distillation(num_teacher_layers: int, num_student_layers: int, layers: Sequence[int], ax: Axes) -> Axes:
    """The whole of PKD: the layer map, and above it the predictions and the labels, with the loss of each arrow."""
    plot_layer_map(num_teacher_layers, num_student_layers, layers, ax)
    high, low = num_teacher_layers + 2.6, num_student_layers + 2.6  # heights of the predictions
    box = {"boxstyle": "round", "facecolor": "#f5e9d0", "edgecolor": "#444444"}
    for x, y, text in ((0, low, "prediction"), (1, high, "prediction"), (-0.75, low, "label")):
        ax.text(x, y, text, ha="center", va="center", bbox=box)
    kd, ce = ({"arrowstyle": "->", "color": COLORS[method], "linewidth": 2} for method in ("KD", "FT"))
    ax.annotate("", (0.2, low + 0.2), (0.8, high), arrowprops=kd)
    ax.annotate("", (-0.2, low), (-0.6, low), arrowprops=ce)
    ax.text(0.5, (high + low) / 2 + 0.6, "$L_{DS}$: softened predictions", color=COLORS["KD"], ha="right", va="bottom")
    ax.text(-0.4, low + 0.5, "$L_{CE}$", color=COLORS["FT"], ha="center", va="bottom")
    if layers:
        ax.text(0.5, 0.2, "$L_{PT}$: [CLS] states", color=COLORS["PKD-Skip"], ha="center", va="top")
    return _finish(ax, xlim=(-1, 1.5), ylim=(-0.8, num_teacher_layers + 3.6))


def plot_soft_targets(teacher: Tensor, student: Tensor, ax: Axes, label_names: Sequence[str]) -> Axes:
    """Two probabilities (classes,) side by side, a pair of bars per class."""
    classes = np.arange(len(teacher))
    for shift, values, name, color in ((-0.2, teacher, "teacher", "#000000"), (0.2, student, "student", "#0072B2")):
        bars = ax.bar(classes + shift, np.asarray(values), width=0.36, color=color, label=name)
        ax.bar_label(bars, fmt="%.2f", fontsize=8)
    ax.set_xticks(classes, label_names)
    legend = {"ncols": 2, "loc": "upper center", "fontsize": 8}
    return _finish(ax, legend, ylim=(0, 1.15), yticks=np.linspace(0, 1, 6), ylabel="probability")


def plot_terms(terms: PKDTerms, alpha: float, beta: float, ax: Axes, floor: float) -> Axes:
    """The three weighted terms of the objective and their sum, a bar each, the soft term above its floor.

    floor: H, the least that loss_kd can be, where the student says what the teacher says: the teacher's entropy.
    """
    names = [r"$(1 - \alpha)\, L_{CE}$", r"$\alpha\, (L_{DS} - H)$", r"$\beta\, L_{PT}$", r"$L_{PKD} - \alpha H$"]
    values = [(1 - alpha) * terms.loss_ce, alpha * (terms.loss_kd - floor), beta * terms.loss_pt]
    colors = [COLORS[method] for method in ("FT", "KD", "PKD-Skip", "teacher")]
    ax.bar_label(ax.bar(names, list(map(float, [*values, sum(values)])), color=colors), fmt="%.3g", fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    return _finish(ax, ymargin=0.1, ylabel="loss above the soft term's floor H")


def plot_alphas(teacher_logits: Tensor, temperature: float, alphas: Sequence[float], ax: Axes) -> Axes:
    """One row's loss by the student's margin, a line per alpha, above its floor; a dot where the student settles.

    teacher_logits: (2,), of the class that the teacher prefers and of the label. The soft term is times T^2.
    """
    margins, said, label = torch.linspace(-8, 8, 321), teacher_logits[None], torch.tensor([1])
    answers = torch.stack([-margins / 2, margins / 2], dim=-1)[:, None]  # (margins, 1, classes)
    soft = torch.stack([2 * kd_loss(answer, said, temperature, "official") for answer in answers])  # T^2 KL: no floor
    of_label = torch.stack([ce_loss(answer, label) for answer in answers])
    for alpha, color in zip(alphas, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(alphas))), strict=True):
        values = (1 - alpha) * of_label + alpha * soft
        ax.plot(margins, values, color=color, label=rf"$\alpha$ = {alpha:.2g}")
        ax.plot(margins[values.argmin()], values.min(), "o", color=color, clip_on=False)
    ax.axvline(0, color="#000000", linewidth=1)
    settings = {"xlabel": "student's logit of the label minus that of the teacher's class", "ylim": (0, 8)}
    legend = {"fontsize": 8, "loc": "upper center", "frameon": True}
    return _finish(ax, legend, ylabel="loss above the soft term's floor", xlim=(-8, 8), **settings)


def plot_similarity(similarity: ArrayLike, ax: Axes, layers: Sequence[int] = (), title: str = "",
                    chosen: int = 0, scale: bool = True) -> Axes:  # fmt: skip
    """A student x teacher heatmap on a fixed 0-1 scale; the layer map outlined, each row's maximum marked by a dot."""
    matrix = np.asarray(similarity)
    rows, columns = (range(1, count + 1) for count in matrix.shape)
    look = {"vmin": 0, "vmax": 1, "cmap": "cividis", "square": True, "cbar": scale}
    sns.heatmap(matrix, ax=ax, xticklabels=columns, yticklabels=rows, **look)
    outline = {"fill": False, "edgecolor": "#D55E00"}
    for row, layer in enumerate(layers):
        ax.add_patch(Rectangle((layer - 1, row), 1, 1, linewidth=2, **outline))
    if chosen:  # a student layer from 1, framed; not clipped, as half of the frame's line lies outside
        ax.add_patch(Rectangle((0, chosen - 1), len(columns), 1, linewidth=3, **outline)).set_clip_on(False)
    known = ~np.isnan(matrix).all(axis=1)  # the other rows stay blank
    ax.scatter(np.nanargmax(matrix[known], axis=1) + 0.5, np.array(rows)[known] - 0.5, s=12, color="#ffffff",
               edgecolor="#000000")  # fmt: skip
    ax.tick_params(axis="y", rotation=0)
    return _finish(ax, xlabel="teacher layer", ylabel="student layer", title=title)


def plot_confusion(labels: np.ndarray, predictions: np.ndarray, label_names: Sequence[str], ax: Axes,
                   title: str = "") -> Axes:  # fmt: skip
    """Rows by their class and the predicted one: counts, coloured by their share of the class on a fixed 0-1 scale."""
    counts = np.zeros((len(label_names), len(label_names)), dtype=int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    sns.heatmap(shares, ax=ax, annot=counts, fmt="d", vmin=0, vmax=1, cmap="cividis", square=True,
                xticklabels=label_names, yticklabels=label_names, cbar_kws={"label": "share of the class"})  # fmt: skip
    ax.tick_params(axis="y", rotation=0)
    plt.setp(ax.get_xticklabels(), rotation=30, ha="right")
    return _finish(ax, xlabel="predicted", ylabel="label", title=title)


def plot_matched_layers(matched: pd.DataFrame, ax: Axes) -> Axes:
    """`similarity` by student `layer`, a line per method with a band over seeds; the `baseline`s' range in grey."""
    noise = matched.groupby("layer")["baseline"].agg(["min", "max"])
    ax.fill_between(noise.index, noise["min"], noise["max"], color="#999999", alpha=0.6, label="shuffled pairs")
    _plot_means(matched, "layer", "similarity", ax, **BANDS)
    ax.axhline(0, color="#000000", linewidth=0.5)
    below = {"ncols": 3, "loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "fontsize": 8}  # lines may be anywhere
    return _finish(ax, below, xlabel="student layer", ylim=(min(-0.1, noise["min"].min()), 1.05), xticks=noise.index)


def plot_points(points: np.ndarray, labels: np.ndarray | None, label_names: Sequence[str], ax: Axes,
                shares: Sequence[float]) -> Axes:  # fmt: skip
    """Points (rows, 2) coloured by label, or in one colour where there are none; the axes' shares of the variance."""
    if labels is None:
        labels, label_names = np.zeros(len(points)), ["no labels"]
    elif len(label_names) == 1:  # values
        drawn = ax.scatter(*points.T, s=8, alpha=0.5, linewidth=0, c=labels, cmap="viridis")
        ax.figure.colorbar(drawn, ax=ax, label=label_names[0])
        return _finish(ax, None, **_axis_names(shares))
    for index, (name, color) in enumerate(zip(label_names, _label_colors(len(label_names)), strict=True)):
        ax.scatter(*points[labels == index].T, s=8, alpha=0.5, linewidth=0, color=color, label=name)
    return _finish(ax, {"markerscale": 2}, **_axis_names(shares))


def plot_labels(labels: Mapping[str, np.ndarray], label_names: Sequence[str], ax: Axes) -> Axes:
    """How often each class, or in regression each value, occurs in each split: shares of its labelled rows."""
    known = {name: of[has_label(of)] for name, of in labels.items()}
    if len(label_names) == 1:
        weights = [np.full(len(of), 1 / max(1, len(of))) for of in known.values()]
        ax.hist(list(known.values()), bins=20, weights=weights, label=list(known))
        return _finish(ax, {}, xlabel=label_names[0], ylabel="share of rows", title="How often each value occurs")
    shares = {name: np.bincount(of, minlength=len(label_names)) / max(1, len(of)) for name, of in known.items()}
    width = 0.8 / len(shares)
    for place, (name, share) in enumerate(shares.items()):
        ax.bar(np.arange(len(label_names)) + width * place, share, width, label=name)
    turned = {"rotation": 30, "ha": "right"} if len(label_names) > 4 else {}
    ax.set_xticks(np.arange(len(label_names)) + width * (len(shares) - 1) / 2, label_names, **turned)
    return _finish(ax, {}, ylabel="share of rows", ylim=(0, 1), title="How often each class occurs")


def _label_colors(count: int) -> Sequence[Any]:
    return ["#0072B2", "#D55E00", "#009E73"][:count] if count <= 3 else sns.color_palette("husl", count)


def plot_neighbours(points: np.ndarray, row: int, nearest: Sequence[int], ax: Axes, shares: Sequence[float],
                    labels: Sequence[str] = ()) -> Axes:  # fmt: skip
    """Points (rows, 2), the chosen row and its nearest ones in their labels' colours; the axes' shares of variance."""
    labels = labels or [""] * len(points)  # the name of every row's label
    colors = dict(zip(names := sorted(set(labels)), _label_colors(len(names)), strict=True))
    ax.scatter(*points.T, s=8, color="#bbbbbb", linewidth=0, label="all rows")
    marks = [("nearest", name, [other for other in nearest if labels[other] == name], 36, "o") for name in names]
    for role, name, rows, size, marker in [*marks, ("chosen row", labels[row], [row], 140, "*")]:
        if rows:
            look = {"color": colors[name], "edgecolor": "#000000", "label": f"{role}, {name}".rstrip(", ")}
            ax.scatter(*points[rows].T, s=size, marker=marker, **look)
    return _finish(ax, {"fontsize": 8}, **_axis_names(shares))


def _axis_names(shares: Sequence[float]) -> dict[str, str]:
    first, second = (f"axis ({100 * share:.0f} %)" for share in shares)
    return {"xlabel": f"first {first}", "ylabel": f"second {second}"}


def _plot_means(frame: pd.DataFrame, x: str, y: str, ax: Axes, **look: Any) -> None:
    """The mean of `y` at every `x`, a line per method in its colour, in the methods' order of appearance."""
    palette = {method: COLORS.get(method, OTHER) for method in frame["method"].unique()}
    look = {"marker": "o", "markersize": 5, "markeredgewidth": 0} | look
    sns.lineplot(frame, x=x, y=y, hue="method", hue_order=list(palette), palette=palette, ax=ax, **look)
    ax.set(ylabel=y.replace("_", " "))


def plot_history(history: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """`metric` by epoch, a line per method: the mean over seeds in a band from the lowest to the highest."""
    _plot_means(history, "epoch", metric, ax, **BANDS)
    return _finish(ax, {}, xticks=sorted(history["epoch"].unique()))


def plot_comparison(frame: pd.DataFrame, metric: str, ax: Axes, teacher: float | None = None) -> Axes:
    """`metric` of one student size by method: a dot per seed, the mean with its 95 % interval, the teacher's line.

    A grey line joins the dots of a seed, where there are several; a dotted one is the score of the most frequent class.
    """
    places, methods = pd.factorize(frame["method"])
    by_seed = frame.pivot_table(metric, "method", "seed", sort=False)
    ax.plot(np.arange(len(by_seed)) - 0.12, by_seed, color="#cccccc", linewidth=by_seed.shape[1] > 1, zorder=0)
    ax.scatter(places - 0.12, frame[metric], s=14, color=[COLORS.get(one, OTHER) for one in frame["method"]], alpha=0.5)
    means = {"marker": "D", "markersize": 7, "linestyle": "", "legend": False, "err_kws": {"capsize": 4}}
    _plot_means(frame.assign(place=places + 0.12), "place", metric, ax, **INTERVALS, **means)
    majority = frame[f"{metric}_majority"].mean() if f"{metric}_majority" in frame else None
    ends = {"teacher": (teacher, "--", len(methods) - 0.42, "right"), "majority": (majority, ":", -0.58, "left")}
    for name, (score, line, x, side) in ends.items():  # at either end, as the lines may be close
        if score is not None and not np.isnan(score):
            ax.axhline(score, color=COLORS["teacher"], linestyle=line, linewidth=1)
            ax.text(x, score, name, ha=side, va="bottom", fontsize=8)
    return _finish(ax, xticks=range(len(methods)), xticklabels=methods, xlim=(-0.6, len(methods) - 0.4), xlabel="")


def plot_ablation(frame: pd.DataFrame, by: str, metric: str, ax: Axes) -> Axes:
    """`metric` at every value of the column `by`, evenly spaced: a line per method, its mean with 95 % intervals."""
    (places, values), (line, methods) = pd.factorize(frame[by], sort=True), pd.factorize(frame["method"])
    shifted = places + 0.06 * (line - (len(methods) - 1) / 2)  # so that no interval hides another
    _plot_means(frame.assign(place=shifted), "place", metric, ax, **INTERVALS, err_kws={"capsize": 3})
    ax.set_xticks(range(len(values)), [f"{value:g}" if isinstance(value, float) else str(value) for value in values])
    return _finish(ax, {}, xlim=(-0.5, len(values) - 0.5), xlabel=by.replace("_", " "))  # one value's points stay at it


def _reach(rows: Mapping[str, Any], middle: str, low: str = "low", high: str = "high") -> np.ndarray:
    """How far intervals reach below and above their middles, (2, rows), as matplotlib's error bars want it."""
    return np.reshape([rows[middle] - rows[low], rows[high] - rows[middle]], (2, -1))


def plot_differences(differences: pd.DataFrame, ax: Axes, shift: float = 0.0) -> Axes:
    """Paired differences with their 95 % intervals, in percentage points, against the line of no difference.

    Of nested differences the plain interval, as if all pairs were independent, lies below in grey.
    """
    columns = [name for name in ("difference", "low", "high", "plain_low", "plain_high") if name in differences]
    points = differences.assign(**100 * differences[columns]).to_dict("records")
    for place, row in enumerate(points):
        look = {"fmt": "D", "color": COLORS.get(row["method"], OTHER), "capsize": 4}
        ax.errorbar(row["difference"], place + shift, xerr=_reach(row, "difference"), **look)
        if "plain_low" in row:
            ax.plot([row["plain_low"], row["plain_high"]], [place + shift + 0.22] * 2, color="#999999", linewidth=3)
    ax.axvline(0, color="#000000", linewidth=1)
    labels = differences["method"] + " minus " + differences["baseline"]
    ax.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    return _finish(ax, xlabel="difference, percentage points")


def plot_beside_paper(differences: pd.DataFrame, ax: Axes, one_row: float | None = None) -> Axes:
    """Differences to a baseline in percentage points: ours with 95 % intervals, the paper's and the authors' hollow."""
    plot_differences(differences, ax, shift=-0.12)
    ax.plot([], [], "D", color="#000000", label="ours")
    places, hollow = np.arange(len(differences)) + 0.16, {"fillstyle": "none", "color": "#000000", "markersize": 8}
    ax.plot(100 * differences["paper_test"], places, "o", label="the paper, GLUE test", **hollow)
    ax.plot(100 * differences["authors_dev"], places, "s", label="the authors, dev", **hollow)
    if one_row is not None:  # the worth of one row of our split, 0..1
        ax.axvspan(-100 * one_row, 100 * one_row, color="#cccccc", alpha=0.6, linewidth=0, label="one row")
    below = {"ncols": 2, "loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "fontsize": 8}  # markers may be anywhere
    return _finish(ax, below)


def plot_latency_accuracy(frame: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """`metric` against the time of one batch; the area of a marker, a row of `frame`, grows with num_parameters.

    Intervals stand where the frame has latency_low and latency_high (in ms), `metric`_low and `metric`_high. Of markers
    of equal time the lowest stands at it and the others a little to the right, so that no interval hides another.
    """
    ends = {"xerr": ("latency_ms", "latency_low", "latency_high"), "yerr": (metric, f"{metric}_low", f"{metric}_high")}
    largest, slowest = frame[["num_parameters", "latency_ms"]].max()
    frame = frame.dropna(subset=["latency_ms", metric]).sort_values(metric)
    shifts = 0.02 * slowest * frame.groupby("latency_ms").cumcount()
    widest = frame.assign(shift=shifts).groupby("latency_ms")["shift"].max()
    halo = [withStroke(linewidth=3, foreground="#ffffff")]  # labels are legible over intervals
    for row, shift in zip(frame.to_dict("records"), shifts, strict=True):
        x, y, color = row["latency_ms"] + shift, row[metric], COLORS.get(row["method"], OTHER)
        ax.scatter(x, y, s=300 * row["num_parameters"] / largest, color=color, alpha=0.6, linewidth=0)
        bars = {side: _reach(row, *names) for side, names in ends.items() if set(names) <= set(row)}
        ax.errorbar(x, y, fmt=".", color=color, linewidth=1, capsize=3, **bars)
        right = np.fmax(row["latency_ms"], row.get("latency_high", np.nan)) + widest[row["latency_ms"]]  # of all bars
        ax.annotate(f"{row['method']}, {row['num_hidden_layers']} layers", (right, y), (12, 0), color=color, fontsize=8,
                    textcoords="offset points", annotation_clip=False, va="center", path_effects=halo)  # fmt: skip
    ax.set(xlim=(0, 1.35 * ax.get_xlim()[1]), xlabel="latency of one batch, ms", ylabel=metric.replace("_", " "))
    centres = [ax.transData.transform(marker.get_offsets()[0]) for marker in ax.collections]
    markers = [Bbox([centre - 8, centre + 8]) for centre in centres]  # pixels
    for place, label in enumerate(ax.texts):  # from the lowest up: what would cover a label or a marker is raised
        taken = [text.get_window_extent() for text in ax.texts[:place]] + markers
        while label.get_window_extent().count_overlaps(taken):
            label.xyann = (12, label.xyann[1] + 4)
    return ax


def plot_speedup(speedups: Mapping[str, pd.DataFrame], ax: Axes) -> Axes:
    """Speed-ups by number of layers with 95 % intervals, beside the limit that the layers alone would set."""
    every = pd.concat(speedups)  # frames of `speed.speedups`, all beside one baseline
    apart = 0.2 if every["num_hidden_layers"].duplicated().any() else 0.0  # where intervals would overlap
    for number, (label, table) in enumerate(speedups.items()):
        layers, shift = table["num_hidden_layers"], apart * (number - (len(speedups) - 1) / 2)
        look = {"fmt": "D", "color": ("#0072B2", "#E69F00")[number % 2], "capsize": 4, "label": label}
        ax.errorbar(layers + shift, table["speedup"], _reach(table, "speedup"), **look)
    layers = every["num_hidden_layers"]
    curve = np.linspace(layers.min(), layers.max(), 100)
    limit = (every["limit"] * layers).max() / curve  # of the baseline's layers
    ax.plot(curve, limit, color="#000000", linestyle="--", linewidth=1, label="limit: ratio of layers")
    ticks = [count for count in sorted(set(layers)) if count == round(count)]
    return _finish(ax, {}, xlabel="layers", ylabel="times as fast", xticks=ticks, ylim=(0, None))


def plot_ratios(figures: pd.DataFrame, ax: Axes) -> Axes:
    """Recorded ratios of time, a bar each: the median, its range over rounds, and a tick where the limit is."""
    places = range(len(figures))  # rows of `speed.benchmark_figures`, the first on top
    ax.barh(places, figures["median"], xerr=_reach(figures, "median"), height=0.6, color="#56B4E9", capsize=4)
    ax.plot(figures["limit"], places, "|", color="#D55E00", markersize=22, markeredgewidth=2, label="limit")
    ax.axvline(1, color="#000000", linewidth=1)
    ax.set(yticks=places, yticklabels=figures["label"], ylim=(len(places) - 0.5, -0.5))
    legend = {"loc": "lower right", "markerscale": 0.4, "frameon": True}
    return _finish(ax, legend, xlabel="times as long as this kit")
