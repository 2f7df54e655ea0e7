"""Membership by gradients: a text that was trained on has little left to change, and its loss a small gradient.

    s = mean over parameter tensors theta_i of || d l / d theta_i ||_p,   l = -mean log-probability of the text's answer tokens

for one text at a time. High: less likely a member, as with the attacks on token scores
(metrics/membership_attacks.py). The mean is over tensors, each with its own norm, not the norm of all of them together.

Source: open-unlearning. Differs from released code: the model is in eval mode, since dropout would make the score random
(`train_mode` has it as released, with a seed for each text), and a supervised EOS is left out, not whatever the last token is.

Memory beside the model: one gradient tensor at a time, and the activations of one text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.linalg import vector_norm
from tqdm import tqdm

from metrics.measures.membership import (
    GROUPS,
    WITHOUT,
    DropEos,
    Dropped,
    check_drop_eos,
    check_members,
    dropped,
    membership_auc,
    per_question,
)
from utils.distributed import gathered, is_main, rank, world_size
from utils.draws import draw
from utils.engine.engine import Engine, evaluating
from utils.evaluation.measure import OWN, Evaluated, Measure
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric, measured
from utils.items.requests import Request
from utils.shared_work import kept_rows
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder
from utils.weights.models import is_adapter, load_adapter, model_folder, resolve_precision

Parameters = Literal["all", "adapter"]


@dataclass(frozen=True)
class GradNorm(Measure):
    """p: of the norm. parameters: all of the model, as it is evaluated | adapter: the LoRA tensors of model.path alone, for which
    the model is loaded once more with its adapter apart. train_mode: dropout is on (released). drop_eos: as in Membership.

    Raises ValueError for other values.
    """

    name: str
    p: float = 2.0
    parameters: Parameters = "all"
    train_mode: bool = False
    drop_eos: DropEos = "auto"

    def __post_init__(self) -> None:
        check_drop_eos(self.name, self.drop_eos)
        if isinstance(self.p, bool) or not isinstance(self.p, int | float) or not 0 < self.p < math.inf:
            raise ValueError(f"measure.{self.name}.p={self.p}: write a number above 0 (released: 2)")
        if self.parameters not in get_args(Parameters):
            raise ValueError(f"measure.{self.name}.parameters={self.parameters}: write one of {', '.join(get_args(Parameters))}")
        if not isinstance(self.train_mode, bool):
            raise ValueError(f"measure.{self.name}.train_mode={self.train_mode}: write true or false")

    def check(self, benchmark: Benchmark, split: str) -> None:
        """Raises ValueError if nothing that the benchmark asks about was never trained on."""
        check_members(self.name, benchmark, split)

    def enrich(self, rows: list[dict], engine: Engine, encoder: Encoder, folder: Path, cfg: DictConfig) -> list[dict]:
        """Adds a row for each answer of both groups: task <task>@<name>, index, number, norm, and how it was taken.

        Raises ValueError for parameters=adapter without an adapter, and for a gradient that is not finite.
        """
        benchmark = instantiate(cfg.benchmark)
        own = cache(lambda: engine if self.parameters == "all" else self._adapter_engine(engine, encoder, cfg))
        found = list(rows)
        for task in benchmark.members:
            asked = [request for request in benchmark.requests(cfg.split) if request.task == task]
            name = f"{task}{OWN}{self.name}"
            compute = partial(self._rows, own, encoder, asked, cfg)
            found += kept_rows(folder / "parts" / f"{name}.jsonl", compute)
        return found

    def from_tables(self, found: Evaluated) -> dict[str, Metric]:
        """The AUC, and the mean norm of each group. Raises ValueError if there are no norms, or they were taken otherwise."""
        tasks = dict(zip(GROUPS, found.benchmark.members, strict=True))
        groups = {group: self._norms(task, found) for group, task in tasks.items()}
        which = {"all": "all parameters", "adapter": "the adapter's parameters"}[self.parameters]
        of = (
            f"the mean over tensors of the {self.p:g}-norm of the gradient of a text's mean loss, {which}, "
            f"{'train' if self.train_mode else 'eval'} mode; {WITHOUT[dropped(self.drop_eos, found.compat)]}"
        )
        metrics = {f"mia_{self.name}": membership_auc(groups, f"the attack gradnorm (open-unlearning), {of}", found)}
        for group, task in tasks.items():
            norms, definition = groups[group], f"mean over task {task} of {of}; compat={found.compat}; open-unlearning"
            items = {task: list(norms.index)}
            metrics[f"{self.name}_{task}"] = measured(
                {task: norms.to_numpy()}, definition, items=items, resamples=found.resamples
            )
        return metrics

    def _rows(self, engine_of: Callable[[], Engine], encoder: Encoder, asked: Sequence[Request], cfg: DictConfig) -> list[dict]:
        """The rows of one task, longest text first, shared out to the processes; all rows on each of them."""
        engine = engine_of()
        texts = [(r, number, text) for r in asked for role, number, text in r.answers if role == "answer"]
        examples = [self._without_end(encoder.example(r.asked, text), encoder, cfg.compat) for r, _, text in texts]
        order = sorted(range(len(texts)), key=lambda place: -len(examples[place].prompt) - len(examples[place].answer))
        rows = []
        with _all_train(engine.model, self.parameters == "all"):
            for place in tqdm(order[rank() :: world_size()], desc="gradients", unit="text", disable=not is_main()):
                (request, number, _), example = texts[place], examples[place]
                norm = self._norm(engine, example, draw(cfg.seed, 0, request.index, f"dropout of {request.task}", 2**63))
                if not math.isfinite(norm):
                    raise ValueError(
                        f"measure={self.name}: the gradient of task {request.task}, row {request.index + 1} is not finite; use "
                        f"precision=float32, or leave {self.name} out"
                    )
                named = {"task": f"{request.task}{OWN}{self.name}", "index": request.index, "number": number}
                rows.append({**named, "norm": norm, **self._taken(cfg.compat)})
        return sorted(gathered(rows), key=lambda row: (row["index"], row["number"]))

    def _norm(self, engine: Engine, example: Example, seed: int) -> float:
        if not len(example):
            return 0.0  # no token is left, and the loss of nothing has no gradient
        with _dropout(engine, seed) if self.train_mode else evaluating(engine.model):
            return gradient_norm(engine, example, self.p)

    def _taken(self, compat: str) -> dict:
        """How the norms are taken: those of other settings are not comparable."""
        drop = dropped(self.drop_eos, compat)
        return {"p": float(self.p), "parameters": self.parameters, "train_mode": self.train_mode, "drop_eos": drop}

    def _norms(self, task: str, found: Evaluated) -> pd.Series:
        """Norm of each question of a task, by its index."""
        name = f"{task}{OWN}{self.name}"
        rows = [row for row in found.generations if row["task"] == name]
        if not rows:
            raise ValueError(f"generations.jsonl has no rows of task {name}: evaluate the model again with measure=[{self.name}]")
        for key, value in self._taken(found.compat).items():
            if rows[0][key] != value:
                raise ValueError(
                    f"measure.{self.name}.{key}: gradients in generations.jsonl were taken with {rows[0][key]}, not {value}; "
                    "evaluate the model again"
                )
        return per_question([row["norm"] for row in rows], pd.DataFrame(rows))

    def _without_end(self, example: Example, encoder: Encoder, compat: str) -> Example:
        drop: Dropped = dropped(self.drop_eos, compat)
        ends = drop == "last" or drop == "eos" and example.answer[-1] == encoder.tokenizer.eos_token_id
        return replace(example, answer=example.answer[:-1]) if ends else example

    def _adapter_engine(self, engine: Engine, encoder: Encoder, cfg: DictConfig) -> Engine:
        """The model of model.path with its adapter apart: evaluation has merged it into the weights."""
        path = None if cfg.model.path is None else model_folder(cfg.model.path)
        if cfg.reinforced.path is not None:
            raise ValueError(
                f"measure.{self.name}.parameters=adapter: not with reinforced.path, where two models answer; use all"
            )
        if path is None or not is_adapter(path):
            raise ValueError(
                f"measure.{self.name}.parameters=adapter: model.path={cfg.model.path} holds no adapter; use "
                f"measure.{self.name}.parameters=all"
            )
        precision = resolve_precision(cfg.precision, cfg.model.dtype, training=False)
        model = load_adapter(path, cfg.model, precision, trainable=True).to(engine.device).eval()
        return Engine(model, encoder.pad_id, hide=engine.hide)


def gradient_norm(engine: Engine, example: Example, p: float = 2.0) -> float:
    """Mean over the parameter tensors that train of the p-norm of the gradient of the example's mean cross-entropy.

    Norms are taken in float32 or wider, and each gradient is given up for its norm before the next one is made; none may be held
    beforehand. Raises ValueError if nothing trains.
    """
    norms: list[Tensor] = []

    def keep_norm(parameter: nn.Parameter) -> None:
        precise = torch.promote_types(parameter.grad.dtype, torch.float32)
        by_row = vector_norm(
            parameter.grad, ord=p, dim=-1, dtype=precise
        )  # row by row: one sum over 10^8 numbers would lose digits
        norms.append(vector_norm(by_row.double(), ord=p))
        parameter.grad = None

    hooks = [q.register_post_accumulate_grad_hook(keep_norm) for q in engine.model.parameters() if q.requires_grad]
    if not hooks:
        raise ValueError("no parameter of the model trains: there is no gradient to take the norm of")
    try:
        with torch.enable_grad():
            table = engine.tables(engine.pack({"text": [example]}).to(engine.device), {"text": ("logp",)})["text"]
            (-table.mean("logp")).sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(norms).mean().item()


@contextmanager
def _all_train(model: nn.Module, everything: bool) -> Iterator[None]:
    """Within the block, every parameter asks for a gradient, unless only those are wanted that do anyway."""
    frozen = [q for q in model.parameters() if everything and q.is_floating_point() and not q.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _dropout(engine: Engine, seed: int) -> Iterator[None]:
    """Within the block, dropout is on and draws from `seed`; afterwards the model and all generators are as before."""
    was_training = engine.model.training
    engine.model.train()
    with torch.random.fork_rng([engine.device] if engine.device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            engine.model.train(was_training)
