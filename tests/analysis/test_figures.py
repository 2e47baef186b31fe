"""Every figure draws what it is given, on the axes it is given, without a warning."""

from collections.abc import Iterator

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from pkdlib.analysis import figures
from pkdlib.analysis.statistics import mean_interval
from pkdlib.layer_maps import layer_map
from pkdlib.losses import PKDTerms

pytestmark = pytest.mark.filterwarnings("error")
METHODS = ["FT", "KD", "PKD-Skip", "PKD-Last", "PKD-1,4"]


@pytest.fixture
def ax() -> Iterator[Axes]:
    with matplotlib.rc_context():
        figures.use_style()
        figure, axes = plt.subplots()
        yield axes
        figure.canvas.draw()  # what cannot be drawn shows here
        plt.close(figure)


def results(methods: list[str], seeds: int) -> pd.DataFrame:
    """A row per method and seed, methods not in alphabetical order."""
    rng = np.random.default_rng(0)
    rows = [{"method": method, "seed": seed} for method in methods for seed in range(seeds)]
    return pd.DataFrame(rows).assign(dev_accuracy=lambda frame: rng.uniform(0.5, 0.9, len(frame)))


def dots(ax: Axes) -> list[list[tuple[float, float]]]:
    return [[tuple(point) for point in scatter.get_offsets().tolist()] for scatter in ax.collections]


def method_lines(ax: Axes) -> dict[str, Line2D]:
    """Each method's line, by the label that the legend gives to its colour."""
    handles, labels = ax.get_legend_handles_labels()
    names = {
        to_hex(handle.get_color()): label
        for handle, label in zip(handles, labels, strict=True)
        if isinstance(handle, Line2D)
    }
    lines = [line for line in ax.lines if len(line.get_xdata())]  # an empty one is for the legend alone
    return {names[color]: line for line in lines if (color := to_hex(line.get_color())) in names}


def test_style_is_for_the_whole_session() -> None:
    with matplotlib.rc_context():
        figures.use_style()
        assert matplotlib.rcParams["figure.figsize"] == [7, 3.6]
        assert not matplotlib.rcParams["axes.spines.top"]
        assert set(matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]) >= set(figures.COLORS.values()) - {
            "#000000"
        }


@pytest.mark.parametrize(("teacher", "student", "strategy"), [(12, 6, "skip"), (12, 3, "last"), (4, 1, "skip")])
def test_layer_map_has_a_box_per_layer_and_an_arrow_per_pair(
    teacher: int, student: int, strategy: str, ax: Axes
) -> None:
    layers = layer_map(teacher, student, strategy)
    assert figures.plot_layer_map(teacher, student, layers, ax) is ax
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == teacher + student
    arrows = [text for text in ax.texts if isinstance(text, Annotation)]
    pairs = [(round(arrow.xy[1]), round(arrow.xyann[1])) for arrow in arrows]  # they point at the student's layers
    assert pairs == list(enumerate(layers, start=1)) and all(arrow.xy[0] < arrow.xyann[0] for arrow in arrows)
    blue = [to_hex(box.get_facecolor()) != "#eeeeee" for box in boxes]
    assert [layer for layer, marked in enumerate(blue[:student], start=1) if marked] == list(range(1, student))
    assert [layer for layer, marked in enumerate(blue[student:], start=1) if marked] == layers
    low, high = ax.get_ylim()
    assert low < 0.6
    assert high > teacher + 0.4


@pytest.mark.parametrize("seeds", [1, 3])
def test_history_is_a_line_per_method(seeds: int, ax: Axes) -> None:
    frame = pd.concat([results(METHODS, seeds).assign(epoch=epoch) for epoch in (1, 2, 3)])
    frame["dev_accuracy"] += frame["epoch"] / 100
    assert figures.plot_history(frame, "dev_accuracy", ax) is ax
    lines = method_lines(ax)
    assert list(lines) == METHODS
    for method, line in lines.items():
        assert to_hex(line.get_color()) == figures.COLORS.get(method, figures.OTHER).lower()
        means = frame[frame["method"] == method].groupby("epoch")["dev_accuracy"].mean()
        assert line.get_xdata().tolist() == [1, 2, 3]
        np.testing.assert_allclose(line.get_ydata(), means)
    assert len(ax.collections) == len(METHODS)  # the bands
    if seeds > 1:  # of one run, no band is to be seen
        values = frame[frame["method"] == "FT"]["dev_accuracy"]
        band = ax.collections[0].get_paths()[0].get_extents()
        assert (band.ymin, band.ymax) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "dev accuracy")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == METHODS


