"""Which teacher layer each student layer imitates."""

from collections.abc import Sequence
from itertools import pairwise

STRATEGIES = ("skip", "last")


def parse_layers(text: str) -> list[int]:
    """The teacher layers of a text such as "2, 4, 6"; an empty one names none.

    Raises ValueError when anything but whole numbers stands between the commas.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"strategy = {text!r}: must be teacher layers with commas between them, such as 2, 4, 6")
    return [int(part) for part in parts]


def layer_map(num_teacher_layers: int, num_student_layers: int, strategy: str | Sequence[int] = "skip") -> list[int]:
    """Teacher layers I(1), ..., I(k-1) matched by student layers 1, ..., k-1 (section 3.2 of the paper).

    With N teacher and k student layers, 1-based (layer 0 is the embedding output):

        Skip:  I(j) = j N / k      (rounded down where k does not divide N)
        Last:  I(j) = N - k + j

    The student's last layer is left out, because it feeds the classifier. A list of k-1 teacher layers is
    checked and returned: in 1..N and strictly increasing.

    Raises ValueError when k is not in 1..N or the strategy is neither a known name nor such a list.
    """
    n, k = num_teacher_layers, num_student_layers
    if not 1 <= k <= n:
        raise ValueError(f"num_student_layers = {k}: must be between 1 and the teacher's {n} layers")
    if strategy == "skip":
        return [j * n // k for j in range(1, k)]
    if strategy == "last":
        return [n - k + j for j in range(1, k)]
    if isinstance(strategy, str) or not isinstance(strategy, Sequence):
        raise ValueError(f"strategy = {strategy!r}: must be one of {', '.join(STRATEGIES)} or a list of teacher layers")
    layers = list(strategy)
    if any(isinstance(layer, bool) or not isinstance(layer, int) for layer in layers):
        raise ValueError(f"strategy = {layers}: teacher layers must be whole numbers")
    if len(layers) != k - 1:
        raise ValueError(
            f"strategy = {layers}: a student of {k} layers needs {k - 1} teacher layers, one per layer but its last"
        )
    if any(not 1 <= layer <= n for layer in layers) or any(a >= b for a, b in pairwise(layers)):
        raise ValueError(f"strategy = {layers}: teacher layers must increase strictly and lie in 1..{n}")
    return layers
