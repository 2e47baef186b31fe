"""Draw the README's picture, pkd.svg, beside this file: `python notebooks/guide/picture.py`."""

from pathlib import Path

import matplotlib.pyplot as plt

from pkdlib.analysis.figures import plot_distillation, use_style
from pkdlib.layer_maps import layer_map

PICTURE = Path(__file__).with_name("pkd.svg")
TEACHER_LAYERS, STUDENT_LAYERS = 12, 6


def draw(path: Path = PICTURE) -> None:
    """Write the picture of PKD-Skip with the paper's sizes as SVG, on white, which dark pages need."""
    use_style()
    plt.rcParams["svg.hashsalt"] = "pkd"  # equal drawings are equal files
    figure, ax = plt.subplots(figsize=(7, 4.2))
    layers = layer_map(TEACHER_LAYERS, STUDENT_LAYERS, "skip")
    plot_distillation(TEACHER_LAYERS, STUDENT_LAYERS, layers, ax)
    figure.savefig(path, facecolor="white", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw()
