"""KnowUnDo's batches: forget and retain samples in one shuffled list, so that every optimizer step holds some of each.

Forget item i is followed by retain item i, both in file order; the list is shuffled once and visited in the same order in every
epoch. Retain items beyond the number of forget items are never used. Source: arXiv 2407.01920, released code.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from utils.checks import flag
from utils.draws import permutation
from utils.engine.continuations import prompt_ids
from utils.items.streams import Drawn, Streams, TrainingData
from utils.tokens.example import Example

log = logging.getLogger(__name__)


@runtime_checkable
class HasGeneralText(Protocol):
    """A benchmark that brings texts about anything."""

    def general(self, n: int) -> list[str]:
        """The first n of them."""
        ...


@dataclass(frozen=True)
class MixedBatches:
    """The `prepare` node of ascent_plus_descent, ascent_plus_kl_divergence and memflex.

    general: retain samples are texts of the benchmark instead of retain answers, with every token supervised.
    reshuffle: another order in every epoch. Raises ValueError for an option that is none.
    """

    general: bool = False
    reshuffle: bool = False

    def __post_init__(self) -> None:
        flag("method.prepare.general", self.general)
        flag("method.prepare.reshuffle", self.reshuffle)

    def __call__(self, data: TrainingData) -> MixedStreams:
        """Raises ValueError if the loss reads other streams, or the benchmark has no general texts where they are asked for."""
        if not set(data.names) <= {"forget", "retain"}:
            raise ValueError(f"method.prepare: mixes forget and retain; the loss reads {', '.join(data.names)}")
        texts: Sequence[str] = ()
        if self.general:
            if not isinstance(data.benchmark, HasGeneralText):
                raise ValueError(
                    f"method.prepare.general=true: benchmark={data.benchmark.name} has no general texts; write false"
                )
            texts = data.benchmark.general(len(data.items))
        return MixedStreams(data.names, data.items, data.encoder, data.seed, data.retain, how=self, texts=texts)


@dataclass
class MixedStreams(Streams):
    """Each item holds one forget example or one retain example, and nothing of the other stream."""

    how: MixedBatches = field(default_factory=MixedBatches)
    texts: Sequence[str] = ()
    samples: list[Drawn] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        forget = [self.encode(item) for item in self.items]
        retain = self._retain()[: len(forget)]
        if "retain" in self.names and len(retain) < len(forget):
            log.warning("%d forget items, but %d retain items: the other forget items get no partner", len(forget), len(retain))
        for index, example in enumerate(forget):
            self.samples.append({"forget": (example,), "retain": ()})
            self.samples += [{"forget": (), "retain": (other,)} for other in retain[index : index + 1]]

    def __len__(self) -> int:
        return len(self.samples)

    def order(self, epoch: int) -> list[int]:
        return permutation(self.seed, epoch if self.how.reshuffle else 0, len(self))

    def draw(self, epoch: int, index: int, step: int = 0) -> Drawn:
        return {name: self.samples[index][name] for name in self.names}

    def _retain(self) -> list[Example]:
        if not self.how.general:
            return [self.encode(item) for item in self.retain]
        texts = (prompt_ids(self.encoder.tokenizer, text)[: self.encoder.max_length] for text in self.texts)
        return [Example(tuple(ids[:1]), tuple(ids[1:])) for ids in texts if len(ids) > 1]
