"""Training items: what every optimizer step reads from each stream, as a pure function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol, Self

from torch.utils.data import Dataset

from utils.draws import draw, permutation
from utils.engine.engine import KERNELS_WITHOUT_MASK, Engine
from utils.items.benchmark import Benchmark
from utils.items.rows import QA
from utils.tokens.example import EmptyAnswer, Example
from utils.tokens.prompts import Encoder

Drawn = dict[str, tuple[Example, ...]]


@dataclass(frozen=True)
class TrainingData:
    """What a method may make its streams of.

    names: the streams that the loss needs. split: the name of what is memorised or forgotten; items: its pairs.
    retain: what is kept. templates: template answers, drawn anew in every epoch (template_policy per_access) or kept (fixed).
    """

    names: tuple[str, ...]
    benchmark: Benchmark
    split: str
    encoder: Encoder
    seed: int
    items: Sequence[QA]
    retain: Sequence[QA] = ()
    templates: Sequence[str] = ()
    template_policy: str = "fixed"


class Prepare(Protocol):
    """The `prepare` node of a method: makes the streams if they are more than question, template and retain partner.

    Called before any model is loaded, so that bad data are refused early; what needs the model happens in `Streams.ready`.
    """

    def __call__(self, data: TrainingData) -> Streams: ...


@dataclass
class Streams:
    """Draws the streams that a loss needs for item `index` in `epoch`. Raises ValueError if a needed stream has no data.

    items, retain, templates: as in TrainingData; items whose prompt leaves no room for an answer are dropped.
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
        self.encode = lru_cache(maxsize=None)(lambda pair: pair.example(self.encoder))
        kept = self.fitting(self.items)
        self.dropped = len(self.items) - len(kept)
        self.items = kept
        self.retain = self.fitting(self.retain) if "retain" in self.names else ()
        if "retain" in self.names and not self.retain:
            raise ValueError(f"no retain item is left: all prompts fill max_length={self.encoder.max_length}; raise it")
        if not kept:
            raise ValueError(f"no item is left: all {self.dropped} prompts fill max_length={self.encoder.max_length}; raise it")

    @classmethod
    def of(cls, data: TrainingData) -> Self:
        return cls(data.names, data.items, data.encoder, data.seed, data.retain, data.templates, data.template_policy)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def answers(self) -> list[Example]:
        """Every item with its answer, then every retain item that may be drawn."""
        return [self.encode(pair) for pair in (*self.items, *self.retain)]

    def order(self, epoch: int) -> list[int]:
        """The order in which `epoch` visits the items."""
        return permutation(self.seed, epoch, len(self))

    def draw(self, epoch: int, index: int, step: int = 0) -> Drawn:
        """stream -> examples of item `index` in `epoch`, read by optimizer step `step`; a stream may hold none, or several."""
        item = self.items[index]
        texts = {"train": item, "forget": item}
        if "template" in self.names:
            when = epoch if self.template_policy == "per_access" else 0
            chosen = self.templates[draw(self.seed, when, index, "template", len(self.templates))]
            texts["template"] = item.answered(chosen)
        if "retain" in self.names:
            texts["retain"] = self.retain[draw(self.seed, epoch, index, "retain", len(self.retain))]
        return {name: (self.encode(texts[name]),) for name in self.names}

    def ready(self, engine: Engine, folder: Path) -> Streams:
        """What is drawn from in the end: called once the model is loaded, before it trains. folder: the run's.

        Most streams need no model.
        """
        return self

    def hide_padding(self, engine: Engine, dial: str, instead: str) -> None:
        """Has the engine hide padding tokens, for released code that supervises them.

        Raises ValueError for an attention kernel that leaves them out altogether. dial, instead: what asks for it, and what not.
        """
        kernel = engine.model.config._attn_implementation
        if kernel in KERNELS_WITHOUT_MASK:
            raise ValueError(f"{dial}: {kernel} computes nothing at padding; use model.attn=sdpa, or {instead}")
        engine.hide = self.encoder.pad_id

    def check_padding(self, rows: Iterable[Sequence[int]], texts: Iterable[str], dial: str, instead: str) -> None:
        """Raises ValueError if the padding token, which is hidden by its id, also stands inside rows of ids, or inside texts."""
        pad = self.encoder.pad_id
        token = self.encoder.tokenizer.convert_ids_to_tokens(pad)
        if any(pad in ids for ids in rows) or any(token in text for text in texts):
            raise ValueError(
                f"{dial}: the padding token {token} also stands inside prompts or answers, where it must not be hidden; "
                f"use {instead}"
            )

    def fitting(self, items: Sequence[QA]) -> list[QA]:
        """The items that leave room for their answer."""
        kept = []
        for item in items:
            with suppress(EmptyAnswer):
                self.encode(item)
                kept.append(item)
        return kept


class StepDataset(Dataset):
    """The whole training run as one list: optimizer step s reads items s * batch ... (s + 1) * batch - 1.

    Epochs follow one another without a gap, so every step holds exactly `batch` items and the number of steps is
    epochs * N // batch (at least 1), as in the TOFU code (6 / 31 / 62 steps for its three forget sets at batch 32, 5 epochs),
    unless `steps` says it outright.
    """

    def __init__(self, streams: Streams, epochs: float, batch: int, steps: int | None = None):
        self.streams, self.batch = streams, batch
        self.steps = steps or max(1, int(epochs * len(streams)) // batch)
        self.steps_per_epoch = max(1, len(streams) // batch)
        self._order = lru_cache(maxsize=4)(streams.order)

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, k: int) -> Drawn:
        if not 0 <= k < len(self):
            raise IndexError(k)
        epoch, place = divmod(k, len(self.streams))
        return self.streams.draw(epoch, self._order(epoch)[place], k // self.batch)

    def epoch_of(self, step: int) -> float:
        """Passes over the items after `step` optimizer steps."""
        return step * self.batch / len(self.streams)


def merged(drawn: Sequence[Mapping[str, Sequence[Example]]], names: Sequence[str]) -> dict[str, list[Example]]:
    """The examples of several items, stream by stream."""
    return {name: [example for item in drawn for example in item[name]] for name in names}
