"""MUSE's partners: each forget piece always meets the same retain piece. Source: MUSE (arXiv 2407.06460), released code."""

from __future__ import annotations

from dataclasses import dataclass

from utils.items.streams import Drawn, Streams, TrainingData


@dataclass(frozen=True)
class PairedPieces:
    """A `prepare` node: forget piece i always meets retain piece i mod N, as in MUSE's released code. Without it partners are
    drawn anew in every epoch, as in open-unlearning."""

    def __call__(self, data: TrainingData) -> PairedStreams:
        return PairedStreams.of(data)


@dataclass
class PairedStreams(Streams):
    """Streams whose retain partner follows from the item's number alone."""

    def draw(self, epoch: int, index: int, step: int = 0) -> Drawn:
        drawn = super().draw(epoch, index, step)
        if "retain" in self.names:
            drawn["retain"] = (self.encode(self.retain[index % len(self.retain)]),)
        return drawn
