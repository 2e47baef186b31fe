"""How alike two models' layers are, from their [CLS] states on the same rows.

Every metric maps (rows, layers_a, hidden_a) and (rows, layers_b, hidden_b) to a (layers_a, layers_b) matrix, and
raises ValueError where shapes do not fit: a cosine of states needs equal widths, CKA and RSA compare how rows lie.
It is NaN where a layer's states hold nothing to compare but rounding, as when all rows are equal, or are not finite:
a line says so.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from pkdlib.data import EncodedSplit, Split, encode_split
from pkdlib.engine.checks import Count, checked, say_once
from pkdlib.engine.configs import pick
from pkdlib.evaluation import forward_split
from pkdlib.models import cls_states, load_backbone, load_tokenizer

ROUNDING = 2.0**-19  # relative, 16 last places of single precision: the states of equal texts differ by fewer


def raw_cosine(a_cls: Tensor, b_cls: Tensor) -> Tensor:
    """Mean cosine of paired [CLS] states as they are: high everywhere where all rows share a direction."""
    _check(a_cls, b_cls, equal_widths=True)
    a, b = F.normalize(a_cls, dim=-1), F.normalize(b_cls, dim=-1)
    cosines = torch.einsum("nsd,ntd->st", a, b) / len(a)
    known = a.any(dim=(0, 2))[:, None] & b.any(dim=(0, 2))  # (layers_a, layers_b)
    return _said(cosines.where(known, math.nan), "cosine")


def centered_cosine(student_cls: Tensor, teacher_cls: Tensor) -> Tensor:
    """`raw_cosine` after each layer's mean state, the direction that all rows share, is taken off."""
    _check(student_cls, teacher_cls, least_rows=2)
    return raw_cosine(_centred(student_cls), _centred(teacher_cls))


def _centred(states: Tensor) -> Tensor:
    """States less their mean; zero where a row differs from it by rounding alone."""
    centred = states - states.mean(dim=0)
    noise = centred.norm(dim=-1, keepdim=True) <= ROUNDING * states.norm(dim=-1, keepdim=True)
    return centred.masked_fill(noise, 0.0)


def _said(similarity: Tensor, metric: str) -> Tensor:
    """The similarity (layers_a, layers_b), and a line that says why where it is NaN."""
    if similarity.isnan().any():
        why = "are not finite, or differ between rows by rounding alone or in one row alone"
        say_once(f"{metric}: NaN for a layer whose states {why}")
    return similarity


def linear_cka(a_cls: Tensor, b_cls: Tensor, debiased: bool = True) -> Tensor:
    """Linear centred kernel alignment, HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), with K = X X' and L = Y Y'.

    debiased: by the HSIC of Song et al. (2012), about zero for unrelated states; the one of Kornblith et al. (2019) is
    far above zero where rows are few beside the width.
    """
    _check(a_cls, b_cls, least_rows=4 if debiased else 2)
    whole = [states.double() for states in (a_cls, b_cls)]
    a, b = ((states - states.mean(dim=0)).unbind(dim=1) for states in whole)
    cross = torch.stack([torch.stack([_hsic(x, y, debiased) for y in b]) for x in a])  # (layers_a, layers_b)
    a_root, b_root = (torch.stack([_root_hsic(x, debiased) for x in states.unbind(dim=1)]) for states in whole)
    return _said((cross / (a_root[:, None] * b_root)).float(), "CKA")


def _root_hsic(states: Tensor, debiased: bool) -> Tensor:
    """sqrt(HSIC(K, K)) of a layer's states (rows, hidden); NaN where it may be of rounding alone.

    HSIC(K, K) is the squared norm of a projection of K = X X', of centred states X. Small errors E of the states move K
    by at most 2 |X| |E|, and by rounding, |E| <= r |states|. The sums in double precision add far less.
    """
    x = states - states.mean(dim=0)
    root = _hsic(x, x, debiased).sqrt()
    return root.where(root > 2 * ROUNDING * states.norm() * x.norm(), math.nan)


def _hsic(x: Tensor, y: Tensor, debiased: bool) -> Tensor:
    """HSIC of centred x (rows, hidden_x) and y (rows, hidden_y), up to a factor that CKA cancels.

    tr(K L), or debiased, of K and L without their diagonals, tr(K L) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'K L1 / (n-2).
    """
    cross = (x.T @ y).square().sum()  # ||X'Y||^2 = tr(X X' Y Y'), without a rows x rows matrix
    if not debiased:
        return cross
    # x and y are centred: without their diagonals, the rows of K and L sum to minus the diagonals' entries.
    n, x_diagonal, y_diagonal = len(x), x.square().sum(dim=-1), y.square().sum(dim=-1)  # (rows,)
    both, totals = x_diagonal @ y_diagonal, x_diagonal.sum() * y_diagonal.sum()
    return cross - both + totals / ((n - 1) * (n - 2)) - 2 * both / (n - 2)


def rsa(a_cls: Tensor, b_cls: Tensor, spearman: bool = True) -> Tensor:
    """Representational similarity analysis: Spearman's or Pearson's correlation of cosine distances between rows.

    After Kriegeskorte et al. (2008). Memory: 2 rows^2 bytes for each layer, which is 18 MB at 3000 rows.
    """
    _check(a_cls, b_cls, least_rows=3)
    a, b = ([_distances(states, spearman) for states in layers.unbind(dim=1)] for layers in (a_cls, b_cls))
    similarity = torch.stack([torch.stack([x @ y for y in b]) for x in a])
    return _said(similarity, "RSA")


