"""How alike two models' layers are, from their [CLS] states on the same rows."""

import torch
from torch import Tensor
from torch.nn import functional as F


def centered_cosine(student_cls: Tensor, teacher_cls: Tensor) -> Tensor:
    """Mean cosine of paired [CLS] states after each layer's mean state is taken off: (student layers, teacher layers).

    student_cls: (rows, student layers, hidden); teacher_cls: (rows, teacher layers, hidden), the same rows in the
    same order. Centring removes the direction that all rows share, which makes raw cosines high everywhere.

    Raises ValueError when the rows or the widths differ.
    """
    if (len(student_cls), student_cls.shape[-1]) != (len(teacher_cls), teacher_cls.shape[-1]):
        raise ValueError(
            f"student_cls is {tuple(student_cls.shape)} and teacher_cls {tuple(teacher_cls.shape)}: "
            "rows and widths must be equal"
        )
    student, teacher = (F.normalize(states - states.mean(dim=0), dim=-1) for states in (student_cls, teacher_cls))
    return torch.einsum("nsd,ntd->st", student, teacher) / len(student_cls)


def most_similar_layers(similarity: Tensor) -> list[int]:
    """The 1-based teacher layer most similar to each student layer of a (student layers, teacher layers) matrix."""
    return (similarity.argmax(dim=1) + 1).tolist()


def map_agreement(similarity: Tensor, layers: list[int], within: int = 1) -> int:
    """How many matched student layers have their most similar teacher layer within so many layers of the map."""
    found = most_similar_layers(similarity)
    return sum(abs(teacher - matched) <= within for teacher, matched in zip(found, layers, strict=False))
