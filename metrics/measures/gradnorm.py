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
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from tqdm import tqdm

from metrics.measures.membership import GROUPS, check_members, membership_auc
from metrics.tables import WITHOUT, DropEos, check_drop_eos, dropped, mean_over, per_question
from utils.checks import choose, flag, positive
from utils.distributed import is_main
from utils.draws import draw
from utils.engine.engine import Engine, evaluating
from utils.evaluation.measure import Measure
from utils.items.benchmark import Benchmark, Extra, Resources
from utils.items.metric import Metric
from utils.items.requests import Request, as_example
from utils.items.saved import Row, Saved
from utils.shared_work import kept_rows, shared_out
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder

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
        positive(f"measure.{self.name}.p", self.p)
        choose(f"measure.{self.name}.parameters", self.parameters, get_args(Parameters))
        flag(f"measure.{self.name}.train_mode", self.train_mode)

    def check(self, benchmark: Benchmark, asked: Sequence[Request]) -> None:
        """Raises ValueError if nothing that the benchmark asks about was never trained on."""
        check_members(self, benchmark, asked)

    @property
    def extras(self) -> Sequence[Extra]:
        return (self.add_norms,)

    def add_norms(self, rows: list[Row], resources: Resources) -> list[Row]:
        """Adds a row for each answer of both groups: task, index, number, norm, and how it was taken.

        Raises ValueError for parameters=adapter without an adapter, and for a gradient that is not finite.
        """
        engine = cache(lambda: resources.engine if self.parameters == "all" else self._adapter(resources.adapter))
        for task in resources.benchmark.members:
            path = resources.folder / "parts" / f"{self.name}_{task}.jsonl"
            rows = rows + kept_rows(path, partial(self._rows, task, engine, resources))
        return rows

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """The AUC, and the mean norm of each group. Raises ValueError if there are no norms, or they were taken otherwise."""
        tasks = dict(zip(GROUPS, saved.members, strict=True))
        groups = {group: self._norms(task, saved) for group, task in tasks.items()}
        which = {"all": "all parameters", "adapter": "the adapter's parameters"}[self.parameters]
        of = (
            f"the mean over tensors of the {self.p:g}-norm of the gradient of a text's mean loss, {which}, "
            f"{'train' if self.train_mode else 'eval'} mode; {WITHOUT[dropped(self.drop_eos, saved.compat)]}"
        )
        metrics = {f"mia_{self.name}": membership_auc(groups, f"the attack gradnorm (open-unlearning), {of}", saved)}
        for group, task in tasks.items():
            definition = f"mean over task {task} of {of}; compat={saved.compat}; open-unlearning"
            metrics[f"{self.name}_{task}"] = mean_over(groups[group], definition, saved.resamples, task)
        return metrics

    def _rows(self, task: str, engine_of: Callable[[], Engine], resources: Resources) -> list[Row]:
        """The rows of one task, longest text first, shared out to the processes; all rows on each of them."""
        engine, encoder = engine_of(), resources.encoder
        asked = [request for request in resources.requests if request.task == task]
        texts = [(r, number, text) for r in asked for role, number, text in r.answers if role == "answer"]
        examples = [self._without_end(as_example(encoder, r, text), encoder) for r, _, text in texts]
        order = sorted(range(len(texts)), key=lambda place: -len(examples[place].prompt) - len(examples[place].answer))

        def norms(places: Sequence[int]) -> list[float]:
            told = tqdm(places, desc="gradients", unit="text", disable=not is_main())
            with _all_train(engine.model, self.parameters == "all"):
                return [self._norm(engine, examples[place], texts[place][0], resources.seed) for place in told]

        taken = self._taken(encoder.compat)
        rows = [
            {"task": task, "index": texts[place][0].index, "number": texts[place][1], "norm": norm, **taken}
            for place, norm in zip(order, shared_out(order, norms), strict=True)
        ]
        return sorted(rows, key=lambda row: (row["index"], row["number"]))

    def _norm(self, engine: Engine, example: Example, request: Request, seed: int) -> float:
        if not len(example):
            return 0.0  # no token is left, and the loss of nothing has no gradient
        drawn = draw(seed, 0, request.index, f"dropout of {request.task}", 2**63)
        with _dropout(engine, drawn) if self.train_mode else evaluating(engine.model):
            norm = gradient_norm(engine, example, self.p)
        if not math.isfinite(norm):
            raise ValueError(
                f"measure={self.name}: the gradient of task {request.task}, row {request.index + 1} is not finite; use "
                f"precision=float32, or leave {self.name} out"
            )
        return norm

    def _taken(self, compat: str) -> dict[str, Any]:
        """How the norms are taken: those of other settings are not comparable."""
        drop = dropped(self.drop_eos, compat)
        return {"p": float(self.p), "parameters": self.parameters, "train_mode": self.train_mode, "drop_eos": drop}

    def _norms(self, task: str, saved: Saved) -> pd.Series:
        """Norm of each question of a task, by its index."""
        rows = [row for row in saved.rows(task) if row["asked_by"] == self.name]
        if not rows:
            raise ValueError(
                f"generations.jsonl has no gradients of task {task}: evaluate the model again with measure=[{self.name}]"
            )
        for key, value in self._taken(saved.compat).items():
            if rows[0][key] != value:
                raise ValueError(
                    f"measure.{self.name}.{key}: gradients in generations.jsonl were taken with {rows[0][key]}, not {value}; "
                    "evaluate the model again"
                )
        return per_question([row["norm"] for row in rows], pd.DataFrame(rows))

    def _without_end(self, example: Example, encoder: Encoder) -> Example:
        drop = dropped(self.drop_eos, encoder.compat)
        ends = drop == "last" or drop == "eos" and example.answer[-1] == encoder.tokenizer.eos_token_id
        return replace(example, answer=example.answer[:-1]) if ends else example

    def _adapter(self, load: Callable[[], Engine]) -> Engine:
        try:
            return load()
        except ValueError as error:
            key = f"measure.{self.name}.parameters"
            raise ValueError(f"{key}=adapter: {error}; use {key}=all") from error


def gradient_norm(engine: Engine, example: Example, p: float = 2.0) -> float:
    """Mean over the parameter tensors that train of the p-norm of the gradient of the example's mean cross-entropy.

    Norms are taken in float32 or wider, and each gradient is given up for its norm before the next one is made; none may be held
    beforehand. Raises ValueError if nothing trains.
    """
    norms: list[Tensor] = []

    def keep_norm(parameter: nn.Parameter) -> None:
        precise = torch.promote_types(parameter.grad.dtype, torch.float32)
        # Row by row: one sum over 10^8 numbers would lose digits.
        by_row = vector_norm(parameter.grad, ord=p, dim=-1, dtype=precise)
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