@pytest.mark.parametrize("seeds", [1, 4])
@pytest.mark.parametrize("teacher", [None, 0.93])
def test_comparison_has_a_dot_per_seed(seeds: int, teacher: float | None, ax: Axes) -> None:
    frame = results(METHODS, seeds)
    assert figures.plot_comparison(frame, "dev_accuracy", ax, teacher) is ax
    (scatter,) = [scatter for scatter in ax.collections if hasattr(scatter, "get_sizes") and len(scatter.get_sizes())]
    for position, method in enumerate(METHODS):
        values = frame.loc[frame["method"] == method, "dev_accuracy"]
        near = abs(scatter.get_offsets()[:, 0] - position) < 0.5
        np.testing.assert_allclose(scatter.get_offsets()[near, 1], values)
        colors = {to_hex(color) for color in scatter.get_facecolor()[near]}
        assert colors == {figures.COLORS.get(method, figures.OTHER).lower()}
        (diamond,) = ax.containers[position].lines[0].get_ydata()
        assert diamond == pytest.approx(values.mean())
        if seeds > 1:
            (bar,) = ax.containers[position].lines[2][0].get_segments()
            np.testing.assert_allclose(bar[:, 1], mean_interval(values)[1:])
    assert [label.get_text() for label in ax.get_xticklabels()] == METHODS
    lines = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in lines] == ([] if teacher is None else [teacher])
    assert not [line for line in ax.lines if line.get_linestyle() == ":"]


@pytest.mark.parametrize(("seeds", "width"), [(1, 0), (3, 1)])
def test_a_grey_line_joins_the_dots_of_each_seed_where_there_are_several(seeds: int, width: int, ax: Axes) -> None:
    frame = results(METHODS, seeds)
    figures.plot_comparison(frame, "dev_accuracy", ax)
    joining = [line for line in ax.lines if to_hex(line.get_color()) == "#cccccc"]
    assert [line.get_linewidth() for line in joining] == [width] * seeds
    for seed, line in enumerate(joining):
        np.testing.assert_allclose(line.get_xdata(), np.arange(len(METHODS)) - 0.12)
        np.testing.assert_allclose(line.get_ydata(), frame.loc[frame["seed"] == seed, "dev_accuracy"])


def test_panels_share_one_legend_with_each_label_once() -> None:
    figure, axes = plt.subplots(1, 2)
    for methods, ax in zip((["FT", "KD"], ["KD", "PKD-Skip"]), axes, strict=True):
        figures.plot_history(results(methods, 2).assign(epoch=1), "dev_accuracy", ax)
    figures.share_legend(figure)
    (legend,) = figure.legends
    assert [ax.get_legend() for ax in axes] == [None, None]
    assert [text.get_text() for text in legend.get_texts()] == ["FT", "KD", "PKD-Skip"]
    shown = [to_hex(handle.get_color()) for handle in legend.legend_handles]
    assert shown == [figures.COLORS[method].lower() for method in ("FT", "KD", "PKD-Skip")]
    plt.close(figure)


