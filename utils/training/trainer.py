"""One subclass of `transformers.Trainer`: collate -> engine -> loss -> logged parts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import PreTrainedTokenizerBase, ProgressCallback, Trainer, TrainingArguments

from utils.distributed import total, world_size
from utils.engine.engine import Engine
from utils.engine.loss import Loss, engine_needs, loss_tables
from utils.engine.packing import Layout, Packed
from utils.engine.reference import Reference, needs_reference
from utils.engine.table import TokenTable
from utils.files import storing
from utils.items.streams import Drawn, StepDataset
from utils.tokens.prompts import Encoder
from utils.training.callbacks import Progress
from utils.training.resumable import last_checkpoint
from utils.training.spans import micro_batch

Counts = dict[str, tuple[Tensor, Tensor]]


class NonFinite(ArithmeticError):
    """The loss or the gradient became NaN or infinite; weights are still those of the step before."""


class UnlearnTrainer(Trainer):
    """Trains `engine.model` with a loss over token tables.

    The loss of an optimizer step is normalised by the step's global counts of examples and tokens, so its curve does not depend
    on how the batch is divided into processes and micro-batches. Every record (loss parts, learning rate, gradient norm, epoch)
    goes to `record`.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        engine: Engine,
        loss: Loss,
        dataset: StepDataset,
        reference: Reference | None,
        arguments: TrainingArguments,
        tokenizer: PreTrainedTokenizerBase,
        record: Callable[[Mapping[str, float]], None],
    ):
        self.engine, self.loss, self.reference, self.record = engine, loss, reference, record
        self.step_dataset, self.needs = dataset, engine_needs(loss)
        self._parts: dict[str, Tensor] = {}
        self._logged: dict[str, float] = {}
        collate = functools.partial(_collate, loss=loss, encoder=dataset.streams.encoder, layout=engine.layout)
        super().__init__(
            model=engine.model, args=arguments, data_collator=collate, train_dataset=dataset, processing_class=tokenizer
        )
        if self.pop_callback(ProgressCallback):
            self.add_callback(Progress)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        # The dataset already holds the epochs one after another, each in its own seeded order.
        return SequentialSampler(self.train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Packed]], Counts]:
        """The micro-batches of one optimizer step, with the step's examples and tokens per stream over all processes.

        What the model is about to read is added to the state's `num_input_tokens_seen`, which checkpoints keep.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        names = list(self.needs)
        own = torch.zeros(len(names) + 1, 2, dtype=torch.float64)
        for batch in batches:
            for row, name in enumerate(names):
                _, lengths = batch["packed"].streams[name]
                own[row] += torch.tensor([len(lengths), sum(lengths)], dtype=torch.float64)
            own[-1, 0] += int((batch["packed"].reach > 0).sum())
        counts = total(own.to(self.args.device, torch.float32))
        self.state.num_input_tokens_seen += int(counts[-1, 0])
        return batches, {name: (counts[row, 0], counts[row, 1]) for row, name in enumerate(names)}

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Packed], return_outputs: bool = False, num_items_in_batch: Counts | None = None
    ) -> Tensor | tuple[Tensor, dict[str, TokenTable]]:
        """This micro-batch's share of the step's loss, times the number of processes (their gradients are averaged)."""
        packed: Packed = inputs["packed"]
        values = self.reference.values(packed) if needs_reference(self.needs) else None
        tables = loss_tables(self.loss, self.engine.tables(packed, self.needs, values, num_items_in_batch, model))
        output = self.loss(**tables)
        self._gather_parts({"loss": output.loss, **output.parts})
        loss = output.loss * world_size()
        return (loss, tables) if return_outputs else loss

    def _gather_parts(self, parts: Mapping[str, Tensor]) -> None:
        for name, value in parts.items():
            value = value.detach().float()
            self._parts[name] = self._parts[name] + value if name in self._parts else value

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> Tensor | float:
        """The last thing before the optimizer step: stop if anything is not finite, while the weights still are."""
        norm = super()._get_grad_norm(model, grad_norm)
        names = list(self._parts)
        sums = total(torch.stack([self._parts[name] for name in names]))
        self._logged = dict(zip(names, sums.tolist(), strict=True))
        self._parts = {}
        bad = [name for name, value in self._logged.items() if not math.isfinite(value)]
        if not math.isfinite(float(norm)):
            bad.append("gradient")
        if bad:
            raise NonFinite(self._explain(bad))
        return norm

    def parts(self) -> dict[str, float]:
        """Loss and parts of the last optimizer step, over all processes."""
        return self._logged

    def _explain(self, bad: list[str]) -> str:
        step = self.state.global_step + 1
        saved = last_checkpoint(Path(self.args.output_dir))
        kept = f"the last good checkpoint is {saved}" if saved else "no checkpoint was written yet"
        return (
            f"step {step}: {', '.join(bad)} is not finite; training stopped before the weights changed and {kept}. "
            "Lower lr, train fewer epochs, or set max_grad_norm"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the loss parts and the true epoch to what the Trainer logs."""
        if "loss" in logs:
            logs = {**logs, **self._logged}
        logs["epoch"] = self.step_dataset.epoch_of(self.state.global_step)
        self.record({"step": self.state.global_step, **logs})
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Raises StorageError, which names the folder, where the disk fails; the checkpoint before stays."""
        with storing(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raises ValueError for a checkpoint of another model; a weight that is tied to one that was loaded is not missing."""
        names: dict[int, set[str]] = {}
        for name, weight in self.model.state_dict(keep_vars=True).items():
            names.setdefault(id(weight), set()).add(name)
        missing = set(load_result.missing_keys)
        left = [name for group in names.values() if group <= missing for name in sorted(group)]
        if left or load_result.unexpected_keys:
            what = f"lacks {left[0]}" if left else f"holds {load_result.unexpected_keys[0]}, which the model lacks"
            raise ValueError(f"{self.args.output_dir}: the checkpoint {what}; start again with overwrite=true")

    def floating_point_ops(self, inputs: dict[str, Packed]) -> int:
        # The Trainer's estimate assumes plain (batch, length) inputs; scripts/bench.py measures instead.
        return 0


def _collate(items: list[Drawn], loss: Loss, encoder: Encoder, layout: Layout) -> dict[str, Packed]:
    return {"packed": layout.pack(micro_batch(items, loss, encoder))}
