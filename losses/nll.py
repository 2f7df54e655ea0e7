"""Memorise: the ordinary cross-entropy of finetuning, on answer tokens only.

    L = mean over all answer tokens of the step of -log p_theta(token)

Source: TOFU, arXiv 2401.06121 (target and retain models). Released code takes the token mean of each micro-batch and
averages those over the accumulation steps, so that its value depends on the split; here it runs over the whole step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from utils.engine.loss import Loss, LossOutput, neg_log_likelihood
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class NLL(Loss):
    """Token-mean negative log-likelihood of the stream train."""

    needs: ClassVar[dict[str, tuple[str, ...]]] = {"train": ("logp",)}

    def __call__(self, train: TokenTable) -> LossOutput:
        nll = neg_log_likelihood(train)
        return LossOutput(nll, {"train_nll": nll})
