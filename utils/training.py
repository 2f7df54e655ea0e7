"""What finetune.py and unlearn.py share once the data are ready: model, reference, trainer, saving."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from data.probes import as_example
from data.prompts import Encoder, Example
from data.streams import QA, Material, StepDataset, Streams
from utils.batching import BatchPlan, largest_micro_batch, plan_batch
from utils.callbacks import MarkCheckpoints, SaveByTheClock, Snapshots, StopAbove, minutes
from utils.distributed import is_main, world_size
from utils.engine import Engine
from utils.models import (
    Precision,
    add_adapter,
    load_adapter,
    load_model,
    load_tokenizer,
    model_folder,
    resolve_precision,
)
from utils.reference import make_reference, needs_reference
from utils.runs import Run
from utils.saving import save, write_model
from utils.settings import Settings
from utils.trainer import UnlearnTrainer

log = logging.getLogger(__name__)


def make_encoder(settings: Settings) -> Encoder:
    """Tokenizer of the model, prompts of model or benchmark. Loads no weights."""
    cfg = settings.cfg
    return Encoder(load_tokenizer(cfg.model), settings.template, settings.max_length, cfg.compat)


def make_streams(
    settings: Settings, encoder: Encoder, items: Sequence[QA], retain: Sequence[QA] = (), templates: Sequence[str] = ()
) -> Streams:
    """The training items of a run; says how many answers did not fit."""
    cfg, names = settings.cfg, tuple(settings.loss.needs)
    items, retain = (settings.benchmark.pieces(list(pairs), encoder) for pairs in (items, retain))
    policy = cfg.method.get("template_policy", "fixed")
    material = Material(names, settings.benchmark, cfg.split, encoder, cfg.seed, items, retain, templates, policy)
    streams = (settings.prepare or Streams.of)(material)
    if streams.dropped:
        left_out = "%d of %d items left out: their prompts fill max_length=%d"
        log.warning(left_out, streams.dropped, len(items), encoder.max_length)
    for index in range(min(cfg.show_prompts, len(streams)) if is_main() else 0):
        for name, drawn in streams.draw(0, index).items():
            for example in drawn:
                print(f"--- item {index}, stream {name}\n{encoder.show(example)}")
    return streams


def show_requests(settings: Settings, encoder: Encoder) -> None:
    """Prints the first `show_prompts` questions with every answer that is scored, supervised tokens marked."""
    for request in settings.requests[: settings.cfg.show_prompts] if is_main() else ():
        for role, number, text in request.answers:
            shown = encoder.show(as_example(encoder, request, text))
            print(f"--- {request.task} {request.index}, {role} {number}\n{shown}")


def train(settings: Settings, run: Run, encoder: Encoder, streams: Streams) -> None:
    """Trains (or goes on training), writes `model/`, marks the run finished."""
    cfg = settings.cfg
    precision = resolve_precision(cfg.precision, cfg.model.dtype, training=True)
    model = trainable(settings, encoder.tokenizer, precision)
    hide = encoder.pad_id if encoder.masks_inner_eos else None
    engine = Engine(model, encoder.pad_id, hide=hide, autocast=precision.autocast)
    streams = streams.ready(engine, run)
    if settings.region is not None:
        _restrict(engine.model, settings.region.choose(engine, encoder, settings.benchmark, run))
    dataset = StepDataset(streams, cfg.epochs, cfg.batch_size, cfg.steps)
    plan = _plan(settings, engine, dataset)
    log.info("%d items, %d optimizer steps; %s", len(streams), dataset.steps, plan)
    reference, needs = None, settings.loss.needs
    if needs_reference(needs):
        adapter = {"none": "none", "continue": "continued"}.get(cfg.adapter.name, "fresh")
        dropout, examples = cfg.method.get("reference_dropout", False), _all_examples(dataset, tuple(needs))
        reference = make_reference(cfg.reference, engine, needs, examples, cfg.cache, adapter, cfg.reference_cache_gib, dropout)
    prompts = encoder.fingerprint()
    run.note(batch=str(plan), steps=dataset.steps, items=len(streams), dropped=streams.dropped, prompts=prompts)
    arguments = _arguments(settings, run, plan, dataset, precision)
    trainer = UnlearnTrainer(engine, settings.loss, dataset, reference, arguments, encoder.tokenizer, run.record)
    for callback in _callbacks(settings, trainer, run, precision):
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    save(trainer, settings, run, precision)
    run.finish()


def trainable(settings: Settings, tokenizer: PreTrainedTokenizerBase, precision: Precision) -> nn.Module:
    cfg = settings.cfg
    quantised = cfg.adapter.name == "qlora"
    if cfg.adapter.name == "continue":
        model = load_adapter(model_folder(cfg.model.path), cfg.model, precision, trainable=True)
    else:
        model = load_model(cfg.model, tokenizer, precision, cfg.seed, quantised)
    if cfg.adapter.name in ("lora", "qlora"):
        torch.manual_seed(cfg.seed)
        model = add_adapter(model, cfg.adapter, cfg.model.lora, quantised)
    if torch.cuda.is_available() and not quantised:
        model = model.to(torch.device("cuda", torch.cuda.current_device()))
    return model


def _restrict(model: nn.Module, names: Collection[str]) -> None:
    """Only the named parameters train: the others get no gradient and no optimizer state, and do not count in clipping."""
    parameters = dict(model.named_parameters())
    unknown = sorted(set(names) - parameters.keys())
    if unknown or not names:
        what = f"{unknown[0]} is no parameter of this model" if unknown else "it is empty: nothing would train"
        raise ValueError(f"method.region: {what}; localise on the model that is to unlearn")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)


def _callbacks(settings: Settings, trainer: UnlearnTrainer, run: Run, precision: Precision) -> list[TrainerCallback]:
    cfg = settings.cfg
    callbacks: list[TrainerCallback] = [MarkCheckpoints()]
    if (every := minutes(cfg.checkpoint)) is not None:
        callbacks.append(SaveByTheClock(every))
    if cfg.snapshots != "none":
        keep = lambda step: write_model(trainer, settings, run.folder / "snapshots" / str(step), precision)  # noqa: E731
        callbacks.append(Snapshots(cfg.snapshots, keep))
    stop = cfg.method.get("stop")
    if stop is not None and stop.above is not None:
        callbacks.append(StopAbove(stop.part, stop.above, trainer.parts))
    return callbacks


def _plan(settings: Settings, engine: Engine, dataset: StepDataset) -> BatchPlan:
    cfg = settings.cfg
    sample = [dataset[k] for k in range(min(len(dataset), 64))]
    tokens = max(sum(len(e.prompt) + len(e.answer) for drawn in item.values() for e in drawn) for item in sample)
    largest = largest_micro_batch(engine.model.config, tokens, cfg.gradient_checkpointing)
    return plan_batch(cfg.batch_size, world_size(), cfg.per_device_batch_size, largest)


def _all_examples(dataset: StepDataset, names: Sequence[str]) -> dict[str, list[Example]]:
    """Every example that the run will read, per stream, each once: draws are known beforehand."""
    seen: dict[str, dict[Example, None]] = {name: {} for name in names}
    for k in range(len(dataset)):
        for name, drawn in dataset[k].items():
            seen[name].update(dict.fromkeys(drawn))
    return {name: list(examples) for name, examples in seen.items()}


def _arguments(settings: Settings, run: Run, plan: BatchPlan, dataset: StepDataset, precision: Precision) -> TrainingArguments:
    cfg = settings.cfg
    every = {"epoch": dataset.steps_per_epoch}.get(cfg.checkpoint, cfg.checkpoint)
    warmup = min(dataset.steps_per_epoch, dataset.steps) if cfg.warmup == "epoch" else cfg.warmup
    launcher = cfg.launcher
    # By default its records would lie among the checkpoints, which go when the run is finished.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.folder / "tensorboard")
    # Only when asked for: newer versions warn about the name, older ones know no other.
    recompute = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    recompute = recompute if cfg.gradient_checkpointing else {}
    return TrainingArguments(
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
        bf16=precision.autocast,
        **recompute,
        logging_steps=cfg.log_every,
        logging_nan_inf_filter=False,
        save_strategy="steps" if isinstance(every, int) else "no",
        save_steps=every if isinstance(every, int) else dataset.steps + 1,
        seed=cfg.seed,
        data_seed=cfg.seed,
        report_to=cfg.report_to,
        run_name=str(run.folder),
        dataloader_num_workers=cfg.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        deepspeed=_plain(launcher.deepspeed),
        fsdp=bool(launcher.fsdp),
        fsdp_config=_plain(launcher.fsdp),
        ddp_find_unused_parameters=False,
    )


def _plain(node: DictConfig | None) -> dict | None:
    return None if node is None else OmegaConf.to_container(node, resolve=True)
