"""Three explorers: controls, and a figure that is drawn anew when one of them moves."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

import pandas as pd
from IPython.core.pylabtools import print_figure
from ipywidgets import HTML, Box, Checkbox, Dropdown, FloatSlider, Image, IntSlider, SelectionSlider, Text, VBox, Widget
from matplotlib.figure import Figure
from torch import Tensor

from pkdlib.analysis import figures, similarity
from pkdlib.config import DistillConfig
from pkdlib.layer_maps import STRATEGIES, layer_map
from pkdlib.losses import FORMS, kd_loss, pkd_loss, soft_targets

OWN = "own"  # the layer map that the learner types
BETAS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 500.0, 1000.0)  # small for the paper's form, large for the other


class Explorer(Box):
    """Named `controls` beside the image `figure`, over the HTML `text`; the last line of a cell shows it.

    draw(figure of `size` inches, **values of the controls) gives the text; settle(), before it, fits controls together.
    """

    def __init__(self, controls: dict[str, Widget], draw: Callable[..., str], size: tuple[float, float],
                 settle: Callable[[], None] = lambda: None):  # fmt: skip
        self.controls, self._draw, self._size, self._settle, self._drawn = controls, draw, size, settle, None
        natural = {"align_self": "flex-start", "max_width": "100%", "height": "auto"}  # its own size where that fits
        self.figure = Image(layout=natural).add_class("pkd-figure")  # ipywidgets 8.1 shows none that has a tooltip
        self.text = HTML().add_class("pkd-text")
        width = f"1 1 {size[0] * Figure().dpi:.0f}px"  # beside the controls where there is room for it, else below
        shown = VBox([self.figure, self.text], layout={"min_width": "0", "flex": width})
        flow = "column" if size[0] < 9 else "row wrap"  # above a wide figure they stand side by side
        column = Box(list(controls.values()), layout={"flex": "0 1 auto", "flex_flow": flow})
        super().__init__([column, shown], layout={"flex_flow": "row wrap"})
        self.add_class("pkd-explorer")
        self._update()
        for control in controls.values():
            control.style.description_width, control.layout.width = "8em", "26em"
            control.continuous_update = False  # drawing takes longer than a slider's steps
            control.add_class("pkd-control").observe(self._update, "value")

    def _update(self, _change: object = None) -> None:
        self._settle()  # a control that it moves ends here by itself
        values = {name: control.value for name, control in self.controls.items()}
        if values != self._drawn:
            self._drawn, figure = values, Figure(figsize=self._size, layout="constrained")
            self.text.value = self._draw(figure, **values)
            self.figure.value = print_figure(figure, bbox_inches=None)


def layer_map_picker(num_teacher_layers: int, num_student_layers: int) -> Explorer:
    """Which teacher layer each student layer imitates: the sizes, and Skip, Last or an own list.

    An impossible list shows what is wrong, and no arrows. ValueError when the student has more layers than the teacher.
    """
    layer_map(num_teacher_layers, num_student_layers)  # the sizes fit, or the one line that says why not
    teacher = IntSlider(num_teacher_layers, 1, max(24, num_teacher_layers), description="N, teacher")
    student = IntSlider(num_student_layers, 1, num_teacher_layers, description="k, student")
    strategy = Dropdown(options=[*STRATEGIES, OWN], description="strategy")
    own = Text(description="own list", placeholder="2, 4, 6, 8, 10")

    def settle() -> None:
        student.max = teacher.value
        own.disabled = strategy.value != OWN
        if own.disabled:  # an own list starts from the map that was shown last
            own.value = ", ".join(map(str, layer_map(teacher.value, student.value, strategy.value)))

    def draw(figure: Figure, teacher: int, student: int, strategy: str, own: str) -> str:
        try:
            layers = layer_map(teacher, student, parse_layers(own) if strategy == OWN else strategy)
            html = f"{strategy}: {layers}"
        except ValueError as error:
            layers = []
            html = f'<span class="pkd-message" role="alert" style="color: #b00020">{escape(str(error))}</span>'
        color = figures.COLORS.get(f"PKD-{strategy.capitalize()}", figures.OTHER)
        figures.plot_layer_map(teacher, student, layers, figure.subplots(), color).set_title(strategy)
        return html

    return Explorer({"teacher": teacher, "student": student, "strategy": strategy, "own": own}, draw, (4.5, 5), settle)


def parse_layers(text: str) -> list[int]:
    """The teacher layers of a text such as "2, 4, 6"; ValueError unless whole numbers stand between the commas."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"strategy = {text!r}: must be teacher layers with commas between them, such as 2, 4, 6")
    return list(map(int, parts))


