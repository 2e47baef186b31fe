"""Which teacher layer each student layer imitates. Layers are counted from 1; layer 0 is the embedding output."""

from collections.abc import Callable, Sequence
from typing import Any

from pkdlib.variants.maps import FIXED


def skip(n: int, k: int, seed: int = 0) -> list[int]:
    """PKD-Skip, I(j) = j N / k: every few layers of the teacher, rounded down where k does not divide N."""
    return [j * n // k for j in range(1, k)]


def last(n: int, k: int, seed: int = 0) -> list[int]:
    """PKD-Last, I(j) = N - k + j: the teacher's last layers but one."""
    return [n - k + j for j in range(1, k)]


# name -> function of (teacher layers N, student layers k, seed) that gives the k-1 matched teacher layers
STRATEGIES: dict[str, Callable[[int, int, int], list[int]]] = {"skip": skip, "last": last, **FIXED}


def layer_map(
    num_teacher_layers: int, num_student_layers: int, strategy: str | Sequence[int] = "skip", seed: int = 0
) -> list[int]:
    """Teacher layers I(1), ..., I(k-1) matched by student layers 1, ..., k-1 (section 3.2 of the paper).

    strategy: a name of STRATEGIES, or a list of k-1 teacher layers in 1..N, in any order and with repeats. The
    student's last layer is left out, because it feeds the classifier. seed: of what a strategy draws.

    Raises ValueError when k is not in 1..N or the strategy is neither a known name nor such a list.
    """
    n, k = num_teacher_layers, num_student_layers
    if not (isinstance(n, int) and isinstance(k, int) and 1 <= k <= n):
        raise ValueError(f"num_student_layers = {k!r}: must be between 1 and the teacher's {n} layers")
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES[strategy](n, k, seed)
    if isinstance(strategy, str) or not isinstance(strategy, Sequence):
        raise ValueError(f"strategy = {strategy!r}: must be one of {', '.join(STRATEGIES)} or a list of teacher layers")
    layers: list[Any] = list(strategy)
    if len(layers) != k - 1:
        raise ValueError(f"strategy = {layers}: must be {k - 1} teacher layers, one per student layer but the last")
    if not all(isinstance(layer, int) and not isinstance(layer, bool) and 1 <= layer <= n for layer in layers):
        raise ValueError(f"strategy = {layers}: teacher layers must be whole numbers in 1..{n}")
    return layers