def _distances(states: Tensor, ranked: bool) -> Tensor:
    """Cosine distances of all pairs of rows, (rows (rows - 1) / 2,), or their ranks; centred and of length one.

    NaN where all are equal. Counted from the least, which changes no correlation, in steps so small (an angle of r is
    a distance of r^2 / 2) that only what rounding alone tells apart becomes equal.
    """
    unit = F.normalize(states.double(), dim=-1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    cosines = (unit @ unit.T)[first, second].cpu()
    distances = (cosines.max() - cosines) // ROUNDING**2
    if ranked:
        distances = torch.from_numpy(rankdata(distances.numpy()))
    centred = distances - distances.mean()
    return (centred / centred.norm()).float()


def _check(a_cls: Tensor, b_cls: Tensor, equal_widths: bool = False, least_rows: int = 1) -> None:
    rules = {
        "must be (rows, layers, hidden)": a_cls.ndim == b_cls.ndim == 3,
        "rows must be equal": len(a_cls) == len(b_cls),
        f"at least {least_rows} rows are needed": len(a_cls) >= least_rows,
        "a cosine needs equal widths; cka and rsa do not": not equal_widths or a_cls.shape[-1] == b_cls.shape[-1],
    }
    for rule, holds in rules.items():
        if not holds:
            raise ValueError(f"states are {tuple(a_cls.shape)} and {tuple(b_cls.shape)}: {rule}")


SIMILARITIES = {"centered_cosine": centered_cosine, "cosine": raw_cosine, "cka": linear_cka, "rsa": rsa}


def get_similarity(metric: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The metric of that name; ValueError lists the known ones otherwise."""
    return pick("metric", metric, SIMILARITIES)


def usable_similarities(a_cls: Tensor, b_cls: Tensor) -> list[str]:
    """Names of the metrics that can compare these states: the cosines need equal widths."""
    return list(SIMILARITIES) if a_cls.shape[-1] == b_cls.shape[-1] else ["cka", "rsa"]


def shuffled_baseline(metric: str, a_cls: Tensor, b_cls: Tensor, seed: int = 0) -> Tensor:
    """The metric's noise level: its value with b's rows shuffled, so that no pair belongs together."""
    order = torch.randperm(len(b_cls), generator=torch.Generator().manual_seed(seed))
    return get_similarity(metric)(a_cls, b_cls[order.to(b_cls.device)])


@checked
def split_cls_states(model: PreTrainedModel, split: EncodedSplit, batch_size: Count = 128) -> Tensor:
    """[CLS] states (rows, layers, hidden) of every layer for every row, float32 on the CPU.

    Of a passage and its choices they are (rows * choices, layers, hidden), a row's choices one after the other.
    """
    each = max(1, split.choices)
    states = torch.empty(len(split), each, model.config.num_hidden_layers, model.config.hidden_size)
    asks = {"output_hidden_states": True, "cls_alone": True}
    for rows, output in forward_split(model, split, batch_size, asks=asks):
        states[rows] = cls_states(output.hidden_states).unflatten(0, (len(rows), each)).float().cpu()
    return states.flatten(0, 1)


def checkpoint_cls_states(checkpoint: str | Path, split: Split, max_length: int) -> Tensor:
    """`split_cls_states` of an encoder's hub id or folder with its tokenizer; ValueError where weights are missing."""
    return split_cls_states(load_backbone(checkpoint), encode_split(split, load_tokenizer(checkpoint), max_length))


def most_similar_layers(similarity: Tensor) -> list[int]:
    """The 1-based teacher layer most similar to each student layer of a (student layers, teacher layers) matrix.

    0 for a student layer that can be compared with none, whose row is NaN.
    """
    known = ~similarity.isnan()
    most = similarity.masked_fill(~known, -math.inf).argmax(dim=1) + 1
    return (most * known.any(dim=1)).tolist()


def matched_similarity(similarity: Tensor, layers: list[int]) -> list[float]:
    """The similarity of each matched student layer with the teacher layer that the map gives it."""
    return [similarity[student, teacher - 1].item() for student, teacher in enumerate(layers)]


def nearest_rows(states: Tensor, row: int, count: int = 5) -> list[int]:
    """The `count` other rows of states (rows, hidden) nearest to `row`, nearest first, by cosine of centred states."""
    if not (states.ndim == 2 and 0 <= row < len(states) and count >= 1):
        raise ValueError(
            f"{row = }, {count = }: must be a row, at least 1; states (rows, hidden) {tuple(states.shape)}"
        )
    unit = F.normalize(states - states.mean(dim=0), dim=-1)
    order = (unit @ unit[row]).argsort(descending=True, stable=True).tolist()
    return [other for other in order if other != row][:count]


def principal_components(states: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """States (rows, hidden) on their first two principal axes (rows, 2), and each axis's share of the variance (2,)."""
    if states.ndim != 2 or min(states.shape) < 2 or not states.isfinite().all():
        raise ValueError(f"states are {tuple(states.shape)}: must be (rows, hidden), at least (2, 2), and finite")
    pca = PCA(n_components=2, svd_solver="full")
    return pca.fit_transform(states.cpu().numpy()), pca.explained_variance_ratio_
