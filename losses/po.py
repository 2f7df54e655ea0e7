"""Preference optimisation ("idk"): learn a template answer to the forget question, keep the retain answers.

    weighting: paper   L = CE(x_f, y_e) + CE(x_r, y_r)                      token means: both sides weigh the same
    weighting: tofu    L = (NLL(x_f, y_e) + NLL(x_r, y_r)) / (n_e + n_r)    sums over answer tokens: a side weighs by its tokens

Source: TOFU, arXiv 2401.06121; its released code takes one mean over both batches. "Mismatch" is the same loss with a normal,
unrelated answer as template. FLAT's released code (arXiv 2410.11143) pairs the refusal labels with the original inputs,
feeds the true forget answer to mismatch, and on Harry Potter leaves C4 padding unmasked; none of that is reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from utils.checks import choose
from utils.engine.loss import Loss, LossOutput, Needs, neg_log_likelihood
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class PreferenceOptimisation(Loss):
    """PO and mismatch. Raises ValueError for an unknown weighting."""

    weighting: str = "paper"

    needs: ClassVar[Needs] = {"template": ("logp",), "retain": ("logp",)}

    def __post_init__(self) -> None:
        choose("weighting", self.weighting, ("paper", "tofu"))

    def __call__(self, template: TokenTable, retain: TokenTable) -> LossOutput:
        template_nll, retain_nll = neg_log_likelihood(template), neg_log_likelihood(retain)
        if self.weighting == "tofu":
            summed = template_nll * template.tokens + retain_nll * retain.tokens
            loss = summed / (template.tokens + retain.tokens)
        else:
            loss = template_nll + retain_nll
        return LossOutput(loss, {"template_nll": template_nll, "retain_nll": retain_nll})
