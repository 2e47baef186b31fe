"""The objective of Patient Knowledge Distillation (Sun et al., EMNLP 2019), one function per equation.

Every loss takes tensors, computes in float32 and returns a scalar. Form "paper" is the batch mean of the paper's sums,
"official" what the authors' code computes (commit 9e9e860 of intersun/PKD-for-BERT-Model-Compression).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pkdlib.engine.configs import pick
from pkdlib.variants.distances import ANY_WIDTHS, AS_THEY_ARE, DISTANCES, in_float32

Form = Literal["paper", "official"]
FORMS = get_args(Form)


class PKDTerms(NamedTuple):
    """The objective and its unweighted terms, scalars; a term that was not computed is zero."""

    loss: Tensor
    loss_ce: Tensor
    loss_kd: Tensor
    loss_pt: Tensor


def ce_loss(student_logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """L_CE = - sum_c [y = c] log P_s(c|x), averaged over the batch (section 3.1).

    student_logits: (batch, classes); labels: (batch,) class indices, -100 for none; weights: (batch,), of the rows.
    """
    if weights is None:
        return F.cross_entropy(student_logits.float(), labels)
    return (weights * F.cross_entropy(student_logits.float(), labels, reduction="none")).mean()


def value_loss(student_logits: Tensor, values: Tensor, weights: Tensor | None = None) -> Tensor:
    """L = (v_s - v)^2, averaged over the batch: in regression the term of the labels, and that of the teacher's values.

    student_logits: (batch, 1); values: (batch,), NaN for none; weights: (batch,), of the rows.
    """
    values = values.float()
    squared = torch.where(values.isnan(), 0.0, student_logits.float()[:, 0] - values).square()  # (batch,)
    return (squared if weights is None else weights * squared).mean()


def soft_targets(logits: Tensor, temperature: float) -> Tensor:
    """P(c|x; T) = softmax(logits / T), (batch, classes), flatter as T grows (section 3.1); T must be positive."""
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: must be positive")
    return F.softmax(logits.float() / temperature, dim=-1)


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, form: Form = "paper",
    t_squared: bool | None = None,
) -> Tensor:  # fmt: skip
    """L_DS = - sum_c P_t(c|x; T) log P_s(c|x; T), averaged over the batch, with P = softmax(logits / T) (section 3.1).

    student_logits, teacher_logits: (batch, classes). Form "official" is KL(P_t || P_s) divided by
    batch x classes and multiplied by T^2: the same gradient as the paper's term times T^2 / classes.
    t_squared multiplies by T^2 (Hinton et al., 2015), so that the gradient keeps its size as T grows;
    None means as the form does: the paper no, the authors' code yes.

    Raises ValueError when the shapes differ, temperature is not positive or the form is unknown.
    """
    _check_shapes("logits", student_logits, teacher_logits)
    pick("form", form, FORMS)
    p_teacher = soft_targets(teacher_logits, temperature)  # (batch, classes)
    log_p_student = F.log_softmax(student_logits.float() / temperature, dim=-1)  # (batch, classes)
    if form == "paper":
        loss = -(p_teacher * log_p_student).sum(dim=-1).mean()
    else:
        # KLDivLoss(reduction="mean") of the authors' PyTorch; later ones are to divide by the batch alone.
        loss = F.kl_div(log_p_student, p_teacher, reduction="none").mean()
    scaled = form == "official" if t_squared is None else t_squared
    return loss * temperature**2 if scaled else loss


def patience_loss(
    student_cls: Tensor, teacher_cls: Tensor, normalize: bool = True, form: Form = "paper", distance: str = "squared"
) -> Tensor:
    """L_PT = sum_j || h_s[j]/||h_s[j]|| - h_t[I(j)]/||h_t[I(j)]|| ||^2, averaged over the batch (section 3.2).

    student_cls, teacher_cls: (batch, layers, hidden), [CLS] states of matched layers. Form "official"
    averages over batch x layers x hidden (mse_loss). normalize=False compares the raw states. distance: a name of
    DISTANCES in place of the squared one; some take states of two widths.

    Raises ValueError when the shapes differ or are not of three dimensions, or a name is unknown.
    """
    measure = pick("distance", distance, DISTANCES)
    same = slice(0, 2 if measure in ANY_WIDTHS else None)
    _check_shapes("cls", student_cls, teacher_cls, same)
    if student_cls.ndim != 3:
        raise ValueError(f"student_cls is {tuple(student_cls.shape)}: must be (batch, layers, hidden)")
    pick("form", form, FORMS)
    with in_float32(student_cls):
        student_cls, teacher_cls = student_cls.float(), teacher_cls.float()  # (batch, layers, hidden)
        if normalize and measure not in AS_THEY_ARE:
            student_cls, teacher_cls = F.normalize(student_cls, dim=-1), F.normalize(teacher_cls, dim=-1)
        parts = measure(student_cls, teacher_cls)  # (batch, layers, ...)
    return parts.sum(dim=tuple(range(1, parts.ndim))).mean() if form == "paper" else parts.mean()


@dataclass(frozen=True)
class LossSettings:
    """How the terms of the objective are computed: the settings of `kd_loss` and `patience_loss`."""

    temperature: float = 5.0
    normalize: bool = True
    distance: str = "squared"
    form: Form = "paper"
    t_squared: bool | None = None
    weights: Tensor | None = None  # (batch,), of the rows in L_CE


def pkd_loss(
    student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None, student_cls: Tensor | None = None,
    teacher_cls: Tensor | None = None, *, alpha: float = 0.5, beta: float = 0.0, **settings: Any,
) -> PKDTerms:  # fmt: skip
    """L_PKD = (1 - alpha) L_CE + alpha L_DS + beta L_PT (section 3.2); with beta = 0 it is L_KD.

    student_logits, teacher_logits: (batch, classes); labels: (batch,); student_cls, teacher_cls:
    (batch, layers, hidden). The teacher's logits may be left out when alpha is 0, the [CLS] states when
    beta is 0. beta is on the scale of `form`: see `convert_beta`. settings: the fields of `LossSettings`.
    With one logit, in regression, L_CE and L_DS are squared differences of values.

    Raises ValueError when a term has weight but not its tensors, or one of them is not of the right shape.
    """
    if alpha and teacher_logits is None:
        raise ValueError(f"alpha = {alpha}: needs teacher_logits")
    if beta and (student_cls is None or teacher_cls is None):
        raise ValueError(f"beta = {beta}: needs student_cls and teacher_cls")
    s = LossSettings(**settings)
    of_values = student_logits.shape[-1] == 1
    loss_ce = (value_loss if of_values else ce_loss)(student_logits, labels, s.weights)
    loss_kd = loss_pt = torch.zeros((), device=student_logits.device)
    if teacher_logits is not None:
        loss_kd = (
            value_loss(student_logits, teacher_logits[:, 0]) if of_values
            else kd_loss(student_logits, teacher_logits, s.temperature, s.form, s.t_squared)
        )  # fmt: skip
    if student_cls is not None and teacher_cls is not None:
        loss_pt = patience_loss(student_cls, teacher_cls, s.normalize, s.form, s.distance)
    return PKDTerms((1 - alpha) * loss_ce + alpha * loss_kd + beta * loss_pt, loss_ce, loss_kd, loss_pt)


def _check_shapes(name: str, student: Tensor, teacher: Tensor, same: slice = slice(None)) -> None:
    if student.ndim != teacher.ndim or student.shape[same] != teacher.shape[same]:
        raise ValueError(f"student_{name} is {tuple(student.shape)} but teacher_{name} is {tuple(teacher.shape)}")
