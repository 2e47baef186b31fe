"""Distances of the patience term: how far the student's [CLS] states are from the teacher's.

Each function takes float32 states (batch, layers, hidden) of matched layers, and gives the parts of every row's
distance, (batch, layers, ...), or of the whole batch's, (1, layers). The paper's form sums the parts of a row and
averages over rows, the authors' code averages all parts. Those that compare a batch's rows see a micro-batch at a time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.1  # of InfoNCE's similarities
LEAST = 1e-12  # of a squared norm, where all rows of a batch are alike


def in_float32(states: Tensor) -> AbstractContextManager:
    """Keeps autocast from halving the precision of products, on the states' device."""
    device = states.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def squared(student_cls: Tensor, teacher_cls: Tensor) -> Tensor:
    """(h_s - h_t)^2, elementwise: (batch, layers, hidden), whose sum is || h_s - h_t ||^2 (the paper, section 3.2)."""
    return (student_cls - teacher_cls).square()


def raw(student_cls: Tensor, teacher_cls: Tensor) -> Tensor:
    """(h_s - h_t)^2 of the states as they are, whatever `normalize` says: (batch, layers, hidden)."""
    return squared(student_cls, teacher_cls)


def cosine(student_cls: Tensor, teacher_cls: Tensor) -> Tensor:
    """1 - cos(h_s, h_t): (batch, layers), half the paper's distance of unit states."""
    return 1 - F.cosine_similarity(student_cls, teacher_cls, dim=-1)


def relation(student_cls: Tensor, teacher_cls: Tensor) -> Tensor:
    """(cos(h_s, h_s') - cos(h_t, h_t'))^2, averaged over the batch's rows h': (batch, layers), of any two widths.

    MiniLM (Wang et al., 2020, arXiv 2002.10957) matches such relations among tokens; here they are of [CLS] states.
    """
    ours, theirs = (_products(F.normalize(states, dim=-1)) for states in (student_cls, teacher_cls))
    return (ours - theirs).square().mean(dim=-1).T


def cka(student_cls: Tensor, teacher_cls: Tensor) -> Tensor:
    """1 - CKA of a layer's states over the batch, debiased: (1, layers), of any two widths.

    Linear CKA (Kornblith et al., 2019, arXiv 1905.00414) by the estimator of Song et al. (2012, JMLR 13), as
    `analysis.similarity` has it. It needs four rows: of fewer it is zero.
    """
    if len(student_cls) < 4:
        return student_cls.new_zeros(1, student_cls.shape[1])
    ours, theirs = (_products(states - states.mean(dim=0)) for states in (student_cls, teacher_cls))
    norms = (_hsic(ours, ours) * _hsic(theirs, theirs)).clamp(min=LEAST).sqrt()
    return (1 - _hsic(ours, theirs) / norms)[None]


def infonce(student_cls: Tensor, teacher_cls: Tensor) -> Tensor:
    """- log softmax_i'(cos(h_s[i], h_t[i']) / 0.1) at i' = i: (batch, layers): which teacher's row is this one?

    The contrast of CoDIR (Sun et al., 2020, arXiv 2009.14167), here among the rows of the batch.
    """
    ours, theirs = (F.normalize(states, dim=-1).transpose(0, 1) for states in (student_cls, teacher_cls))
    return -(ours @ theirs.mT / TEMPERATURE).log_softmax(dim=-1).diagonal(dim1=1, dim2=2).T


def _products(states: Tensor) -> Tensor:
    """The scalar products of all pairs of rows of states (batch, layers, hidden), by layer: (layers, batch, batch)."""
    states = states.transpose(0, 1)
    return states @ states.mT


def _hsic(ours: Tensor, theirs: Tensor) -> Tensor:
    """Song et al.'s unbiased HSIC of two kernels (layers, batch, batch), times n (n - 3): (layers,)."""
    n, other = ours.shape[-1], ~torch.eye(ours.shape[-1], dtype=torch.bool, device=ours.device)
    ours, theirs = ours * other, theirs * other
    sums = ours.sum(dim=(1, 2)) * theirs.sum(dim=(1, 2)) / ((n - 1) * (n - 2))
    rows = (ours.sum(dim=-1) * theirs.sum(dim=-1)).sum(dim=-1)
    return (ours * theirs).sum(dim=(1, 2)) + sums - 2 * rows / (n - 2)


# By name. States come as unit vectors unless `normalize` is False, or the distance is of raw states.
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]]
DISTANCES = {function.__name__: function for function in (squared, raw, cosine, relation, cka, infonce)}
AS_THEY_ARE = (raw,)  # of raw states whatever `normalize` says
ANY_WIDTHS = (relation, cka)  # these alone take states of two widths, without a projection
LEAST_ROWS = {"relation": 2, "cka": 4, "infonce": 2}  # in a batch or micro-batch, with fewer of which they say nothing
