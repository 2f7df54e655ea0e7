"""SKU's first stage, and LLMU as published.

    SKU:   L = e1 A(forget) + e2 A(mismatched) - e3 mean KL(p_ref || p_theta)
    LLMU:  L = e1 (-A(forget)) + e2 A(mismatched) + e3 mean H(p_ref, p_theta)
    A = mean over rows of (1 / n) sum over the row's n answer tokens of -log p_theta;   KL, H: mean over all positions of the step

Mismatched: answers to other questions. KL and H look at normal rows; data/prepare/mismatched_answers.py makes all three. SKU
learns the forget answers, leaves the reference on normal rows, and then takes the opposite of what it has become
(utils/training/negate.py). LLMU goes the other way, and its result is what was trained.

Source: SKU, arXiv 2402.10058; LLMU, arXiv 2310.10683. Their released code divides by n + 1 (`form`), for Llama by the padding of
the batch besides (`padding`). It has no bound for KL (`normal_cap`), and adds 1e-12 inside logarithms, which is left out. LLMU's
code calls H a KL: the same gradient, another value. losses/llmu.py is LLMU as others compare with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from utils.checks import choose, not_negative, positive, require
from utils.engine.loss import Loss, LossOutput, Needs
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class _ThreeTerms(Loss):
    """What SKU and LLMU share. The weights are e1, e2 and e3; defaults: both released scripts.

    form: A divides by the tokens that it sums (paper) or by one more (`code`). padding: paper, or beside that form also `code`: A
    divides by the padding up to the longest row of the micro-batch too, as released code does for tokenizers whose padding is not
    token 1 (Llama). Raises ValueError for another form or padding, or a negative weight.
    """

    forget_weight: float = 0.5
    mismatched_weight: float = 1.0
    normal_weight: float = 1.0
    form: str = "paper"
    padding: str = "paper"

    code: ClassVar[str]

    def __post_init__(self) -> None:
        not_negative(forget_weight=self.forget_weight, mismatched_weight=self.mismatched_weight, normal_weight=self.normal_weight)
        choose("form", self.form, ("paper", self.code))
        choose("padding", self.padding, ("paper", self.code))
        require(self.padding in ("paper", self.form), "padding", self.padding, f"paper, or form={self.code} beside it")

    @property
    def micro_batch_dependent(self) -> bool:
        return self.padding != "paper"

    def _answer_loss(self, table: TokenTable) -> Tensor:
        """A, a scalar in nats per token."""
        return -table.batch_mean(table.sum("logp") / self._divisor(table))

    def _divisor(self, table: TokenTable) -> Tensor:
        """(B,) what each row's sum is divided by."""
        if self.form == "paper":
            return table.length
        if self.padding == "paper" or not len(table.mask):
            return table.length + 1
        assert table.before is not None, "whoever made this table did not count the tokens before the answers"
        # The token before the first scored one is the first that released code counts.
        return (table.before + table.length).max() - table.before + 1


@dataclass(frozen=True)
class SKU(_ThreeTerms):
    """normal_cap: nats at one position from which on leaving the reference further gains nothing; None: no bound.

    Raises ValueError as its options say, and for a cap of 0 or below.
    """

    normal_cap: float | None = None

    code: ClassVar[str] = "sku"
    needs: ClassVar[Needs] = {"forget": ("logp",), "mismatched": ("logp",), "normal": ("kl",)}
    repels: ClassVar[tuple[str, ...]] = ("normal",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normal_cap is not None:
            positive("normal_cap", self.normal_cap)

    def __call__(self, forget: TokenTable, mismatched: TokenTable, normal: TokenTable) -> LossOutput:
        forget_nll, mismatched_nll = self._answer_loss(forget), self._answer_loss(mismatched)
        parts = {"forget_nll": forget_nll, "mismatched_nll": mismatched_nll, "normal_kl": normal.token_mean("kl")}
        left = parts["normal_kl"] if self.normal_cap is None else normal.token_mean(normal["kl"].clamp(max=self.normal_cap))
        loss = self.forget_weight * forget_nll + self.mismatched_weight * mismatched_nll - self.normal_weight * left
        return LossOutput(loss, parts)


@dataclass(frozen=True)
class PublishedLLMU(_ThreeTerms):
    """Raises ValueError as its options say."""

    code: ClassVar[str] = "llmu"
    needs: ClassVar[Needs] = {"forget": ("logp",), "mismatched": ("logp",), "normal": ("cross_entropy",)}

    def __call__(self, forget: TokenTable, mismatched: TokenTable, normal: TokenTable) -> LossOutput:
        forget_nll, mismatched_nll = self._answer_loss(forget), self._answer_loss(mismatched)
        kept = normal.token_mean("cross_entropy")
        loss = self.mismatched_weight * mismatched_nll - self.forget_weight * forget_nll + self.normal_weight * kept
        return LossOutput(loss, {"forget_nll": forget_nll, "mismatched_nll": mismatched_nll, "normal_cross_entropy": kept})