def test_a_comparison_shows_what_naming_the_most_frequent_class_scores(ax: Axes) -> None:
    frame = results(METHODS, 2)
    figures.plot_comparison(frame.assign(dev_accuracy_majority=0.68), "dev_accuracy", ax, 0.93)
    (line,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert line.get_ydata()[0] == pytest.approx(0.68)
    assert [text.get_text() for text in ax.texts] == ["teacher", "majority"]


def test_layers_that_cannot_be_compared_stay_blank(ax: Axes) -> None:
    nan = float("nan")
    figures.plot_similarity(np.array([[0.1, nan, 0.3], [nan, nan, nan], [0.5, 0.2, nan]]), ax, chosen=2)
    assert dots(ax)[1] == [(2.5, 0.5), (0.5, 2.5)]
    assert np.ma.getmaskarray(ax.collections[0].get_array()).sum() == 5


@pytest.mark.parametrize("pairs", [1, 5])
def test_differences_are_in_percentage_points(pairs: int, ax: Axes) -> None:
    low, high = (float("nan"), float("nan")) if pairs == 1 else (-0.005, 0.025)
    rows = [
        {"method": method, "baseline": "KD", "difference": 0.01, "low": low, "high": high, "pairs": pairs}
        for method in ("PKD-Skip", "PKD-Last")
    ]
    frame = pd.DataFrame(rows, index=[7, 3])
    assert figures.plot_differences(frame, ax) is ax
    for position, container in enumerate(ax.containers):
        point = container.lines[0]
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (pytest.approx(1), position)
        if pairs > 1:
            (bar,) = container.lines[2][0].get_segments()
            np.testing.assert_allclose(bar[:, 0], [-0.5, 2.5])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["PKD-Skip minus KD", "PKD-Last minus KD"]
    bottom, top = ax.get_ylim()
    assert bottom > top  # the first row is the uppermost
    assert [0, 0] in [list(line.get_xdata()) for line in ax.lines]


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_similarity_is_on_a_fixed_scale(kind: str, ax: Axes) -> None:
    similarity = torch.rand(6, 12, generator=torch.Generator().manual_seed(0)) / 2 - 0.1
    layers = layer_map(12, 6)
    given = similarity if kind == "tensor" else similarity.numpy()
    assert figures.plot_similarity(given, ax, layers, title="on dev") is ax
    mesh = ax.collections[0]
    assert mesh.get_clim() == (0, 1)
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(6, 12), similarity.numpy())
    outlined = [(box.get_xy(), box.get_width(), box.get_height(), box.get_fill()) for box in ax.patches]
    assert outlined == [((layer - 1, row), 1, 1, False) for row, layer in enumerate(layers)]
    best = [(layer + 0.5, row + 0.5) for row, layer in enumerate(similarity.argmax(dim=1).tolist())]
    assert dots(ax)[1] == best
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(layer) for layer in range(1, 13)]
    assert [label.get_text() for label in ax.get_yticklabels()] == [str(layer) for layer in range(1, 7)]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("teacher layer", "student layer", "on dev")
    assert len(ax.figure.axes) == 2  # the colour bar's too


def test_a_confusion_matrix_counts_rows_and_is_coloured_by_shares_on_a_fixed_scale(ax: Axes) -> None:
    labels, predictions = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 2, 1])
    figures.plot_confusion(labels, predictions, ["a", "b", "c"], ax)
    assert [int(text.get_text()) for text in ax.texts] == [3, 1, 0, 0, 1, 1, 0, 0, 0]
    (mesh,) = ax.collections
    assert np.ravel(mesh.get_array()).tolist() == [0.75, 0.25, 0, 0, 0.5, 0.5, 0, 0, 0]  # of c there is no row
    assert mesh.get_clim() == (0, 1)
    for axis, name in ((ax.xaxis, "predicted"), (ax.yaxis, "label")):
        assert [tick.get_text() for tick in axis.get_ticklabels()] == ["a", "b", "c"]
        assert axis.get_label_text() == name


def test_similarity_needs_no_layer_map(ax: Axes) -> None:
    figures.plot_similarity(np.eye(3), ax, scale=False)
    assert not ax.patches and len(ax.figure.axes) == 1
    assert dots(ax)[1] == [(0.5, 0.5), (1.5, 1.5), (2.5, 2.5)]


def test_axes_of_one_figure_are_independent() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    figures.plot_similarity(np.eye(4), right, [1, 2])
    assert not left.has_data()
    assert right.has_data()
    plt.close(figure)


