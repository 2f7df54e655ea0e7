"""What finetune.py and unlearn.py share once the data are ready: model, reference, trainer, saving."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainerCallback, TrainingArguments

from utils.checks import is_whole, minutes
from utils.distributed import barrier, is_main, world_size
from utils.engine.engine import Engine
from utils.engine.loss import Loss, engine_needs
from utils.engine.reference import Reference, make_reference, needs_reference
from utils.fingerprint import folder_hash
from utils.interruption import Interrupted, deferred
from utils.items.rows import QA
from utils.items.streams import StepDataset, Streams, TrainingData
from utils.runs.lineage import Origin, role_of_training
from utils.runs.load import make_encoder, trainable_engine
from utils.runs.run import Run
from utils.runs.settings import TrainingSettings
from utils.sharding import whole_parameters
from utils.tokens.example import Example, count_lost, say_lost
from utils.tokens.prompts import Encoder
from utils.training.batching import BatchPlan, largest_micro_batch, plan_batch
from utils.training.callbacks import SaveByTheClock, SealCheckpoints, Snapshots, StopAbove, StopWhenAsked
from utils.training.method import Finish, Stop
from utils.training.resumable import step_of
from utils.training.spans import check_rows, fit_engine, micro_batch
from utils.training.trainer import UnlearnTrainer
from utils.weights.adapters import base_of
from utils.weights.card import write_card
from utils.weights.folders import ModelError, is_adapter, model_folder
from utils.weights.models import DTYPES, merge, resolve_precision, save_model, with_parameters, without_numbers

log = logging.getLogger(__name__)


def make_streams(
    settings: TrainingSettings, encoder: Encoder, items: Sequence[QA], retain: Sequence[QA] = (), templates: Sequence[str] = ()
) -> Streams:
    """The training items of a run; says how many answers did not fit, and prints the first `show_prompts`."""
    cfg, benchmark, method = settings.cfg, settings.benchmark, settings.method
    _check_apart(cfg.split, items, retain)
    items, retain = (benchmark.pieces(list(pairs), encoder) for pairs in (items, retain))
    policy = method.templates.policy if method.templates else "fixed"
    data = TrainingData(tuple(method.loss.needs), benchmark, cfg.split, encoder, cfg.seed, items, retain, templates, policy)
    streams = (method.prepare or Streams.of)(data)
    if streams.dropped:
        left_out = "%d of %d items left out: their prompts fill max_length=%d"
        log.warning(left_out, streams.dropped, len(items), encoder.max_length)
    for sentence in say_lost(count_lost(streams.answers), len(streams.answers), encoder.max_length):
        log.warning("%s", sentence)
    check_rows(method.loss, streams.answers, encoder)
    _check_warmup(cfg.warmup, StepDataset(streams, cfg.epochs, cfg.batch_size, cfg.steps).steps)
    for index in range(min(cfg.show_prompts, len(streams)) if is_main() else 0):
        for name, drawn in streams.draw(0, index).items():
            for example in drawn:
                print(f"--- item {index}, stream {name}\n{encoder.show(example)}")
    return streams


def _check_apart(split: str, items: Sequence[QA], retain: Sequence[QA]) -> None:
    """Raises ValueError if all that is to be forgotten is to be kept too; says so if some of it is."""
    forgotten = set(items)
    both = forgotten.intersection(retain)
    if both and len(both) == len(forgotten):
        raise ValueError(f"split={split}: all its rows are in the retain split too; give the retain split rows of its own")
    if both:
        log.warning("%d of %d rows of split=%s are in the retain split too", len(both), len(forgotten), split)


def _check_warmup(warmup: float | str, steps: int) -> None:
    """Raises ValueError for a warmup that the run is over before."""
    if is_whole(warmup) and warmup > steps:
        raise ValueError(f"warmup={warmup}: the run has {steps} optimizer steps; write no more than that, or a share below 1")


def train(settings: TrainingSettings, run: Run, encoder: Encoder, streams: Streams) -> None:
    """Trains (or goes on training), writes `model/`, marks the run finished."""
    cfg, benchmark, method = settings.cfg, settings.benchmark, settings.method
    precision = resolve_precision(cfg.precision, cfg.model.dtype, training=True)
    engine = trainable_engine(cfg.model, cfg.adapter, encoder, precision, cfg.seed)
    fit_engine(engine, method.loss)
    streams = streams.ready(engine, run.folder)
    if method.region is not None:
        learnt = make_encoder(cfg.model, benchmark, "finetune", cfg.compat)
        _restrict(engine.model, method.region.choose(engine, learnt, benchmark, str(cfg.split), cfg.seed, run.folder))
    dataset = StepDataset(streams, cfg.epochs, cfg.batch_size, cfg.steps)
    plan = _plan(cfg, engine, dataset)
    log.info("%d items, %d optimizer steps; %s", len(streams), dataset.steps, plan)
    if method.loss.micro_batch_dependent:
        run.check_micro_batch(plan.per_device)
        run.note(micro_batch=plan.per_device)
        said = (
            "method=%s: the loss depends on the micro-batch, here of %d items; another per_device_batch_size gives other numbers"
        )
        log.info(said, method.name, plan.per_device)
    reference = _reference(cfg, engine, method.loss, dataset, plan.per_device, method.reference_dropout)
    prompts, lost = encoder.fingerprint, count_lost(streams.answers)
    script = run.capsule.get("script")  # the main process alone knows, and writes
    role = script and role_of_training(script, cfg.model.path, benchmark.name, str(cfg.split), benchmark.harmless)
    run.note(
        role=role, batch=str(plan), steps=dataset.steps, items=len(streams), dropped=streams.dropped, lost=lost, prompts=prompts
    )
    arguments = _arguments(cfg, run, plan, dataset, precision.autocast)
    trainer = UnlearnTrainer(engine, method.loss, dataset, reference, arguments, encoder.tokenizer, run.record)
    # What `finish` subtracts stays in the precision of training: a small difference does not survive rounding.
    as_trained = method.finish is not None or not precision.autocast
    dtype = precision.weights if as_trained else DTYPES[cfg.model.dtype]
    merged = _starts_merged(cfg.model.path, cfg.adapter.name)
    bare = without_numbers(engine.model) if merged or cfg.launcher.name != "auto" else None
    write = partial(write_model, trainer, dtype=dtype, bare=bare, merged=merged)
    stopped = StopWhenAsked(saves=cfg.checkpoint != "none")
    for callback in [*_callbacks(cfg, method.stop, trainer, run, write), stopped]:
        trainer.add_callback(callback)
    if run.checkpoint is not None:
        log.info("resuming at step %d of %d", step_of(run.checkpoint), dataset.steps)
    with deferred():
        trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
        if stopped.number:
            raise Interrupted(stopped.number, _how_to_go_on(trainer.state.global_step, dataset.steps, stopped.saves))
        run.note(tokens=trainer.state.num_input_tokens_seen)
        _save(run, write, method.finish, cfg.model.path)
        run.finish()


def _how_to_go_on(step: int, steps: int, saved: bool) -> str:
    how = "goes on from there" if saved else "begins again (checkpoint=none: nothing of it was kept)"
    return f"interrupted after step {step} of {steps}; the same command {how}"


def _restrict(model: nn.Module, names: Collection[str]) -> None:
    """Only the named parameters train: the others get no gradient and no optimizer state, and do not count in clipping."""
    parameters = dict(model.named_parameters())
    unknown = sorted(set(names) - parameters.keys())
    if unknown or not names:
        what = f"{unknown[0]} is no parameter of this model" if unknown else "it is empty: nothing would train"
        raise ValueError(f"method.region: {what}; localise on the model that is to unlearn")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)


def _starts_merged(start: str | None, adapter: str) -> bool:
    """Whether the model under a fresh adapter is a merge that exists nowhere on disk."""
    return start is not None and adapter in ("lora", "qlora") and is_adapter(model_folder(start))


def _callbacks(
    cfg: DictConfig, stop: Stop | None, trainer: UnlearnTrainer, run: Run, write: Callable[..., None]
) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [SealCheckpoints(cfg.checkpoints_kept)]
    if (every := minutes(cfg.checkpoint)) is not None:
        callbacks.append(SaveByTheClock(every))
    if cfg.snapshots != "none":
        keep = lambda step: write(run.folder / "snapshots" / str(step))  # noqa: E731
        callbacks.append(Snapshots(cfg.snapshots, keep))
    if stop is not None and stop.above is not None:
        callbacks.append(StopAbove(stop.part, stop.above, trainer.parts))
    return callbacks


def _plan(cfg: DictConfig, engine: Engine, dataset: StepDataset) -> BatchPlan:
    sample = [dataset[k] for k in range(min(len(dataset), 64))]
    tokens = max(sum(len(e.prompt) + len(e.answer) for drawn in item.values() for e in drawn) for item in sample)
    largest = largest_micro_batch(engine.model.config.get_text_config(), tokens, cfg.gradient_checkpointing)
    return plan_batch(cfg.batch_size, world_size(), cfg.per_device_batch_size, largest)


def _reference(
    cfg: DictConfig, engine: Engine, loss: Loss, dataset: StepDataset, per_device: int, dropout: bool
) -> Reference | None:
    """What the loss compares with; None if it compares with nothing. per_device: items of a micro-batch."""
    needs = engine_needs(loss)
    if not needs_reference(needs):
        return None
    adapter = {"none": "none", "continue": "continued"}.get(cfg.adapter.name, "fresh")
    examples, sharded = _all_examples(dataset, loss, per_device), cfg.launcher.name != "auto"
    return make_reference(cfg.reference, engine, needs, examples, cfg.cache, adapter, cfg.reference_cache_gib, dropout, sharded)


def _all_examples(dataset: StepDataset, loss: Loss, per_device: int) -> dict[str, list[Example]]:
    """Every example that the run will read, per stream, each once: draws and micro-batches are known beforehand."""
    seen: dict[str, dict[Example, None]] = {name: {} for name in engine_needs(loss)}
    for first in range(0, len(dataset), per_device):
        items = [dataset[k] for k in range(first, first + per_device)]
        for name, drawn in micro_batch(items, loss, dataset.streams.encoder).items():
            seen[name].update(dict.fromkeys(drawn))
    return {name: list(examples) for name, examples in seen.items()}


def _arguments(cfg: DictConfig, run: Run, plan: BatchPlan, dataset: StepDataset, autocast: bool) -> TrainingArguments:
    every = {"epoch": dataset.steps_per_epoch}.get(cfg.checkpoint, cfg.checkpoint)
    warmup = min(dataset.steps_per_epoch, dataset.steps) if cfg.warmup == "epoch" else cfg.warmup
    # By default its records would lie among the checkpoints, which go when the run is finished.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.folder / "tensorboard")
    # Only when asked for: newer versions warn about the name, older ones know no other.
    recompute = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    recompute = recompute if cfg.gradient_checkpointing else {}
    arguments = TrainingArguments(
        output_dir=str(run.checkpoints),
        max_steps=dataset.steps,
        per_device_train_batch_size=plan.per_device,
        gradient_accumulation_steps=plan.accumulation,
        learning_rate=float(cfg.lr),
        weight_decay=cfg.weight_decay,
        lr_scheduler_type=cfg.scheduler,
        warmup_steps=warmup,
        optim=cfg.optimizer,
        max_grad_norm=cfg.max_grad_norm,
        bf16=autocast,
        **recompute,
        logging_steps=cfg.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps" if isinstance(every, int) else "no",
        save_steps=every if isinstance(every, int) else dataset.steps + 1,
        seed=cfg.seed,
        data_seed=cfg.seed,
        report_to=cfg.report_to,
        disable_tqdm=False,  # what libraries may say (utils/runs/terminal/quiet.py) is another matter
        run_name=str(run.folder),
        dataloader_num_workers=cfg.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        deepspeed=_plain(cfg.launcher.deepspeed),
        fsdp=bool(cfg.launcher.fsdp),
        fsdp_config=_plain(cfg.launcher.fsdp),
        ddp_find_unused_parameters=False,
    )
    # One process, one device: the Trainer would spread it over all that it sees (DataParallel), which knows no packed batch and
    # multiplies the batch.
    arguments._n_gpu = min(1, arguments.n_gpu)
    if arguments.fsdp_plugin_args is not None:
        # Left to itself, accelerate rounds what the model returns (statistics) and what is summed (gradients) as it does weights.
        policy = MixedPrecisionPolicy(torch.bfloat16 if autocast else None, reduce_dtype=torch.float32)
        arguments.fsdp_plugin_args["mixed_precision_policy"] = policy
    return arguments


def _plain(node: DictConfig | None) -> dict[str, Any] | None:
    return None if node is None else OmegaConf.to_container(node, resolve=True)


def _save(run: Run, write: Callable[..., None], finish: Finish | None, start: str) -> None:
    """Writes `model/`: what was trained, or what the method's `finish` makes of it."""
    result = run.folder / "model"
    if finish is None:
        write(result)
    else:
        trained = run.folder / "trained"
        write(trained)
        if is_main():
            finish(Path(model_folder(start)), trained, result)
        barrier()
    if is_main():
        run.note(weights=folder_hash(result), base=_base(result, start))
        write_card(result, run.capsule)


def _base(result: Path, start: str | None) -> str | None:
    """Hub name of what lies under an adapter, or of what a whole model came from; None if that is on no Hub."""
    origin = Origin.of(start)
    if origin is not None and not is_adapter(result):
        return origin.capsule.get("base")
    name = base_of(result) if is_adapter(result) else start
    try:
        return name if name is not None and not Path(model_folder(name)).exists() else None
    except ModelError:
        return None  # a folder that is gone


def write_model(trainer: UnlearnTrainer, folder: Path, dtype: torch.dtype, bare: nn.Module | None, merged: bool) -> None:
    """A plain Hugging Face (or PEFT) folder of the model as it is now, which trains on; it appears only when it is whole.

    dtype: of the weights; an adapter keeps its own. bare: the model without its numbers, as it was before it was made ready to
    train; needed where it is sharded, or merged: then an adapter goes into what lies under it, since its file alone would name
    the wrong base.
    """
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if bare is not None:
        whole = whole_parameters(model)
        if is_main():
            model = with_parameters(bare, whole)
            if merged and isinstance(model, PeftModel):
                model.get_base_model().set_attn_implementation("eager")  # merging runs the model, and flash attention needs a GPU
                model = merge(model)
    save_model(model, trainer.processing_class, folder, dtype)
