"""SKU's first stage, LLMU as published, and the finetuning behind a task vector.

    SKU:   L = e1 A(bad) + e2 A(mismatched) - e3 mean KL(p_ref || p_theta)
    LLMU:  L = e1 (-A(bad)) + e2 A(mismatched) + e3 mean H(p_ref, p_theta)
    A = mean over rows of (1 / n) sum over the row's n answer tokens of -log p_theta;   KL, H: mean over all positions of the step

Bad: the answer to be forgotten. Mismatched: answers to other questions. KL and H look at ordinary rows;
data/prepare/distortion.py makes all three. SKU learns the bad answers, leaves the reference on ordinary rows, and then takes
the opposite of what it has become (utils/training/negate.py). LLMU goes the other way, and its result is what was trained.

Source: SKU, arXiv 2402.10058; LLMU, arXiv 2310.10683. Their released code divides by n + 1 (`form: official`), for Llama by the
padding of the batch besides (`count_padding`). It has no bound for KL (`normal_cap`), and adds 1e-12 inside logarithms, which is
left out. LLMU's code calls H a KL: the same gradient, another value. losses/llmu.py is LLMU as others compare with it.
Task vector: arXiv 2212.04089, as in MUSE, arXiv 2407.06460.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from utils.checks import choose, not_negative, positive
from utils.engine.loss import Loss, LossOutput, neg_log_likelihood
from utils.engine.table import TokenTable

FORMS = ("corrected", "official")


@dataclass(frozen=True)
class _ThreeTerms(Loss):
    """What SKU and LLMU share. The weights are e1, e2 and e3; defaults: both released scripts.

    form: A divides by the tokens that it sums (corrected) or by one more (official). count_padding: official alone, and by the
    padding up to the longest row of the micro-batch, as released code does for tokenizers whose padding is not token 1 (Llama).
    Raises ValueError for an unknown form, a negative weight, or count_padding without official.
    """

    bad_weight: float = 0.5
    random_weight: float = 1.0
    normal_weight: float = 1.0
    form: str = "corrected"
    count_padding: bool = False

    def __post_init__(self) -> None:
        not_negative(bad_weight=self.bad_weight, random_weight=self.random_weight, normal_weight=self.normal_weight)
        choose("form", self.form, FORMS)
        choose("count_padding", self.count_padding, (True, False))
        if self.count_padding and self.form != "official":
            raise ValueError(f"count_padding=true goes with form=official, not with form={self.form}.")

    @property
    def micro_batch_dependent(self) -> bool:
        return self.count_padding

    def _answer_loss(self, table: TokenTable) -> Tensor:
        """A, a scalar in nats per token."""
        return -table.batch_mean(table.sum("logp") / self._divisor(table))

    def _divisor(self, table: TokenTable) -> Tensor:
        """(B,) what each row's sum is divided by."""
        if self.form == "corrected":
            return table.length
        if not self.count_padding or not len(table.mask):
            return table.length + 1
        # The token before the first scored one is the first that official code counts.
        return (table.before + table.length).max() - table.before + 1


@dataclass(frozen=True)
class SKU(_ThreeTerms):
    """normal_cap: nats at one position from which on leaving the reference further gains nothing; None: no bound.

    Raises ValueError as its options say, and for a cap of 0 or below.
    """

    normal_cap: float | None = None

    needs: ClassVar[dict[str, tuple[str, ...]]] = {"harmful": ("logp",), "mismatched": ("logp",), "normal": ("kl",)}
    repels = ("normal",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normal_cap is not None:
            positive("normal_cap", self.normal_cap)

    def __call__(self, harmful: TokenTable, mismatched: TokenTable, normal: TokenTable) -> LossOutput:
        harmful_nll, mismatched_nll = self._answer_loss(harmful), self._answer_loss(mismatched)
        parts = {"harmful_nll": harmful_nll, "mismatched_nll": mismatched_nll, "normal_kl": normal.token_mean("kl")}
        left = parts["normal_kl"] if self.normal_cap is None else normal.token_mean(normal["kl"].clamp(max=self.normal_cap))
        loss = self.bad_weight * harmful_nll + self.random_weight * mismatched_nll - self.normal_weight * left
        return LossOutput(loss, parts)


@dataclass(frozen=True)
class PublishedLLMU(_ThreeTerms):
    """Raises ValueError as its options say."""

    needs: ClassVar[dict[str, tuple[str, ...]]] = {"forget": ("logp",), "mismatched": ("logp",), "normal": ("cross_entropy",)}

    def __call__(self, forget: TokenTable, mismatched: TokenTable, normal: TokenTable) -> LossOutput:
        forget_nll, mismatched_nll = self._answer_loss(forget), self._answer_loss(mismatched)
        kept = normal.token_mean("cross_entropy")
        loss = self.random_weight * mismatched_nll - self.bad_weight * forget_nll + self.normal_weight * kept
        return LossOutput(loss, {"forget_nll": forget_nll, "mismatched_nll": mismatched_nll, "normal_cross_entropy": kept})


@dataclass(frozen=True)
class Reinforce(Loss):
    """L = mean over all answer tokens of the step of -log p_theta, on what is to be forgotten: the task vector's finetuning."""

    needs: ClassVar[dict[str, tuple[str, ...]]] = {"harmful": ("logp",)}
    repels = ()

    def __call__(self, harmful: TokenTable) -> LossOutput:
        nll = neg_log_likelihood(harmful)
        return LossOutput(nll, {"harmful_nll": nll})
