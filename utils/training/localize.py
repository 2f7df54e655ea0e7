"""MemFlex's localisation: which tensors hold what is to be forgotten and not what is to be kept (arXiv 2407.01920).

For each scope S, forget (f) and retain (r), the gradient of every tensor i that trains, on answers half of which is replaced:

    G_S,i = (1 / M) sum_j d l_j / d theta_i,   l_j = mean cross-entropy over the answer tokens of sample j, M samples
    c_i = <G_f,i , G_r,i> / (|G_f,i| |G_r,i|)   (0 if either is zero),   m_i = mean over entries of |G_f,i|
    region = {i : c_i < mu and m_i > sigma}

With LoRA the A and the B of a layer are two tensors. This is the released code; the paper says 5 copies instead of 3 and, by its
wording, replaces labels alone (`labels_only`). sigma is an absolute magnitude: it depends on the model's size, on the rank and on
how well the model memorised, so quantiles serve where no published value fits.

Memory beside the model: on the device one float32 copy of what trains, and one gradient tensor at a time; in main memory a second
such copy while the second scope is summed.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from utils.checks import choose, flag, is_number, not_negative, require, whole
from utils.distributed import barrier, by_main, is_main, rank, total, world_size
from utils.draws import dice
from utils.engine.batches import by_length
from utils.engine.engine import Engine, evaluating
from utils.fingerprint import text_hash, weights_hash
from utils.items.benchmark import Benchmark
from utils.items.rows import QA
from utils.tokens.example import EmptyAnswer, Example
from utils.tokens.prompts import Encoder
from utils.tokens.rendering import special_ids
from utils.training.batching import largest_micro_batch
from utils.training.region_file import LocatedRegion, Source, Tensorwise, read_region, write_region

log = logging.getLogger(__name__)

Selection = Literal["located", "random"]
SCOPES = ("forget", "retain")


@dataclass(frozen=True)
class Thresholds:
    """The thresholds: absolute ones, or quantiles of all tensors' cosines and magnitudes, which win where given.

    Both comparisons are strict. Raises ValueError for a mu below -1, a negative sigma, or a quantile beyond [0, 1].
    """

    mu: float = 0.92
    sigma: float = 6e-4
    mu_quantile: float | None = None
    sigma_quantile: float | None = None

    def __post_init__(self) -> None:
        require(is_number(self.mu) and self.mu >= -1, "mu", self.mu, "a number from -1")
        not_negative(sigma=self.sigma)
        for name, share in {"mu_quantile": self.mu_quantile, "sigma_quantile": self.sigma_quantile}.items():
            require(share is None or is_number(share) and 0 <= share <= 1, name, share, "a number from 0 to 1, or null")

    def thresholds(self, tensors: Mapping[str, Tensorwise]) -> tuple[float, float]:
        """(mu, sigma) for these tensors."""
        mu, sigma = self.mu, self.sigma
        if self.mu_quantile is not None:
            mu = _quantile([tensor.cosine for tensor in tensors.values()], self.mu_quantile)
        if self.sigma_quantile is not None:
            sigma = _quantile([tensor.magnitude for tensor in tensors.values()], self.sigma_quantile)
        return mu, sigma

    def located(self, tensors: Mapping[str, Tensorwise]) -> list[str]:
        """Names of the tensors that the rule locates."""
        mu, sigma = self.thresholds(tensors)
        return [name for name, tensor in tensors.items() if tensor.cosine < mu and tensor.magnitude > sigma]


@dataclass(frozen=True)
class GradientRegion(Thresholds):
    """The `region` node of memflex: localises on the model that is to unlearn, or takes a region from a file.

    file: a region.json (scripts/localize.py writes one); its tensors are taken as they are, and no option counts but selection.
    forget, retain: splits whose answers are corrupted; None: those of the run. copies: corruptions of each answer.
    labels_only: replaced tokens are labels, and the model reads the true answer.
    selection: located | random, as many tensors as are located but any of them (ablation).
    Candidates are the tensors that train without a region: LoRA tensors with an adapter, all weights without.
    """

    file: str | None = None
    forget: str | None = None
    retain: str | None = None
    copies: int = 3
    labels_only: bool = False
    selection: Selection = "located"

    def __post_init__(self) -> None:
        whole("copies", self.copies, 1, "released: 3, paper: 5")
        flag("labels_only", self.labels_only)
        choose("selection", self.selection, get_args(Selection))
        super().__post_init__()

    def check(self, benchmark: Benchmark, split: str) -> None:
        """Reads the file, or the splits that will be corrupted."""
        if self.file is not None:
            read_region(Path(self.file))
        else:
            self._pairs(benchmark, split)

    def choose(
        self, engine: Engine, encoder: Encoder, benchmark: Benchmark, split: str, seed: int, folder: Path
    ) -> Collection[str]:
        """Names of the tensors that train; kept in region.json of the run. Raises ValueError if there is none."""
        found = self.locate(engine, encoder, benchmark, split, seed, folder / "region.json")
        if not found.region:
            raise ValueError(f"method.region: {found.why_empty()}")
        return found.region

    def locate(self, engine: Engine, encoder: Encoder, benchmark: Benchmark, split: str, seed: int, path: Path) -> LocatedRegion:
        """The region, written to `path` too; measurements that are there already are not made again.

        encoder: prompts as finetune.py writes them, EOS where that has it: answers are corrupted as they were learnt.
        """
        if self.file is not None:
            found, weights = read_region(Path(self.file)), weights_hash(engine.model)
            if found.source.weights != weights:
                raise ValueError(
                    f"method.region.file={self.file}: was located on another model (weights {found.source.weights}, here "
                    f"{weights}); use the same model.path, adapter and precision, or localise again with file=null"
                )
        else:
            found = self._measured(engine, encoder, benchmark, split, seed, path)
        if self.selection == "random":
            found = found.at_random(seed)
        if is_main():
            write_region(path, found)
        barrier()
        log.info("region: %s", found.summary())
        return found

    def _measured(
        self, engine: Engine, encoder: Encoder, benchmark: Benchmark, split: str, seed: int, path: Path
    ) -> LocatedRegion:
        scopes = [encoded(encoder, benchmark.pieces(pairs, encoder)) for pairs in self._pairs(benchmark, split)]
        data = text_hash(*(repr((scope, e.prompt, e.answer)) for scope, of in zip(SCOPES, scopes, strict=True) for e in of))
        samples = [self.copies * len(examples) for examples in scopes]
        source = Source(weights_hash(engine.model), data, self.copies, self.labels_only, seed, *samples)
        tensors = by_main(lambda: _measured_before(path, source))
        if tensors is None:
            corrupt = functools.partial(corrupted, tokenizer=encoder.tokenizer, seed=seed, labels_only=self.labels_only)
            forget, retain = (
                [corrupt(e, purpose=scope, copy=c, index=i) for c in range(self.copies) for i, e in enumerate(examples)]
                for scope, examples in zip(SCOPES, scopes, strict=True)
            )
            # Off the device while the second scope is summed there.
            kept = {name: gradient.cpu() for name, gradient in mean_gradients(engine, forget, "forget").items()}
            tensors = compare(kept, mean_gradients(engine, retain, "retain"))
        return LocatedRegion(source, tensors, *self.thresholds(tensors), "located", tuple(self.located(tensors)))

    def _pairs(self, benchmark: Benchmark, split: str) -> tuple[list[QA], list[QA]]:
        """Questions and answers of both scopes. Raises ValueError naming the option for an unknown split."""
        pairs = []
        for option, given, default in (
            ("forget", self.forget, lambda: split),
            ("retain", self.retain, lambda: benchmark.retain_split(split)),
        ):
            try:
                pairs.append(benchmark.training(given or default()))
            except ValueError as error:
                if given is None:
                    raise
                raise ValueError(f"method.region.{option}={given}: {error} (null: the split of the run)") from error
        return pairs[0], pairs[1]


def encoded(encoder: Encoder, pairs: Sequence[QA]) -> list[Example]:
    """The pairs that leave room for an answer. Raises ValueError if there is none."""
    found = []
    for pair in pairs:
        with suppress(EmptyAnswer):
            found.append(pair.example(encoder))
    if not found:
        raise ValueError(
            f"method.region: nothing to localise with: all {len(pairs)} prompts fill max_length={encoder.max_length}"
        )
    return found


def corrupted(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    purpose: str = "forget",
    copy: int = 0,
    index: int = 0,
    labels_only: bool = False,
) -> Example:
    """The example with floor(L / 2) replacements among its L answer tokens, EOS not counted, at places drawn with replacement.

    Replacements are uniform over the vocabulary without PAD, EOS, BOS and UNK. The model reads them and is asked for them; with
    labels_only it reads the true answer.
    """
    labels, special = list(example.answer), special_ids(tokenizer)
    length = len(labels) - (labels[-1] == tokenizer.eos_token_id)
    chance = dice(seed, copy, index, f"corrupted {purpose}")
    for _ in range(length // 2):
        place, token = chance.randrange(length), chance.randrange(tokenizer.vocab_size)
        while token in special:
            token = chance.randrange(tokenizer.vocab_size)
        labels[place] = token
    return Example(example.prompt, example.answer if labels_only else tuple(labels), tuple(labels) if labels_only else None)


def mean_gradients(engine: Engine, examples: Sequence[Example], title: str = "gradients") -> dict[str, Tensor]:
    """Name -> float32 mean over examples of the gradient of their mean answer cross-entropy, for every parameter that trains.

    Dropout is off. Several examples at a time give the same sum as one by one. With several processes each takes its share,
    and all get the mean. Raises ValueError for a gradient that is not finite.
    """
    trained = {name: parameter for name, parameter in engine.model.named_parameters() if parameter.requires_grad}
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in trained.items()}
    sizes = [len(example.prompt) + len(example.answer) for example in examples]
    largest = largest_micro_batch(engine.model.config.get_text_config(), max(sizes), recompute=False)
    own = range(len(examples))[rank() :: world_size()]
    engine.model.zero_grad()
    hooks = [p.register_post_accumulate_grad_hook(functools.partial(_move_gradient, sums[name])) for name, p in trained.items()]
    try:
        with evaluating(engine.model), tqdm(total=len(own), desc=title, unit="sample", disable=not is_main()) as bar:
            for batch in by_length([sizes[place] for place in own], most=largest):
                part = [examples[own[number]] for number in batch]
                table = engine.tables(engine.pack({"scope": part}).to(engine.device), {"scope": ("logp",)})["scope"]
                (-table.mean("logp")).sum().backward()
                bar.update(len(part))
    finally:
        for hook in hooks:
            hook.remove()
    for name, gradient in sums.items():
        if not total(gradient).div_(len(examples)).isfinite().all():
            raise ValueError(f"the gradient of {name} is not finite on the {title} scope; use precision=float32")
    return sums


def compare(forget: Mapping[str, Tensor], retain: Mapping[str, Tensor]) -> dict[str, Tensorwise]:
    """Cosine and magnitude of every tensor, from its mean gradients in both scopes; sums in float64."""
    found = {}
    for name, gradient in forget.items():
        ours, theirs = gradient.flatten().double(), retain[name].to(gradient.device).flatten().double()
        norms = (ours.norm() * theirs.norm()).item()
        cosine = (ours @ theirs).item() / norms if norms else 0.0
        found[name] = Tensorwise(cosine, ours.abs().mean().item(), gradient.numel())
    return found


def _measured_before(path: Path, source: Source) -> Mapping[str, Tensorwise] | None:
    """What a region file holds, if it is there, whole, and from the same source."""
    try:
        known = read_region(path)
    except ValueError:
        return None
    if known.source != source:
        return None
    log.info("%s holds these measurements already", path)
    return known.tensors


def _move_gradient(into: Tensor, parameter: nn.Parameter) -> None:
    into.add_(parameter.grad)
    parameter.grad = None


def _quantile(values: Sequence[float], share: float) -> float:
    return torch.tensor(values, dtype=torch.float64).quantile(share).item()
