"""The frozen reference model, without a second model in memory where that can be avoided.

    adapter   the LoRA adapter is switched off for one extra forward pass per batch
    cached    values of every example the run will read, computed once before training, kept on disk for later runs
    resident  a frozen copy of the model, forwarded with every batch

All three give the same `ReferenceValues` (to float32 rounding).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from utils.distributed import rank, world_size
from utils.engine.batches import batches_of, in_halves
from utils.engine.engine import Engine, Project, ReferenceValues, evaluating, rounded
from utils.engine.loss import Needs
from utils.engine.packing import Packed
from utils.engine.token_cache import HIDDEN, TokenCache
from utils.engine.token_statistics import REFERENCE_LOGP, need_reference_logits
from utils.sharding import is_sharded, reshard, shard_like
from utils.tokens.example import Example, digest

log = logging.getLogger(__name__)

GIBIBYTE = 2**30
TOKENS_PER_BATCH = 4096

Adapter = Literal["none", "fresh", "continued"]


class Reference(Protocol):
    """Gives the reference's view of a batch: zero for streams that ask nothing of it."""

    def values(self, packed: Packed) -> ReferenceValues: ...


def needs_reference(needs: Needs) -> bool:
    """Whether any stream asks for a statistic of the reference model."""
    return bool(reference_streams(needs))


def reference_streams(needs: Needs) -> frozenset[str]:
    """Streams of which anything at all is asked of the reference; the others are not forwarded through it."""
    return hidden_streams(needs) | {stream for stream, asked in needs.items() if REFERENCE_LOGP in asked}


def hidden_streams(needs: Needs) -> frozenset[str]:
    """Streams whose full reference distribution is needed."""
    return frozenset(stream for stream, asked in needs.items() if need_reference_logits(asked))


class AdapterReference:
    """The same model with its adapter off, or with a continued adapter as it was when the run began (a copy of it is kept).

    Exact as long as only the adapter trains. dropout: as released code of KnowUnDo has it, the reference's own dropout is on.
    """

    def __init__(self, engine: Engine, streams: Collection[str], continued: bool = False, dropout: bool = False):
        self.engine, self.streams, self.dropout = engine, frozenset(streams), dropout
        self.project = frozen_head(engine)
        trained = {name: parameter for name, parameter in engine.model.named_parameters() if parameter.requires_grad}
        self.before = {name: parameter.detach().clone() for name, parameter in trained.items()} if continued else None

    @torch.no_grad()
    def values(self, packed: Packed) -> ReferenceValues:
        mode = nullcontext() if self.dropout else evaluating(self.engine.model)
        with self._as_it_was(), mode:
            return _values(self.engine, packed, self.streams, self.project)

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        if self.before is None:
            with self.engine.model.disable_adapter():
                yield
            return
        # By name: sharding puts others in the place of the parameters that were there when this reference was made.
        trained = {name: one for name, one in self.engine.model.named_parameters() if name in self.before}
        self.before = {name: shard_like(original, trained[name]) for name, original in self.before.items()}
        now = {name: parameter.detach().clone() for name, parameter in trained.items()}
        try:
            for name, parameter in trained.items():
                parameter.copy_(self.before[name])
            yield
        finally:
            for name, parameter in trained.items():
                parameter.copy_(now[name])
            reshard(self.engine.model)  # what it gathered is as it was


class ResidentReference:
    """A frozen copy of the model as it is now."""

    def __init__(self, engine: Engine, streams: Collection[str], dropout: bool = False):
        self.streams = frozenset(streams)
        frozen = copy.deepcopy(engine.model).train(dropout).requires_grad_(False)
        self.engine = Engine(frozen, engine.pad, engine.chunk_bytes, engine.shared, engine.hide, engine.autocast)

    @torch.no_grad()
    def values(self, packed: Packed) -> ReferenceValues:
        return _values(self.engine, packed, self.streams, self.engine.head)


