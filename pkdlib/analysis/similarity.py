"""How alike two models' layers are, from their [CLS] states on the same rows.

Every metric maps (rows, layers_a, hidden_a) and (rows, layers_b, hidden_b) to a (layers_a, layers_b) matrix. The
cosines compare states one by one and need equal widths; CKA and RSA compare how the rows lie to each other.
ValueError where rows or widths do not fit.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from pkdlib.data import EncodedSplit, Split, encode_split
from pkdlib.evaluation import forward_split
from pkdlib.models import cls_states, load_backbone, load_tokenizer

TINY = 1e-30  # no division by zero for a layer whose states are equal in every row


# -------------------------------------------------------------------------------------------------------- metrics
def raw_cosine(a_cls: Tensor, b_cls: Tensor) -> Tensor:
    """Mean cosine of paired [CLS] states as they are: high everywhere where all rows share a direction."""
    _check(a_cls, b_cls, equal_widths=True)
    a, b = F.normalize(a_cls, dim=-1), F.normalize(b_cls, dim=-1)
    return torch.einsum("nsd,ntd->st", a, b) / len(a)


def centered_cosine(student_cls: Tensor, teacher_cls: Tensor) -> Tensor:
    """`raw_cosine` after each layer's mean state, the direction that all rows share, is taken off."""
    return raw_cosine(student_cls - student_cls.mean(dim=0), teacher_cls - teacher_cls.mean(dim=0))


def linear_cka(a_cls: Tensor, b_cls: Tensor, debiased: bool = True) -> Tensor:
    """Linear centred kernel alignment, HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), with K = X X' and L = Y Y'.

    debiased takes the unbiased HSIC of Song et al. (2012), in which K and L have zero diagonals:

        HSIC = [tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 1'K L1 / (n - 2)] / (n (n - 3))

    and is about zero for unrelated states; the biased one, ||X'Y||^2 of centred X and Y (Kornblith et al., 2019), is
    far above zero where rows are few beside the width. All comes from X'Y, never from a rows x rows matrix.
    """
    _check(a_cls, b_cls, least_rows=4 if debiased else 2)
    a, b = _center_and_scale(a_cls), _center_and_scale(b_cls)
    cross = torch.stack([_hsic(x, b, debiased) for x in a.unbind(dim=1)])  # (layers_a, layers_b)
    a_self, b_self = (torch.cat([_hsic(x, x[:, None], debiased) for x in states.unbind(dim=1)]) for states in (a, b))
    return (cross / (a_self[:, None] * b_self).clamp_min(TINY).sqrt()).float()


def _center_and_scale(states: Tensor) -> Tensor:
    """Layers of mean zero and root mean square one, which leaves CKA as it is and keeps the sums in a middle range."""
    states = states.double() - states.double().mean(dim=0)
    return states / states.square().mean(dim=(0, 2), keepdim=True).sqrt().clamp_min(TINY)


def _hsic(x: Tensor, layers: Tensor, debiased: bool) -> Tensor:
    """HSIC of centred x (rows, hidden_x) and each of layers (rows, layers, hidden), up to a factor that CKA cancels."""
    rows = len(x)
    products = x.T @ layers.reshape(rows, -1)  # (hidden_x, layers * hidden)
    cross = products.square().sum(dim=0).view(layers.shape[1:]).sum(dim=-1)  # ||X'Y||^2 = tr(X X' Y Y'), (layers,)
    if not debiased:
        return cross
    x_diagonal, diagonal = x.square().sum(dim=-1), layers.square().sum(dim=-1)  # (rows,), (rows, layers)
    # x is centred: without its diagonal, row i of K sums to minus the diagonal's entry.
    both = x_diagonal @ diagonal
    totals = x_diagonal.sum() * diagonal.sum(dim=0)
    return cross - both + totals / ((rows - 1) * (rows - 2)) - 2 * both / (rows - 2)


def rsa(a_cls: Tensor, b_cls: Tensor, spearman: bool = True) -> Tensor:
    """Representational similarity analysis: correlation of the two layers' row-by-row cosine distances.

    Spearman's correlation, or Pearson's, of the upper triangles of the rows x rows distance matrices (Kriegeskorte
    et al., 2008). Memory: 2 rows^2 bytes for each layer of b, which is 18 MB at 3000 rows.
    """
    _check(a_cls, b_cls, least_rows=3)
    b_vectors = [_distances(states, spearman) for states in b_cls.unbind(dim=1)]  # (rows (rows - 1) / 2,) each
    a_vectors = (_distances(states, spearman) for states in a_cls.unbind(dim=1))
    return torch.stack([torch.stack([vector @ other for other in b_vectors]) for vector in a_vectors])