@pytest.mark.parametrize(("student", "arrows"), [(3, 4), (1, 2)])
def test_distillation_has_the_layer_map_s_arrows_and_one_for_each_other_loss(
    student: int, arrows: int, ax: Axes
) -> None:
    assert figures.plot_distillation(12, student, layer_map(12, student), ax) is ax
    drawn = [text for text in ax.texts if isinstance(text, Annotation)]
    assert len(drawn) == arrows
    words = " ".join(text.get_text() for text in ax.texts)
    assert ("L_{PT}" in words) == (student > 1)
    assert all(loss in words for loss in ("L_{CE}", "L_{DS}"))


@pytest.mark.parametrize("seeds", [1, 3])
def test_matched_layers_are_a_line_per_method_above_the_noise(seeds: int, ax: Axes) -> None:
    rng = np.random.default_rng(0)
    rows = [{"method": m, "seed": seed, "layer": layer} for m in METHODS for seed in range(seeds) for layer in (1, 2)]
    frame = pd.DataFrame(rows).assign(
        similarity=rng.uniform(0.3, 0.9, len(rows)), baseline=rng.uniform(-0.05, 0.05, len(rows))
    )
    assert figures.plot_matched_layers(frame, ax) is ax
    lines = method_lines(ax)
    for method in METHODS:
        means = frame[frame["method"] == method].groupby("layer")["similarity"].mean()
        assert lines[method].get_xdata().tolist() == [1, 2]
        np.testing.assert_allclose(lines[method].get_ydata(), means)
    assert len(ax.collections) == 1 + len(METHODS)  # the noise and the bands over seeds
    noise = ax.collections[0].get_paths()[0].get_extents()
    assert (noise.ymin, noise.ymax) == (pytest.approx(frame["baseline"].min()), pytest.approx(frame["baseline"].max()))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["shuffled pairs", *METHODS]


@pytest.mark.parametrize("labelled", [True, False])
def test_points_are_coloured_by_label(labelled: bool, ax: Axes) -> None:
    points, labels = np.arange(8.0).reshape(4, 2), np.array([0, 1, 1, 0])
    names = ["negative", "positive"]
    assert figures.plot_points(points, labels if labelled else None, names, ax, shares=[0.61, 0.2]) is ax
    groups = [points[[0, 3]], points[[1, 2]]] if labelled else [points]
    for scatter, group in zip(ax.collections, groups, strict=True):
        np.testing.assert_allclose(scatter.get_offsets(), group)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == (names if labelled else ["no labels"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first axis (61 %)", "second axis (20 %)")


def test_points_of_many_labels_all_have_a_colour_of_their_own(ax: Axes) -> None:
    points, names = np.arange(20.0).reshape(10, 2), ["a", "b", "c", "d", "e"]
    figures.plot_points(points, np.arange(10) % 5, names, ax, shares=[0.5, 0.1])
    drawn = np.concatenate([scatter.get_offsets() for scatter in ax.collections])
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, points))
    assert len({to_hex(scatter.get_facecolor()[0]) for scatter in ax.collections}) == 5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names


