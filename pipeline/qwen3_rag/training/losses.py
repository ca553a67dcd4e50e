"""Losses on the log-odds of a list: pointwise, listwise, distillation."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss, kl_div, log_softmax, softmax

__all__ = ["LOSSES", "Loss"]

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # log-odds (n,), grades (n,), teacher (n,) -> a scalar
TEMPERATURE = 2.0  # softens both distributions in distillation
ABSOLUTE = 0.1  # weight of the distance in log-odds, which keeps the scores' zero and scale


def pointwise(log_odds: Tensor, grades: Tensor, teacher: Tensor | None) -> Tensor:
    """Binary cross-entropy of yes against no, relevant and other documents weighing the same."""
    relevant = (grades > 0).float()
    weights = torch.where(relevant > 0, 0.5 / relevant.sum().clamp(min=1), 0.5 / (1 - relevant).sum().clamp(min=1))
    return (binary_cross_entropy_with_logits(log_odds, relevant, reduction="none") * weights).sum()


def listwise(log_odds: Tensor, grades: Tensor, teacher: Tensor | None) -> Tensor:
    """Softmax cross-entropy of each relevant document against those that are not, the mean over the relevant."""
    relevant = grades > 0
    others = torch.logsumexp(log_odds[~relevant], 0)
    return (torch.logaddexp(log_odds[relevant], others) - log_odds[relevant]).mean()


def distillation(log_odds: Tensor, grades: Tensor, teacher: Tensor | None) -> Tensor:
    """KL divergence from a teacher's scores over the list, plus a share of the Huber loss on the log-odds."""
    if teacher is None:
        raise ValueError("a list has no teacher's scores")
    target = softmax(teacher / TEMPERATURE, 0)
    divergence = kl_div(log_softmax(log_odds / TEMPERATURE, 0), target, reduction="sum")
    return TEMPERATURE * divergence + ABSOLUTE * huber_loss(log_odds, teacher)


LOSSES: Mapping[str, Loss] = {"listwise": listwise, "pointwise": pointwise, "distillation": distillation}
