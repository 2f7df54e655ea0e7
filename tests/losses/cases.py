"""Shared by the loss tests: methods as Hydra composes them, hand-checkable streams, and random streams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from tests.tables import table
from utils import ROOT
from utils.engine.loss import Loss
from utils.engine.table import TokenTable
from utils.engine.token_statistics import name_of
from utils.runs.cli import compose_settings

METHOD_FILES = {path.stem: path for path in sorted((ROOT / "config" / "method").glob("*.yaml"))}
METHODS = list(METHOD_FILES)

# Tokens of Vector A: the template has mean probability 0.5, the forget answer 0.75.
TEMPLATE, FORGET = [0.5, 0.25, 0.75], [0.9, 0.6, 0.8, 0.7]


@cache
def method_config(name: str, *overrides: str) -> DictConfig:
    """config/method/<name>.yaml with its defaults list resolved."""
    return compose_settings(None, [f"+method={name}", *overrides]).method


def method_loss(name: str, *overrides: str) -> Loss:
    """The loss of a method; overrides are written as on the command line, `method.loss.beta=1`."""
    return instantiate(method_config(name, *overrides).loss)


def kl(reference: list[float], model: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(reference, model, strict=True))


def hand_streams() -> dict[str, TokenTable]:
    """Vector A with reference probabilities, and a retain answer of 4 tokens with CE 0.4 and KL 0.038335."""
    rows = [kl([0.7, 0.2, 0.1], [0.6, 0.3, 0.1]), kl([0.5, 0.25, 0.25], [0.4, 0.4, 0.2])]
    return {
        "forget": table(FORGET, reference=[[0.95, 0.8, 0.9, 0.85]]),
        "template": table(TEMPLATE, reference=[[0.3, 0.2, 0.6]]),
        "retain": table([math.exp(-0.4)] * 4, kl=[rows * 2]),
        "train": table(TEMPLATE),
    }


def pick(streams: Mapping[str, TokenTable], loss: Loss) -> dict[str, TokenTable]:
    """The streams that the loss asks for."""
    return {name: streams[name] for name in loss.needs}


def random_streams(loss: Loss, rows: int = 5, seed: int = 0) -> dict[str, TokenTable]:
    """One random table per stream that the loss needs. float64; every statistic is a leaf with gradient.

    Cells outside the mask hold garbage: a loss that reads them fails the tests below.
    """
    generator = torch.Generator().manual_seed(seed)
    streams = {}
    for stream, asked in loss.needs.items():
        lengths = torch.randint(1, 7, (rows,), generator=generator)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        streams[stream] = TokenTable.of(mask, {name: random_statistic(name, mask, generator) for name in map(name_of, asked)})
    return streams


def random_statistic(name: str, mask: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(mask.shape, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    values = uniform.log() if name.endswith("logp") else uniform
    garbage = -3 * torch.rand(mask.shape, generator=generator, dtype=torch.float64)
    return torch.where(mask, values, garbage).requires_grad_()


def rows_of(whole: TokenTable, index: Tensor) -> TokenTable:
    """Some rows of a table, as a micro-batch of the step that `whole` stands for."""
    statistics = {name: values[index] for name, values in whole.statistics.items()}
    return TokenTable(whole.mask[index], statistics, whole.examples, whole.tokens)
