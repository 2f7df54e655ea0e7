"""The engine: (prompt, answers) in, token statistics out, in one forward pass of the model.

The output head is where memory goes (answer tokens x vocabulary), so while the engine runs, the head computes
statistics instead of logits: it picks the positions that predict answer tokens, projects them chunk by chunk, and
returns n x S numbers. The call still goes through the whole (wrapped) model, so DDP, FSDP, ZeRO, adapters and
activation checkpointing see an ordinary forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from utils.engine.head import LogitChange, head_returns, known_changes, output_head, owner
from utils.engine.loss import Needs
from utils.engine.miniature import pretrained_models
from utils.engine.packing import Layout, Packed, check_length, pack
from utils.engine.table import TokenTable
from utils.engine.token_statistics import REFERENCE_LOGP, Asked, Logits, compute, name_of, need_reference_logits
from utils.engine.trials import line_limits
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

    pad: id that padding is written with; where the embeddings lack it, another one. longest: tokens of the longest text that will
    be asked about, if that is known. shared: None tries whether pairs may share lines. autocast: matrix products run in bfloat16
    over float32 weights, in training and for the reference alike.
    Raises ValueError if the model has no linear output head, does to logits what is not known how to do (utils/engine/head.py),
    so that statistics would silently differ from the model's own, or cannot take texts of `longest` tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        pad: int,
        chunk_bytes: int = CHUNK_BYTES,
        shared: bool | None = None,
        hide: int | None = None,
        autocast: bool = False,
        longest: int = 0,
    ):
        self.model, self.chunk_bytes, self.hide, self.autocast = model, chunk_bytes, hide, autocast
        self.pad = known_id(pad, model)
        self.head = output_head(model)
        self.dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self.device = next(model.parameters()).device
        self.vocabulary = self.head.weight.shape[0]
        self.limits = line_limits(model)
        if not self.limits.beside:
            raise ValueError(
                f"model {type(owner(model)).__name__}: what it says of a text depends on the texts that stand beside it in a "
                "batch, so token statistics would be wrong; this architecture is not supported"
            )
        check_length(longest, self.limits.alone)
        self.change: LogitChange | None = None
        self._check_head()
        self.shared = self._can_share() if shared is None else shared

    @property
    def layout(self) -> Layout:
        """How pairs are written into lines: with shared prompts, or one pair per line."""
        return Layout(self.pad, self.shared, self.hide, self.limits.window, self.limits.alone)

    def pack(self, streams: Mapping[str, Sequence[Example]]) -> Packed:
        """Packs the way this model supports. Raises ValueError for a text that is longer than it takes."""
        return self.layout.pack(streams)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) float32 logits of (..., H) last hidden states: all of them at once."""
        with self._precision():
            return self._changed(self.head(hidden)).float()

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
    def hidden_and_logp(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """(n, H) last hidden states, and (n,) float32 log-probabilities of the answer tokens.

        In one pass: a sharded head is whole only while the model runs.
        """
        states: list[Tensor] = []

        def at_answers(project: Project, hidden: Tensor) -> Tensor:
            states.append(hidden.flatten(0, 1)[packed.source])
            return self._chunked(project, states[0], packed.labels, ("logp",), None, 0)

        logp = self._forward(packed, at_answers, None)[:, 0]
        return states[0], logp

    def _forward(self, packed: Packed, at_answers: AtAnswers, model: nn.Module | None) -> Tensor:
        unchanged = nullcontext() if self.change is None else self.change.off()
        with head_returns(self.head, at_answers), unchanged, self._precision():
            return (model or self.model)(**packed.model_inputs(self.dtype)).logits

    def _changed(self, logits: Tensor) -> Tensor:
        return logits if self.change is None else self.change(logits)

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
                    theirs = self._changed(their_project(reference.hidden[first + start : first + stop])).float()
            return compute(asked, Logits(self._changed(project(states)).float(), labels[start:stop], theirs))

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
        """Lets the head return made-up logits: whatever the model hands on must be these, or else what is known of its changes
        must explain its own logits."""
        if self._hands_on():
            return
        example = Example((3, 4), (5, 6, 7))
        packed = pack({"check": [example]}, self.pad, shared=False).to(self.device)
        with evaluating(self.model):
            with self._precision():
                own = self.model(**packed.model_inputs(self.dtype)).logits.flatten(0, 1)[packed.source].float()
            for change in known_changes(self.model):
                self.change = change
                if self._hands_on():
                    gap = (self.logits(self.hidden(packed)) - own).abs().max()
                    if gap <= (1e-4 if self.dtype == torch.float32 and not self.autocast else 2e-2) * own.abs().max():
                        return
        raise ValueError(
            f"model {type(owner(self.model)).__name__}: its logits are not those of its output head, and what changes them is "
            "not known, so token statistics would be wrong; this architecture is not supported"
        )

    def _hands_on(self) -> bool:
        """Whether the model hands on what its head returns."""
        packed = pack({"check": [Example((3, 4), (5, 6, 7))]}, self.pad, shared=False).to(self.device)
        made_up = torch.tensor([-40.0, 0.5, 40.0], device=self.device)[:, None]
        with evaluating(self.model):
            returned = self._forward(packed, lambda project, hidden: made_up, None)
        return returned.shape == made_up.shape and torch.equal(returned.float(), made_up)

    @torch.no_grad()
    def _can_share(self) -> bool:
        """Whether pairs may share lines: by the limits of the architecture, and by a few tokens in both layouts, which show
        whether the kernel and what wraps the model heed the mask."""
        span = int(min(self.vocabulary, 60, self.limits.window, self.limits.alone))
        prompt, long, short = tuple(range(3, span // 3)), tuple(range(span // 3, span - 3)), (5, 4, 3)
        streams = {"check": [Example(prompt, long), Example(prompt, short)]}
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.5
        fits = self.limits.shares and self.model.config._attn_implementation not in KERNELS_WITHOUT_MASK
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


def known_id(pad: int, model: nn.Module) -> int:
    """The id to pad with: `pad`, or one that the embeddings hold where they lack it. Masks go by length, any id will do."""
    rows = [whole.get_input_embeddings().weight.shape[0] for whole in pretrained_models(model)]
    return pad if 0 <= pad < min(rows, default=pad + 1) else 0


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
def rounded(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within the block, parameters are of `dtype`, as they are while a layer computes that is sharded in mixed precision."""
    exact = [(parameter, parameter.data) for parameter in model.parameters() if parameter.is_floating_point()]
    try:
        for parameter, data in exact:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in exact:
            parameter.data = data


def _indices(columns: Sequence[str], asked: Sequence[Asked], device: torch.device) -> Tensor:
    return torch.tensor([columns.index(name_of(one)) for one in asked], device=device)
