"""Objectives that are wrong in one thing each."""

# ruff: noqa: RUF012
import torch

from pkdlib import Objective, ce_loss


class Good(Objective):
    """The labels alone."""

    names = ("loss", "loss_ce")

    def forward(self, output, batch):
        loss = ce_loss(output.logits, batch["labels"])
        return loss, loss


class Nameless(Good):
    names = ()


class OneName(Good):
    names = "loss"


class SameNames(Good):
    names = ("loss", "loss")


class NumberedNames(Good):
    names = (1, 2)


class FewTerms(Good):
    names = ("loss", "loss_ce", "loss_kd")


class OneTensor(Good):
    def forward(self, output, batch):
        return ce_loss(output.logits, batch["labels"])


class LossOfRows(Good):
    def forward(self, output, batch):
        loss = torch.nn.functional.cross_entropy(output.logits, batch["labels"], reduction="none")
        return loss, loss.mean()


class TermOfRows(Good):
    def forward(self, output, batch):
        loss = torch.nn.functional.cross_entropy(output.logits, batch["labels"], reduction="none")
        return loss.mean(), loss


class Numbers(Good):
    def forward(self, output, batch):
        loss = ce_loss(output.logits, batch["labels"])
        return loss, loss.item()


class Detached(Good):
    def forward(self, output, batch):
        loss = ce_loss(output.logits, batch["labels"]).detach()
        return loss, loss


class NoParent(torch.nn.Module):
    def __init__(self, config, model, teacher=None):
        super().__init__()


class NoForward(Objective):
    names = ("loss",)


class WantsNothingKnown(Good):
    wants = {"teacher_logits": "logits"}


class WantsLabels(Good):
    wants = {"labels": lambda output: output.logits}


class AsksWrongly(Good):
    asks = {"hidden": True}


class WantsRows(Good):
    wants = {"teacher_mean": lambda output: output.logits.mean(dim=0)}


class WantsTuple(Good):
    wants = {"teacher_all": lambda output: (output.logits,)}


class WantsAbsent(Good):
    wants = {"teacher_pooler": lambda output: output.pooler_output}


class NotANumber(Good):
    def forward(self, output, batch):
        loss = ce_loss(output.logits, batch["labels"]) * float("nan")
        return loss, loss


class ReservedName(Good):
    names = ("loss", "accuracy")
