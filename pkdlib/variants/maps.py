"""Maps of layers beside the paper's two: controls, and maps whose targets are not the same layers all the time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and configurations want the names alone
    from torch import Tensor


# ------------------------------------------------------------------------- one list of teacher layers for a training
def reverse(n: int, k: int, seed: int = 0) -> list[int]:
    """Skip's layers from the last to the first, a control: does the order matter?"""
    return [j * n // k for j in range(1, k)][::-1]


def one(n: int, k: int, seed: int = 0) -> list[int]:
    """I(j) = N - 1 for every j, a control: does it matter that the layers differ?"""
    return [n - 1] * (k - 1)


def random(n: int, k: int, seed: int = 0) -> list[int]:
    """k-1 different layers of 1..N-1 in any order, drawn from the seed, a control: does the choice matter?"""
    return Random(seed).sample(range(1, n), k - 1)


# name -> function of (teacher layers N, student layers k, seed) that gives the k-1 matched teacher layers
FIXED: dict[str, Callable[[int, int, int], list[int]]]
FIXED = {function.__name__: function for function in (reverse, one, random)}


# --------------------------------------------------- targets made of the [CLS] states of all of the teacher's layers
def rail(student_cls: Tensor, teacher_cls: Tensor, order: Tensor) -> Tensor:
    """k-1 different layers of 1..N-1 in increasing order, drawn anew for every epoch (RAIL-KD's random layers).

    Haidar et al., 2022 (arXiv 2109.10164), here on the [CLS] state of each drawn layer. Before the first epoch begins
    the order is 1..N-1, so that the layers are 1..k-1.
    """
    return teacher_cls[:, order[: student_cls.shape[1]].sort().values]


def alp(student_cls: Tensor, teacher_cls: Tensor, order: Tensor) -> Tensor:
    """sum_l a[j,l] h_t[l] with a[j] = softmax_l(h_s[j] . h_t[l]): attention over all layers (ALP-KD).

    Passban et al., 2021 (arXiv 2012.14022). The student learns through the weights too.
    """
    return (student_cls @ teacher_cls.mT).softmax(dim=-1) @ teacher_cls


# name -> function that gives the targets (batch, k-1, hidden) of the student's states (batch, k-1, hidden), made of the
# teacher's in all layers (batch, N, hidden). order: 0..N-2 for the layers 1..N-1, shuffled by the seed every epoch.
MOVING: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]
MOVING = {function.__name__: function for function in (rail, alp)}