class CachedReference:
    """Values read from disk; see `utils.engine.token_cache` for how they are kept.

    Full distributions come from the cached hidden states and the output head as it was (see `frozen_head`).
    """

    def __init__(self, engine: Engine, cache: TokenCache, with_hidden: Collection[str], streams: Collection[str]):
        self.cache, self.with_hidden, self.streams = cache, frozenset(with_hidden), frozenset(streams)
        self.project = frozen_head(engine) if self.with_hidden else None
        self.nothing = torch.zeros(1, engine.head.weight.shape[1], dtype=engine.dtype)

    @torch.no_grad()
    def values(self, packed: Packed) -> ReferenceValues:
        device = packed.labels.device
        logp, hidden = [], []
        for stream, examples in packed.examples.items():
            for example in examples:
                asked = stream in self.streams
                logp.append(self.cache.values(example, ("logp",))[:, 0] if asked else torch.zeros(len(example)))
                if stream in self.with_hidden:
                    hidden.append(self.cache.hidden(example))
                elif self.with_hidden:
                    hidden.append(self.nothing.expand(len(example), -1))
        stacked = torch.cat(hidden).to(device) if hidden else None
        return ReferenceValues(torch.cat(logp).to(device), stacked, self.project)


class FrozenHead(nn.Module):
    """A copy of the output head that does not train; V x H numbers."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, head: nn.Linear):
        super().__init__()
        bias = None if head.bias is None else head.bias.detach().clone()
        self.register_buffer("weight", head.weight.detach().clone())
        self.register_buffer("bias", bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden.to(self.weight.dtype), self.weight, self.bias)


def make_reference(
    kind: str,
    engine: Engine,
    needs: Needs,
    examples: Mapping[str, Sequence[Example]],
    cache_root: Path,
    adapter: Adapter = "none",
    limit_gib: float = 8.0,
    dropout: bool = False,
    sharded: bool = False,
) -> Reference:
    """The reference of a run, computed before the model trains.

    kind: adapter | cached | resident | auto. auto: cached if its files stay below `limit_gib`, else adapter where there
    is one, else resident; all are exact. examples: every example the run will read, per stream. adapter: none, a fresh one
    (the reference is the model without it) or a continued one (the reference is the model with it as it is now). dropout: on
    in the reference too, so that its values are not fixed and cannot be cached. sharded: the model will be, as a second one could
    not: auto caches instead, whatever the limit.
    Raises ValueError for adapter without an adapter.
    """
    if kind == "auto":
        size = cache_gib(engine, needs, examples)
        fits = not dropout and size <= limit_gib
        kind = "cached" if fits else "resident" if adapter == "none" else "adapter"
        if kind == "resident" and sharded:
            kind = "cached"
            log.warning("reference: %.1f GiB are cached (reference_cache_gib=%g): a second model is not sharded", size, limit_gib)
    if kind == "adapter":
        if adapter == "none":
            raise ValueError("reference=adapter: the model trains all its weights; use reference=cached, or adapter=lora")
        return AdapterReference(engine, reference_streams(needs), adapter == "continued", dropout)
    if kind == "resident":
        return ResidentReference(engine, reference_streams(needs), dropout)
    with_hidden = hidden_streams(needs)
    streams = reference_streams(needs)
    # Half of a difference between two models would be rounding, if only one of them were rounded.
    as_it_trains = rounded(engine.model, torch.bfloat16) if sharded and engine.autocast else nullcontext()
    with evaluating(engine.model), as_it_trains:
        cache = TokenCache(cache_root, engine, adapters=adapter == "continued")
        fill(cache, engine, {stream: rows for stream, rows in examples.items() if stream in streams}, with_hidden)
    return CachedReference(engine, cache, with_hidden, streams)


def fill(cache: TokenCache, engine: Engine, examples: Mapping[str, Sequence[Example]], with_hidden: Collection[str]) -> None:
    """Computes what the cache lacks, each process its share.

    examples: of each stream, log-probabilities; of the streams `with_hidden` the hidden states too.
    """
    whole = {example for stream in with_hidden for example in examples[stream]}
    others = {example for rows in examples.values() for example in rows} - whole
    for names, wanted in (((HIDDEN, "logp"), whole), (("logp",), others)):
        # Whose job an example is goes by its digest: other runs may write while the processes look.
        own = [example for example in wanted if int.from_bytes(digest(example)[:4]) % world_size() == rank()]
        todo = sorted((example for example in own if not cache.knows(example, names)), key=digest)
        compute = partial(_hidden_and_logp, engine, HIDDEN in names)
        for batch in tqdm(batches_of(todo, TOKENS_PER_BATCH), "reference", unit="batch", disable=rank() != 0 or not todo):
            for example, (hidden, logp) in zip(batch, in_halves(compute, batch, "answers"), strict=True):
                cache.add(example, ("logp",), logp[:, None], hidden)
            cache.keep()
    cache.share()


def _hidden_and_logp(engine: Engine, with_hidden: bool, examples: Sequence[Example]) -> list[tuple[Tensor | None, Tensor]]:
    """Of each example, in main memory: its hidden states if they are asked for, and its log-probabilities."""
    hidden, logp = engine.hidden_and_logp(engine.pack({"batch": examples}).to(engine.device))
    lengths = [len(example) for example in examples]
    states = hidden.cpu().split(lengths) if with_hidden else [None] * len(examples)
    return list(zip(states, logp.cpu().split(lengths), strict=True))


def cache_gib(engine: Engine, needs: Needs, examples: Mapping[str, Sequence[Example]]) -> float:
    """Upper estimate of what reference=cached writes, in GiB."""
    width, bytes_each = engine.head.weight.shape[1], torch.finfo(engine.dtype).bits // 8
    total = 0
    for stream in reference_streams(needs):
        tokens = sum(len(example) for example in set(examples[stream]))
        total += tokens * (4 + (width * bytes_each if stream in hidden_streams(needs) else 0))
    return total / GIBIBYTE


def frozen_head(engine: Engine) -> FrozenHead | None:
    """A copy of the output head as it is now; None if nothing of it trains, so that the live head serves.

    An adapter on the head still changes nothing when the reference is made: the layer under it is the reference's head.
    """
    trains = any(parameter.requires_grad for parameter in engine.head.parameters())
    return FrozenHead(engine.head) if trains else None


def _values(engine: Engine, packed: Packed, streams: Collection[str], project: Project | None) -> ReferenceValues:
    """Values of `streams` alone; zero for answer tokens of the others."""
    asked = {stream: examples for stream, examples in packed.examples.items() if stream in streams}
    if not any(asked.values()):
        if is_sharded(engine.model):  # other processes may have something to ask, and cannot without this one's share
            engine.hidden(engine.pack({"nothing": [Example((engine.pad,), (engine.pad,))]}).to(packed.labels.device))
        nothing = torch.zeros(len(packed.labels), engine.head.weight.shape[1], dtype=engine.dtype, device=packed.labels.device)
        return ReferenceValues(nothing[:, 0].float(), nothing, project)
    part = packed if len(asked) == len(packed.examples) else engine.pack(asked).to(packed.labels.device)
    hidden, logp = engine.hidden_and_logp(part)
    if part is packed:
        return ReferenceValues(logp, hidden, project)
    places = torch.cat([torch.arange(*_span(packed, stream)) for stream in asked]).to(logp.device)
    everywhere = logp.new_zeros(len(packed.labels)).index_copy(0, places, logp)
    states = hidden.new_zeros(len(packed.labels), hidden.shape[1]).index_copy(0, places, hidden)
    return ReferenceValues(everywhere, states, project)


def _span(packed: Packed, stream: str) -> tuple[int, int]:
    first, lengths = packed.streams[stream]
    return first, first + sum(lengths)
