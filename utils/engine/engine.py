"""The engine: (prompt, answers) in, token statistics out, in one forward pass of the model.

The output head is where memory goes (answer tokens x vocabulary), so while the engine runs, the head computes
statistics instead of logits: it picks the positions that predict answer tokens, projects them chunk by chunk, and
returns n x S numbers. The call still goes through the whole (wrapped) model, so DDP, FSDP, ZeRO, adapters and
activation checkpointing see an ordinary forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from utils.engine.loss import Needs
from utils.engine.packing import Packed, pack
from utils.engine.table import TokenTable
from utils.engine.token_statistics import REFERENCE_LOGP, Asked, Logits, compute, name_of, need_reference_logits
from utils.tokens.example import Example

log = logging.getLogger(__name__)

CHUNK_BYTES = 128 * 2**20
KERNELS_WITHOUT_MASK = ("flash_attention_2", "flash_attention_3")

Project = Callable[[Tensor], Tensor]
AtAnswers = Callable[[Project, Tensor], Tensor]


@dataclass(frozen=True)
class ReferenceValues:
    """What the frozen reference model says at the n answer positions of a batch.

    logp: (n,) float32. hidden: (n, H) last hidden states, None unless full distributions are needed.
    project: (m, H) -> (m, V), the reference's output head; None where it is the model's own, which does not train.
    """

    logp: Tensor
    hidden: Tensor | None = None
    project: Project | None = None


class Engine:
    """Token statistics of one causal language model.

    autocast: matrix products run in bfloat16 over float32 weights, in training and for the reference alike.
    Raises ValueError if the model has no linear output head, or changes logits after it (soft-capping, scaling):
    statistics would then silently differ from the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        pad: int,
        chunk_bytes: int = CHUNK_BYTES,
        shared: bool | None = None,
        hide: int | None = None,
        autocast: bool = False,
    ):
        self.model, self.pad, self.chunk_bytes, self.hide, self.autocast = model, pad, chunk_bytes, hide, autocast
        self.head = output_head(model)
        self.dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self.device = next(model.parameters()).device
        self.vocabulary = self.head.weight.shape[0]
        self._check_head()
        self.shared = self._can_share() if shared is None else shared

    def pack(self, streams: Mapping[str, Sequence[Example]]) -> Packed:
        """Packs the way this model supports: shared prompts, or one pair per line."""
        return pack(streams, self.pad, self.shared, self.hide)

    def tables(
        self,
        packed: Packed,
        needs: Needs,
        reference: ReferenceValues | None = None,
        counts: Mapping[str, tuple[float, float]] | None = None,
        model: nn.Module | None = None,
    ) -> dict[str, TokenTable]:
        """One token table per stream of `needs` (stream -> statistics), differentiable where gradients are enabled.

        counts: stream -> (examples, tokens) of the whole optimizer step; the batch's own by default.
        model: the wrapped model to call (DDP, FSDP, ...); the plain model by default.
        """
        own = {stream: [one for one in asked if one != REFERENCE_LOGP] for stream, asked in needs.items()}
        columns = sorted({name_of(one) for asked in own.values() for one in asked})
        values = self.statistics(packed, own, columns, reference, model)
        tables = {}
        for stream, asked in needs.items():
            names = map(name_of, own[stream])
            by_name = {name: packed.tabulate(stream, values[:, columns.index(name)])[0] for name in names}
            if REFERENCE_LOGP in asked:
                by_name[REFERENCE_LOGP] = packed.tabulate(stream, reference.logp)[0]
            _, mask = packed.tabulate(stream, values.detach()[:, 0])
            before = torch.tensor([len(e.prompt) for e in packed.examples[stream]], device=mask.device)
            own_counts = TokenTable.of(mask, by_name)
            examples, tokens = counts[stream] if counts else (own_counts.examples, own_counts.tokens)
            tables[stream] = TokenTable(mask, by_name, examples, tokens, before)
        return tables

    def statistics(
        self,
        packed: Packed,
        needs: Needs,
        columns: Sequence[str],
        reference: ReferenceValues | None = None,
        model: nn.Module | None = None,
    ) -> Tensor:
        """(n, len(columns)) float32 statistics of all answer tokens; zero where a stream did not ask for a column."""

        def at_answers(project: Project, hidden: Tensor) -> Tensor:
            hidden = hidden.flatten(0, 1)[packed.source]
            blocks = []
            for stream, asked in needs.items():
                first, lengths = packed.streams[stream]
                if not lengths:
                    continue  # an interleaved batch may hold nothing of a stream
                span = slice(first, first + sum(lengths))
                found = self._chunked(project, hidden[span], packed.labels[span], asked, reference, first)
                wide = found.new_zeros(found.shape[0], len(columns))
                blocks.append(wide.index_copy(1, _indices(columns, asked, found.device), found))
            return torch.cat(blocks)

        order = list(packed.streams)
        if list(needs) != order:
            needs = {stream: needs[stream] for stream in order}
        return self._forward(packed, at_answers, model)

    @torch.no_grad()
    def hidden(self, packed: Packed, model: nn.Module | None = None) -> Tensor:
        """(n, H) last hidden states at the positions that predict answer tokens."""
        return self._forward(packed, lambda project, hidden: hidden.flatten(0, 1)[packed.source], model)

    @torch.no_grad()
    def logp_of(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """(n,) float32 log-probability of `labels` given (n, H) hidden states, chunk by chunk."""
        with self._precision():
            return self._chunked(self.head, hidden, labels, ("logp",), None, 0)[:, 0]

    def _forward(self, packed: Packed, at_answers: AtAnswers, model: nn.Module | None) -> Tensor:
        mask = packed.attention_mask(self.dtype)
        inputs = {"input_ids": packed.input_ids, "attention_mask": mask, "use_cache": False}
        if packed.shared:
            inputs["position_ids"] = packed.position_ids
        with _head_returns(self.head, at_answers), self._precision():
            return (model or self.model)(**inputs).logits

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def _chunked(self, project, hidden, labels, asked, reference, first) -> Tensor:
        """(m, len(asked)): projects at most `chunk_bytes` of logits at a time.

        Chunks are computed again in backward; a single one is kept.
        """
        size = max(1, self.chunk_bytes // (4 * self.vocabulary))
        with_reference = need_reference_logits(asked)
        their_project = reference.project or project if with_reference else None
        recompute = torch.is_grad_enabled() and hidden.shape[0] > size

        def chunk(states: Tensor, start: int) -> Tensor:
            stop = start + states.shape[0]
            theirs = None
            if with_reference:
                with torch.no_grad():
                    theirs = their_project(reference.hidden[first + start : first + stop]).float()
            return compute(asked, Logits(project(states).float(), labels[start:stop], theirs))

        parts = []
        for start in range(0, hidden.shape[0], size):
            states = hidden[start : start + size]
            if recompute:
                parts.append(checkpoint(chunk, states, start, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(chunk(states, start))
        return torch.cat(parts)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Lets the head return made-up logits: whatever the model hands on must be these."""
        packed = pack({"check": [Example((3, 4), (5, 6, 7))]}, self.pad, shared=False).to(self.device)
        made_up = torch.tensor([-40.0, 0.5, 40.0], device=self.device)[:, None]
        with evaluating(self.model):
            returned = self._forward(packed, lambda project, hidden: made_up, None)
        if returned.shape != made_up.shape or not torch.equal(returned.float(), made_up):
            raise ValueError(
                f"model {type(self.model).__name__}: its logits are not those of its output head (soft-capping or "
                "scaling after the head), so token statistics would be wrong; this architecture is not supported"
            )

    @torch.no_grad()
    def _can_share(self) -> bool:
        """Tries both layouts on a few tokens: whether the model heeds the mask of shared lines."""
        span = min(self.vocabulary, 60)
        prompt, long, short = tuple(range(3, span // 3)), tuple(range(span // 3, span - 3)), (5, 4, 3)
        streams = {"check": [Example(prompt, long), Example(prompt, short)]}
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.5
        fits = self.model.config._attn_implementation not in KERNELS_WITHOUT_MASK
        if fits:
            try:
                with evaluating(self.model):
                    plain, shared = (
                        self.statistics(pack(streams, self.pad, how).to(self.device), {"check": ("logp",)}, ("logp",))
                        for how in (False, True)
                    )
                fits = bool((shared - plain).abs().max() <= tolerance)
            except (TypeError, ValueError, RuntimeError):
                fits = False
        if not fits:
            log.warning(
                "%s with %s attention takes no row mask: prompts are repeated for each answer (same numbers, more time)",
                type(self.model).__name__,
                self.model.config._attn_implementation,
            )
        return fits


def output_head(model: nn.Module) -> nn.Linear:
    """The linear layer that maps hidden states to logits. Raises ValueError if there is none."""
    head = model.get_output_embeddings()
    if head is None or head.weight.dim() != 2:
        name = type(model).__name__
        raise ValueError(f"model {name} has no linear output head; only causal language models can be unlearned")
    return head


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block, dropout is off."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _head_returns(head: nn.Module, at_answers: AtAnswers) -> Iterator[None]:
    """Within the block, calling the head returns `at_answers(projection, hidden)` instead of logits."""
    project, wrapped = head.forward, head.__dict__.get("forward")
    head.forward = lambda hidden: at_answers(project, hidden)
    try:
        yield
    finally:
        del head.forward
        if wrapped is not None:  # an instance-level forward of a library (quantisation, offloading) goes back in place
            head.forward = wrapped


def _indices(columns: Sequence[str], asked: Sequence[Asked], device: torch.device) -> Tensor:
    return torch.tensor([columns.index(name_of(one)) for one in asked], device=device)