def _distances(states: Tensor, ranked: bool) -> Tensor:
    """Cosine distances of all pairs of rows, (rows (rows - 1) / 2,), or their ranks; centred and of length one."""
    unit = F.normalize(states.double(), dim=-1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    distances = (1 - unit @ unit.T)[first, second].cpu()
    if ranked:
        distances = torch.from_numpy(rankdata(distances.numpy()))
    return F.normalize(distances - distances.mean(), dim=0).float()


def _check(a_cls: Tensor, b_cls: Tensor, equal_widths: bool = False, least_rows: int = 1) -> None:
    other_widths = equal_widths and a_cls.shape[-1] != b_cls.shape[-1]
    for wrong, rule in (
        (a_cls.ndim != 3 or b_cls.ndim != 3, "must be (rows, layers, hidden)"),
        (len(a_cls) != len(b_cls), "rows must be equal"),
        (len(a_cls) < least_rows, f"at least {least_rows} rows are needed"),
        (other_widths, f"a cosine needs equal widths; {' and '.join(ANY_WIDTHS)} do not"),
    ):
        if wrong:
            raise ValueError(f"states are {tuple(a_cls.shape)} and {tuple(b_cls.shape)}: {rule}")


Metric = Callable[[Tensor, Tensor], Tensor]
SIMILARITIES = {"centered_cosine": centered_cosine, "cosine": raw_cosine, "cka": linear_cka, "rsa": rsa}
ANY_WIDTHS = ("cka", "rsa")


def get_similarity(metric: str) -> Metric:
    """The metric of that name; ValueError lists the known ones otherwise."""
    if metric not in SIMILARITIES:
        raise ValueError(f"metric = {metric!r}: must be one of {', '.join(SIMILARITIES)}")
    return SIMILARITIES[metric]


def usable_similarities(a_cls: Tensor, b_cls: Tensor) -> list[str]:
    """Names of the metrics that can compare these states: the cosines need equal widths."""
    return list(SIMILARITIES if a_cls.shape[-1] == b_cls.shape[-1] else ANY_WIDTHS)


def shuffled_baseline(metric: str | Metric, a_cls: Tensor, b_cls: Tensor, seed: int = 0) -> Tensor:
    """The metric's noise level: its value with b's rows shuffled, so that no pair belongs together."""
    similarity = get_similarity(metric) if isinstance(metric, str) else metric
    order = torch.randperm(len(b_cls), generator=torch.Generator().manual_seed(seed))
    return similarity(a_cls, b_cls[order.to(b_cls.device)])


# ------------------------------------------------------------------------------------------- states of whole splits
def split_cls_states(
    model: PreTrainedModel, split: EncodedSplit, batch_size: int = 128, accelerator: Accelerator | None = None
) -> Tensor:
    """[CLS] states (rows, layers, hidden) of every layer for every row, float32 on the CPU."""
    states = torch.empty(len(split), model.config.num_hidden_layers, model.config.hidden_size)
    for rows, output in forward_split(model, split, batch_size, accelerator, {"output_hidden_states": True}):
        states[rows] = cls_states(output.hidden_states).float().cpu()
    return states


def checkpoint_cls_states(checkpoint: str | Path, split: Split, max_length: int = 128, batch_size: int = 128) -> Tensor:
    """`split_cls_states` of any encoder's checkpoint (hub id or folder), whose own tokenizer encodes the rows.

    Raises ValueError when max_length is beyond the checkpoint's limit or weights of its layers are missing.
    """
    encoded = encode_split(split, load_tokenizer(checkpoint), max_length)
    return split_cls_states(load_backbone(checkpoint), encoded, batch_size)


# ------------------------------------------------------------------- read off a (student layers, teacher layers) matrix
def most_similar_layers(similarity: Tensor) -> list[int]:
    """The 1-based teacher layer most similar to each student layer."""
    return (similarity.argmax(dim=1) + 1).tolist()


def matched_similarity(similarity: Tensor, layers: list[int]) -> list[float]:
    """The similarity of each matched student layer with the teacher layer that the map gives it."""
    return [similarity[student, teacher - 1].item() for student, teacher in enumerate(layers)]


def map_agreement(similarity: Tensor, layers: list[int], within: int = 1) -> int:
    """How many matched student layers have their most similar teacher layer at most `within` layers from the map's."""
    nearest = most_similar_layers(similarity)
    return sum(abs(teacher - matched) <= within for teacher, matched in zip(nearest, layers, strict=False))


# --------------------------------------------------------------------------------------------- one layer's geometry
def nearest_rows(states: Tensor, row: int, count: int = 5) -> list[int]:
    """The other rows of states (rows, hidden) nearest to `row`, nearest first, by cosine after the mean is taken off.

    Raises ValueError when the states are not of two dimensions, there is no such row or count is below one.
    """
    if states.ndim != 2:
        raise ValueError(f"states are {tuple(states.shape)}: must be (rows, hidden), those of one layer")
    if not 0 <= row < len(states):
        raise ValueError(f"row = {row}: must be between 0 and {len(states) - 1}")
    if count < 1:
        raise ValueError(f"count = {count}: must be at least 1")
    unit = F.normalize(states - states.mean(dim=0), dim=-1)
    order = (unit @ unit[row]).argsort(descending=True, stable=True).tolist()
    return [other for other in order if other != row][:count]


def principal_components(states: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """States (rows, hidden) on their first two principal axes (rows, 2), and each axis's share of the variance (2,)."""
    pca = PCA(n_components=2, svd_solver="full")
    return pca.fit_transform(states.cpu().numpy()), pca.explained_variance_ratio_