def test_an_ablation_is_a_line_per_method_over_evenly_spaced_values(ax: Axes) -> None:
    frame = pd.DataFrame(
        {"rows": rows, "method": method, "seed": seed, "score": base + 0.1 * seed + rows / 1000}
        for rows in (500, 100, 32)
        for method, base in (("KD", 0.2), ("FT", 0.1))
        for seed in (0, 1)
    )
    figures.plot_ablation(frame, "rows", "score", ax)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["32", "100", "500"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["KD", "FT"]
    for container, base, shift in zip(ax.containers, (0.2, 0.1), (-0.03, 0.03), strict=True):
        line, _, (bars,) = container
        np.testing.assert_allclose(line.get_xdata(orig=False), np.arange(3) + shift)
        np.testing.assert_allclose(line.get_ydata(orig=False), base + 0.05 + np.array([0.032, 0.1, 0.5]))
        half = 12.7062 * 0.05  # Student's t of one degree of freedom times the standard error of two values 0.1 apart
        np.testing.assert_allclose(
            [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()], 2 * half, rtol=1e-4
        )


def test_an_ablation_of_names_and_of_single_seeds_is_drawn_without_intervals(ax: Axes) -> None:
    frame = pd.DataFrame({"init": ["teacher", "pretrained"], "method": "KD", "score": [0.9, 0.8]})
    figures.plot_ablation(frame, "init", "score", ax)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["pretrained", "teacher"]
    assert ax.containers[0][0].get_ydata().tolist() == [0.8, 0.9]


def test_the_points_of_an_ablation_s_only_value_stay_at_it(ax: Axes) -> None:
    frame = pd.DataFrame({"epochs": 12, "method": ["FT", "KD"], "score": [0.9, 0.8]})
    figures.plot_ablation(frame, "epochs", "score", ax)
    assert ax.get_xlim() == (-0.5, 0.5)
    assert [container[0].get_xdata().tolist() for container in ax.containers] == [[-0.03], [0.03]]


def test_arrows_have_the_colour_that_is_asked_for(ax: Axes) -> None:
    figures.plot_layer_map(4, 2, [3], ax, color=figures.OTHER)
    (arrow,) = [text for text in ax.texts if isinstance(text, Annotation)]
    assert to_hex(arrow.arrow_patch.get_edgecolor()) == figures.OTHER.lower()


def test_a_chosen_layer_is_framed_over_all_columns(ax: Axes) -> None:
    matrix = torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.1, 0.7]])
    assert figures.plot_similarity(matrix, ax, title="cka", chosen=2) is ax
    (frame,) = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (0, 1, 3, 1)
    assert ax.get_title() == "cka"


def test_neighbours_and_the_chosen_row_stand_out(ax: Axes) -> None:
    points = np.arange(8.0).reshape(4, 2)
    assert figures.plot_neighbours(points, 2, [3, 1], ax, [0.61, 0.2]) is ax
    assert dots(ax) == [[tuple(point) for point in points.tolist()], [(6, 7), (2, 3)], [(4, 5)]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["all rows", "nearest", "chosen row"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first axis (61 %)", "second axis (20 %)")


def test_neighbours_have_the_colours_of_their_labels_in_every_panel(ax: Axes) -> None:
    points, labels = np.arange(8.0).reshape(4, 2), ["good", "bad", "good", "bad"]
    figures.plot_neighbours(points, 2, [0, 1], ax, [0.61, 0.2], labels)
    names = ["all rows", "nearest, bad", "nearest, good", "chosen row, good"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names
    assert dots(ax)[1:] == [[(2, 3)], [(0, 1)], [(4, 5)]]
    bad, good, chosen = (to_hex(drawn.get_facecolor()[0]) for drawn in ax.collections[1:])
    assert good == chosen != bad
    figures.plot_neighbours(points, 2, [0], other := plt.figure().subplots(), [0.61, 0.2], labels)
    assert to_hex(other.collections[1].get_facecolor()[0]) == good  # where no bad one is near, good keeps its colour
    plt.close(other.figure)


def test_soft_targets_are_a_pair_of_bars_per_class(ax: Axes) -> None:
    teacher, student = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.25, 0.25])
    names = ("no", "perhaps", "yes")
    assert figures.plot_soft_targets(teacher, student, ax, names) is ax
    for container, values in zip(ax.containers, (teacher, student), strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in container], values)
    assert [label.get_text() for label in ax.get_xticklabels()] == list(names)


def test_terms_are_drawn_with_their_weights_beside_their_sum_the_soft_one_above_its_floor(ax: Axes) -> None:
    terms = PKDTerms(*map(torch.tensor, (0.25 * 2 + 0.75 * 4 + 0.1 * 5, 2.0, 4.0, 5.0)))
    assert figures.plot_terms(terms, alpha=0.75, beta=0.1, ax=ax, floor=3.6) is ax
    assert [bar.get_height() for bar in ax.containers[0]] == pytest.approx([0.5, 0.3, 0.5, 1.3])
    assert [text.get_text() for text in ax.texts] == ["0.5", "0.3", "0.5", "1.3"]


