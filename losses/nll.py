"""Cross-entropy on one stream: what finetuning minimises, the first half of a task vector, and learning other labels.

    mean: tokens     L = mean over all answer tokens of the step of -log p_theta(token)
    mean: samples    L = mean over the step's samples of each one's token mean

Sources: tokens is TOFU, arXiv 2401.06121 (target and retain models), and MUSE, arXiv 2407.06460 (task vectors, arXiv 2212.04089).
Released code of TOFU takes the token mean of each micro-batch and averages those over the accumulation steps, so that its value
depends on the split; here it runs over the whole step. samples is KnowUnDo, arXiv 2407.01920 (data/prepare/relabelled.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from utils.checks import choose
from utils.engine.loss import STREAMS, Loss, LossOutput, Needs, neg_log_likelihood
from utils.engine.table import TokenTable


@dataclass(frozen=True)
class NLL(Loss):
    """memorise (stream train), task_vector (forget), random_label and adversarial (relabelled, mean over samples).

    Raises ValueError for an unknown stream or mean.
    """

    stream: str = "train"
    mean: str = "tokens"

    repels: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        choose("stream", self.stream, STREAMS)
        choose("mean", self.mean, ("tokens", "samples"))

    @property
    def needs(self) -> Needs:
        return {self.stream: ("logp",)}

    def __call__(self, **streams: TokenTable) -> LossOutput:
        table = streams[self.stream]
        nll = neg_log_likelihood(table) if self.mean == "tokens" else table.batch_mean(-table.mean("logp"))
        return LossOutput(nll, {f"{self.stream}_nll": nll})