def loss_explorer(batch: Mapping[str, Tensor], texts: Sequence[Sequence[str]], label_names: Sequence[str],
                  start: DistillConfig | None = None) -> Explorer:  # fmt: skip
    """One row's soft targets, and the three weighted terms of a stored batch, the soft one above its floor.

    batch: the tensors that `pkd_loss` takes, by name; texts: as a Split has them, a column of texts or two. It opens
    with the settings `start`, on the row whose label the teacher believes least.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in batch.items()}
    labels, start = tensors["labels"].tolist(), start or DistillConfig()
    believed = soft_targets(tensors["teacher_logits"], 1.0).gather(1, tensors["labels"][:, None])
    betas, heat = sorted({*BETAS, start.beta}), {"min": min(1, start.temperature), "max": max(20, start.temperature)}
    controls = {
        "row": IntSlider(int(believed.argmin()), 0, len(labels) - 1, description="row"),
        "temperature": FloatSlider(start.temperature, **heat, step=0.5, description="T", readout_format=".1f"),
        "alpha": FloatSlider(start.alpha, min=0, max=1, step=0.05, description="alpha"),
        "beta": SelectionSlider(options=[(f"{beta:g}", beta) for beta in betas], value=start.beta, description="beta"),
        "form": Dropdown(options=FORMS, value=start.form, description="form"),
        "t_squared": Checkbox(start.t_squared, description="times T squared"),
        "normalize": Checkbox(start.normalize, description="compare directions only"),
    }

    def draw(figure: Figure, row: int, temperature: float, **settings: Any) -> str:
        terms, weights = pkd_loss(**tensors, temperature=temperature, **settings), (settings["alpha"], settings["beta"])
        soft = [soft_targets(tensors[f"{model}_logits"][row], temperature) for model in ("teacher", "student")]
        left, right = figure.subplots(1, 2)
        figures.plot_soft_targets(*soft, left, label_names).set_title(f"row {row} at T = {temperature:g}")
        form = (temperature, settings["form"], settings["t_squared"])
        floor = max(0.0, kd_loss(*[tensors["teacher_logits"]] * 2, *form).item())  # it may round to less than zero
        figures.plot_terms(terms, *weights, right, floor).set_title(f"the batch of {len(labels)} rows")
        values = ", ".join(f"{name} {value:.4f}" for name, value in terms._asdict().items() if name != "loss")
        html = f"{_row_text(texts, row)} <b>Label: {escape(label_names[labels[row]])}.</b><br>"
        html += f"Without their weights: {values}; the weighted sum: {terms.loss:.4f}.<br>"
        return f"{html}The floor H of loss_kd, where the student says what the teacher says: {floor:.4f}"

    return Explorer(controls, draw, (7.5, 3.4))


def _row_text(texts: Sequence[Sequence[str]], row: int) -> str:
    return escape(" | ".join(column[row] for column in texts))


def similarity_explorer(states: Mapping[str, Tensor], texts: Sequence[Sequence[str]], metric: str = "cka",
                        labels: Sequence[str] = ()) -> Explorer:  # fmt: skip
    """How alike the layers of A and B are; the rows nearest to one in a layer of B and in A's most similar layer.

    states: name -> [CLS] states (rows, layers, hidden) of two or more models; texts: the same rows, as a Split has
    them; labels: their labels' names. ValueError with fewer than two models or when rows and texts differ in number.
    """
    sizes = {name: len(of_model) for name, of_model in states.items()}
    if len(sizes) < 2:
        raise ValueError(f"states: holds {len(sizes)} model, at least two are needed")
    if len({*sizes.values(), *map(len, texts)}) > 1:
        raise ValueError(f"rows differ in number: states {sizes}, texts {[len(column) for column in texts]}")
    names, depth = list(states), list(states.values())[1].shape[1]
    controls = {
        "a": Dropdown(options=names, description="model A"),
        "b": Dropdown(options=names, value=names[1], description="model B"),
        "metric": Dropdown(options=list(similarity.SIMILARITIES), value=metric, description="metric"),
        "layer": IntSlider(depth, 1, depth, description="layer of B"),
        "row": IntSlider(0, 0, sizes[names[0]] - 1, description="example row"),
    }
    compare = cache(lambda a, b, name: similarity.get_similarity(name)(states[b], states[a]))
    name_of = lambda row: f"{row}, {escape(labels[row])}" if labels else f"{row}"  # noqa: E731
    components = cache(lambda model, layer: similarity.principal_components(states[model][:, layer - 1]))

    def settle() -> None:
        a, b = states[controls["a"].value], states[controls["b"].value]
        controls["layer"].max = b.shape[1]
        usable, metric = tuple(similarity.usable_similarities(b, a)), controls["metric"]
        if metric.options != usable:
            metric.options, metric.value = usable, metric.value if metric.value in usable else usable[0]

    def draw(figure: Figure, a: str, b: str, metric: str, layer: int, row: int) -> str:
        matrix = compare(a, b, metric)  # (layers of B, layers of A)
        alike = similarity.most_similar_layers(matrix)[layer - 1]
        heatmap, *maps = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
        figures.plot_similarity(matrix, heatmap, title=metric, chosen=layer)
        heatmap.set(xlabel=f"layer of {a}", ylabel=f"layer of {b}")
        nearest = {}  # title -> the rows' numbers and texts
        for model, number, ax in ((b, layer, maps[0]), (a, alike or states[a].shape[1], maps[1])):
            rows = similarity.nearest_rows(states[model][:, number - 1], row)
            (points, shares), title = components(model, number), f"{model}, layer {number}"
            figures.plot_neighbours(points, row, rows, ax, shares, labels).set_title(title)
            nearest[escape(title)] = [f"<b>{name_of(other)}</b> {_row_text(texts, other)}" for other in rows]
        with pd.option_context("display.max_colwidth", None):  # no text is cut
            table = pd.DataFrame(nearest).to_html(index=False, border=0, escape=False)
        table = table.replace("<th>", '<th style="text-align: left">')  # JupyterLab sets it right
        html = f"{escape(metric)}: layer {layer} of {escape(b)} is most like layer {alike} of {escape(a)}.<br>"
        if not alike:
            html = f"{escape(metric)}: layer {layer} of {escape(b)} can be compared with no layer of {escape(a)}.<br>"
        shown = f"<b>Row {name_of(row)}:</b> {_row_text(texts, row)}<br>Nearest to it in {table}"
        return f'{html}<div style="line-height: 1.25; font-size: 12px">{shown}</div>'

    return Explorer(controls, draw, (11, 3), settle)  # with its texts it fits a screen of 1280 x 800