def test_a_row_s_loss_is_drawn_for_each_alpha_down_to_where_the_student_settles(ax: Axes) -> None:
    pair = torch.tensor([0.9, 0.1]).log()  # the label is what the teacher believes least
    assert figures.plot_alphas(pair, 5.0, [0, 0.48, 1], ax) is ax
    curves, dots = ax.lines[:6:2], ax.lines[1:6:2]
    settled = [(float(dot.get_xdata()[0]), float(dot.get_ydata()[0])) for dot in dots]
    assert settled[0] == (8, pytest.approx(0.0003, abs=1e-4))  # -log sigmoid(8): the label, without bound
    assert settled[1][0] == pytest.approx(0, abs=1e-6)  # between the two: outvoted from here on
    assert settled[2] == pytest.approx((-2.2, 0), abs=1e-3)  # log 9, the teacher's own margin, at the floor
    assert curves[0].get_ydata()[160] == pytest.approx(0.6931, abs=1e-4)  # log 2 at a margin of zero


def chart_rows() -> pd.DataFrame:
    """Three runs, two of them of one latency and nearly one score."""
    return pd.DataFrame(
        {
            "method": ["FT", "teacher", "KD"],
            "num_hidden_layers": [3, 12, 3],
            "num_parameters": [100, 400, 100],
            "latency_ms": [10.0, 40.0, 10.0],
            "score": [0.80, 0.90, 0.801],
        }
    )


def test_latency_and_accuracy_have_a_labelled_marker_whose_area_is_the_size(ax: Axes) -> None:
    assert figures.plot_latency_accuracy(chart_rows(), "score", ax) is ax
    assert dots(ax) == [[(10.0, 0.8)], [(10.8, 0.801)], [(40.0, 0.9)]]  # from the lowest up, equal times side by side
    small, _, large = (scatter.get_sizes().item() for scatter in ax.collections)
    assert large == 4 * small
    assert [to_hex(scatter.get_facecolor()[0]) for scatter in ax.collections] == [
        figures.COLORS[method].lower() for method in ("FT", "KD", "teacher")
    ]
    assert [text.get_text() for text in ax.texts] == ["FT, 3 layers", "KD, 3 layers", "teacher, 12 layers"]
    assert all(not container.has_xerr and not container.has_yerr for container in ax.containers)
    assert ax.get_xlim()[0] == 0
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latency of one batch, ms", "score")


def test_labels_of_equal_markers_do_not_cover_each_other(ax: Axes) -> None:
    figures.plot_latency_accuracy(chart_rows(), "score", ax)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(two) for one in boxes for two in boxes if one is not two)


def test_a_run_without_a_score_has_no_marker_and_no_label(ax: Axes) -> None:
    frame = chart_rows()
    frame.loc[frame["method"] == "teacher", "score"] = float("nan")
    figures.plot_latency_accuracy(frame, "score", ax)
    assert [text.get_text() for text in ax.texts] == ["FT, 3 layers", "KD, 3 layers"]
    assert len(ax.collections) == 2


@pytest.mark.parametrize("side", ["x", "y"])
def test_intervals_of_latency_lie_across_and_those_of_accuracy_upright(side: str, ax: Axes) -> None:
    name, value, axis = ("latency", "latency_ms", 0) if side == "x" else ("score", "score", 1)
    frame = chart_rows()
    frame[f"{name}_low"], frame[f"{name}_high"] = frame[value] * 0.9, frame[value] * 1.2
    frame.loc[frame["method"] == "teacher", [f"{name}_low", f"{name}_high"]] = float("nan")  # a single run
    figures.plot_latency_accuracy(frame, "score", ax)
    (bar,) = ax.containers[0].lines[2][0].get_segments()
    lowest = frame.loc[0, value]
    np.testing.assert_allclose(bar[:, axis], [0.9 * lowest, 1.2 * lowest])
    assert bar[0, 1 - axis] == bar[1, 1 - axis]
    assert len(ax.texts) == 3


