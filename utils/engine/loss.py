"""What a loss is: a function of token tables that says which streams and statistics it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from utils.engine.table import TokenTable

STREAMS = {
    "train": "question and answer to memorise (finetune.py)",
    "forget": "forget question and its true answer",
    "template": "forget question and its template answer: a refusal, or a normal unrelated answer",
    "relabelled": "forget question and answer, with another token to be predicted in place of each",
    "inverted": "forget question and answers that contradict the true one, several for each question",
    "harmful": "harmful question and the answer to it that is learnt, to be negated afterwards",
    "mismatched": "forget question and answers to other questions, several for each question",
    "retain": "a retain question and its answer, drawn anew for every forget item and epoch",
    "normal": "an everyday question and its answer, of which only the model's distribution counts",
}
STATISTICS = {
    "logp": "log-probability of the answer token",
    "hit": "1 where the answer token is the argmax",
    "entropy": "entropy of the next-token distribution",
    "logp_variance": "variance of log p under the next-token distribution",
    "reference_logp": "log-probability of the answer token under the frozen reference model",
    "kl": "KL(reference || model) over the whole vocabulary",
    "cross_entropy": "H(reference, model) = kl + entropy of the reference",
    "logit_npo": "vocabulary mean of log sigmoid(0.1 (reference logit - logit)), as MUSE's code has it",
    "logit_kl": "what KL(reference || model) becomes with logits in place of log-probabilities, as MUSE's code has it",
}


@dataclass(frozen=True)
class LossOutput:
    """loss: scalar to minimise. parts: named scalars that are logged, reduced like the loss (they add up over micro-batches)."""

    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Loss(Protocol):
    """needs: stream -> statistics (keys of STREAMS and STATISTICS). Called with one token table per stream, by name.

    Every mean over examples or tokens goes through the table (`batch_mean`, `token_mean`), so that the sum over micro-batches
    and processes is the loss of the undivided batch. A loss for which that is impossible says `micro_batch_dependent = True`.
    A table may have no rows: what a step holds of a stream can lie in another micro-batch.

    repels: streams that the method moves away from: their answers get less likely, or their distribution leaves the
    reference; all others it moves towards.
    """

    needs: Mapping[str, tuple[str, ...]]
    micro_batch_dependent: ClassVar[bool] = False
    repels: ClassVar[tuple[str, ...]] = ("forget",)

    def __call__(self, **streams: TokenTable) -> LossOutput: ...


def neg_log_likelihood(table: TokenTable) -> Tensor:
    """Token mean of -log p over the whole step: the cross-entropy that causal language models report."""
    return -table.token_mean("logp")
