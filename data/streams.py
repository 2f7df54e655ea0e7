"""Training items: what every optimizer step reads from each stream, as a pure function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from torch.utils.data import Dataset

from data.prompts import EmptyAnswer, Encoder, Example
from data.sampling import draw, permutation


@dataclass(frozen=True)
class QA:
    """A question with its answer, as text."""

    question: str
    answer: str


@dataclass
class Streams:
    """Draws the streams that a loss needs for forget item `index` in `epoch`.

    items: what the epoch runs over (the forget set, or the training set of finetune.py). retain: partners for stream retain.
    templates: template answers for stream template. template_policy: per_access draws a template anew in every epoch, fixed keeps
    the first one. Raises ValueError if a needed stream has no data.
    """

    names: Sequence[str]
    items: Sequence[QA]
    encoder: Encoder
    seed: int
    retain: Sequence[QA] = ()
    templates: Sequence[str] = ()
    template_policy: str = "per_access"
    dropped: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        for stream, pool in {"retain": self.retain, "template": self.templates}.items():
            if stream in self.names and not pool:
                raise ValueError(f"the loss needs stream {stream}, but there is no data for it")
        self._encode = lru_cache(maxsize=None)(self.encoder.example)
        kept = [item for item in self.items if self._fits(item)]
        self.dropped = len(self.items) - len(kept)
        self.items = kept
        self.retain = [item for item in self.retain if self._fits(item)] if "retain" in self.names else ()
        if "retain" in self.names and not self.retain:
            raise ValueError(f"no retain item is left: all prompts fill max_length={self.encoder.max_length}; raise it")
        if not kept:
            raise ValueError(f"no item is left: all {self.dropped} prompts fill max_length={self.encoder.max_length}; raise it")

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, epoch: int, index: int) -> dict[str, Example]:
        """stream -> example of item `index` in `epoch`."""
        item = self.items[index]
        texts = {"train": item, "forget": item}
        if "template" in self.names:
            when = epoch if self.template_policy == "per_access" else 0
            chosen = self.templates[draw(self.seed, when, index, "template", len(self.templates))]
            texts["template"] = QA(item.question, chosen)
        if "retain" in self.names:
            texts["retain"] = self.retain[draw(self.seed, epoch, index, "retain", len(self.retain))]
        return {name: self._encode(texts[name].question, texts[name].answer) for name in self.names}

    def _fits(self, item: QA) -> bool:
        try:
            self._encode(item.question, item.answer)
        except EmptyAnswer:
            return False
        return True


class StepDataset(Dataset):
    """The whole training run as one list: optimizer step s reads items s * batch ... (s + 1) * batch - 1.

    Epochs follow one another without a gap, so every step holds exactly `batch` examples and the number of steps is
    epochs * N // batch (at least 1), as in the TOFU code (6 / 31 / 62 steps for its three forget sets at batch 32, 5 epochs).
    """

    def __init__(self, streams: Streams, epochs: float, batch: int):
        self.streams, self.batch = streams, batch
        self.steps = max(1, int(epochs * len(streams)) // batch)
        self.steps_per_epoch = max(1, len(streams) // batch)
        self._order = lru_cache(maxsize=4)(lambda epoch: permutation(streams.seed, epoch, len(streams)))

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, k: int) -> dict[str, Example]:
        if not 0 <= k < len(self):
            raise IndexError(k)
        epoch, place = divmod(k, len(self.streams))
        return self.streams.draw(epoch, self._order(epoch)[place])

    def epoch_of(self, step: int) -> float:
        """Passes over the items after `step` optimizer steps."""
        return step * self.batch / len(self.streams)