def test_speedups_stand_beside_the_ratio_of_layers(ax: Axes) -> None:
    found = pd.DataFrame(
        {
            "num_hidden_layers": [12, 6, 3],
            "speedup": [1, 1.9, 3.5],
            "low": [1, 1.8, 3.0],
            "high": [1, 2.0, 4.2],
            "limit": [1, 2, 4],
        }
    )
    assert figures.plot_speedup({"clock": found, "processor": found}, ax) is ax
    clock, processor = ax.containers
    np.testing.assert_allclose(clock.lines[0].get_ydata(orig=False), found["speedup"])
    np.testing.assert_allclose(clock.lines[2][0].get_segments()[2][:, 1], [3.0, 4.2])
    assert (clock.lines[0].get_xdata(orig=False) < processor.lines[0].get_xdata(orig=False)).all()
    (limit,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(limit.get_xdata() * limit.get_ydata(), 12)
    assert (limit.get_xdata().min(), limit.get_xdata().max()) == (3, 12)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(labels) == ["clock", "limit: ratio of layers", "processor"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layers", "times as fast")


def test_ratios_are_bars_with_their_range_and_their_limit(ax: Axes) -> None:
    recorded = pd.DataFrame(
        {
            "label": ["the first", "the second"], "median": [8.0, 2.0], "low": [7.0, 1.9], "high": [8.5, 2.2],
            "limit": [9.5, np.nan],
        },
        index=[7, 3],
    )  # fmt: skip
    assert figures.plot_ratios(recorded, ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [8.0, 2.0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["the first", "the second"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first one stands on top
    segments = ax.collections[0].get_segments()
    np.testing.assert_allclose([segment[:, 0] for segment in segments], [[7.0, 8.5], [1.9, 2.2]])
    (limit,) = [line for line in ax.lines if line.get_label() == "limit"]
    np.testing.assert_allclose(limit.get_xdata(), [9.5, np.nan])


def test_nested_differences_have_the_plain_interval_below_theirs(ax: Axes) -> None:
    row = {"method": "PKD-Reverse", "baseline": "KD", "difference": 0.01, "low": -0.02, "high": 0.04}
    figures.plot_differences(pd.DataFrame([row | {"plain_low": 0.005, "plain_high": 0.015}]), ax)
    (plain,) = [line for line in ax.lines if line.get_color() == "#999999"]
    assert plain.get_xdata() == pytest.approx([0.5, 1.5]) and 0 < plain.get_ydata()[0] < 0.5
    figures.plot_differences(pd.DataFrame([row]), ax)
    assert sum(line.get_color() == "#999999" for line in ax.lines) == 1


@pytest.mark.parametrize("low", [0.0, np.nan])  # of one seed there is no interval
def test_differences_beside_the_paper_draw_what_there_is(low: float, ax: Axes) -> None:
    frame = pd.DataFrame(
        {
            "method": ["KD", "PKD-Last"], "baseline": "FT", "difference": [0.01, 0.02], "low": low,
            "high": [0.02 + low, 0.04 + low], "paper_test": [0.005, np.nan], "authors_dev": [-0.004, np.nan],
        }
    )  # fmt: skip
    assert figures.plot_beside_paper(frame, ax, one_row=1 / 200) is ax
    drawn = {
        (line.get_marker(), round(x, 6), round(y))
        for line in ax.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if line.get_marker() in ("D", "o", "s") and np.isfinite(x)
    }
    assert drawn == {("D", 1.0, 0), ("D", 2.0, 1), ("o", 0.5, 0), ("s", -0.4, 0)}
    (band,) = [patch for patch in ax.patches if patch.get_label() == "one row"]
    assert (band.get_extents().transformed(ax.transData.inverted()).x0, band.get_width()) == pytest.approx((-0.5, 1.0))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["KD minus FT", "PKD-Last minus FT"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "ours", "the paper, GLUE test", "the authors, dev", "one row",
    ]  # fmt: skip
