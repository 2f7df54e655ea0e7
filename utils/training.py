"""What finetune.py and unlearn.py share once the data are ready: model, reference, trainer, saving."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from data.prompts import Encoder, Example
from data.streams import QA, StepDataset, Streams
from utils.batching import BatchPlan, largest_micro_batch, plan_batch
from utils.distributed import is_main, world_size
from utils.engine import Engine
from utils.fingerprint import weights_hash
from utils.models import (
    Precision,
    add_adapter,
    is_adapter,
    load_model,
    load_tokenizer,
    model_folder,
    resolve_precision,
    save_model,
)
from utils.reference import make_reference, needs_reference
from utils.runs import Run
from utils.settings import Settings
from utils.trainer import MarkCheckpoints, UnlearnTrainer

log = logging.getLogger(__name__)


def make_encoder(settings: Settings) -> Encoder:
    """Tokenizer and template of the model. Loads no weights."""
    cfg = settings.cfg
    return Encoder(load_tokenizer(cfg.model), settings.template, cfg.model.max_length, cfg.compat)


def make_streams(
    settings: Settings, encoder: Encoder, items: Sequence[QA], retain: Sequence[QA] = (), templates: Sequence[str] = ()
) -> Streams:
    """The training items of a run; says how many answers did not fit."""
    cfg = settings.cfg
    policy = cfg.method.get("template_policy", "fixed")
    streams = Streams(tuple(settings.loss.needs), items, encoder, cfg.seed, retain, templates, policy)
    if streams.dropped:
        left_out = "%d of %d items left out: their prompts fill max_length=%d"
        log.warning(left_out, streams.dropped, len(items), encoder.max_length)
    for index in range(min(cfg.show_prompts, len(streams)) if is_main() else 0):
        for name, example in streams.draw(0, index).items():
            print(f"--- item {index}, stream {name}\n{encoder.show(example)}")
    return streams


def show_requests(settings: Settings, encoder: Encoder) -> None:
    """Prints the first `show_prompts` questions with every answer that is scored, supervised tokens marked."""
    for request in settings.benchmark.requests(settings.cfg.split)[: settings.cfg.show_prompts] if is_main() else ():
        for role, number, text in request.answers:
            shown = encoder.show(encoder.example(request.question, text))
            print(f"--- {request.task} {request.index}, {role} {number}\n{shown}")


def train(settings: Settings, run: Run, encoder: Encoder, streams: Streams) -> None:
    """Trains (or goes on training), writes `model/`, marks the run finished."""
    cfg = settings.cfg
    precision = resolve_precision(cfg.precision, cfg.model.dtype, training=True)
    model = _trainable(settings, encoder.tokenizer, precision)
    hide = encoder.pad_id if encoder.masks_inner_eos else None
    engine = Engine(model, encoder.pad_id, hide=hide, autocast=precision.autocast)
    dataset = StepDataset(streams, cfg.epochs, cfg.batch_size)
    plan = _plan(settings, engine, dataset)
    log.info("%d items, %d optimizer steps; %s", len(streams), dataset.steps, plan)
    reference, needs = None, settings.loss.needs
    if needs_reference(needs):
        examples, has_adapter = _all_examples(dataset, tuple(needs)), isinstance(model, PeftModel)
        reference = make_reference(
            cfg.reference, engine, needs, examples, cfg.cache, has_adapter, cfg.reference_cache_gib
        )
    prompts = encoder.fingerprint()
    run.note(batch=str(plan), steps=dataset.steps, items=len(streams), dropped=streams.dropped, prompts=prompts)
    trainer = UnlearnTrainer(
        engine,
        settings.loss,
        dataset,
        reference,
        _arguments(settings, run, plan, dataset, precision),
        encoder.tokenizer,
        run.record,
        [MarkCheckpoints()],
    )
    trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    _save(trainer, settings, encoder.tokenizer, run, precision)
    run.finish()


def _trainable(settings: Settings, tokenizer: PreTrainedTokenizerBase, precision: Precision) -> nn.Module:
    cfg = settings.cfg
    quantised = cfg.adapter.name == "qlora"
    model = load_model(cfg.model, tokenizer, precision, cfg.seed, quantised)
    if cfg.adapter.name != "none":
        torch.manual_seed(cfg.seed)
        model = add_adapter(model, cfg.adapter, cfg.model.lora, quantised)
    if torch.cuda.is_available() and not quantised:
        model = model.to(torch.device("cuda", torch.cuda.current_device()))
    return model


def _plan(settings: Settings, engine: Engine, dataset: StepDataset) -> BatchPlan:
    cfg = settings.cfg
    sample = [dataset[k] for k in range(min(len(dataset), 64))]
    tokens = max(sum(len(e.prompt) + len(e.answer) for e in item.values()) for item in sample)
    largest = largest_micro_batch(engine.model.config, tokens, cfg.gradient_checkpointing)
    return plan_batch(cfg.batch_size, world_size(), cfg.per_device_batch_size, largest)


def _all_examples(dataset: StepDataset, names: Sequence[str]) -> dict[str, list[Example]]:
    """Every example that the run will read, per stream, each once: draws are known beforehand."""
    seen: dict[str, dict[Example, None]] = {name: {} for name in names}
    for k in range(len(dataset)):
        for name, example in dataset[k].items():
            seen[name][example] = None
    return {name: list(examples) for name, examples in seen.items()}


def _arguments(
    settings: Settings, run: Run, plan: BatchPlan, dataset: StepDataset, precision: Precision
) -> TrainingArguments:
    cfg = settings.cfg
    every = {"epoch": dataset.steps_per_epoch, "none": dataset.steps + 1}.get(cfg.checkpoint, cfg.checkpoint)
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
        save_strategy="no" if cfg.checkpoint == "none" else "steps",
        save_steps=every,
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


def _save(
    trainer: UnlearnTrainer, settings: Settings, tokenizer: PreTrainedTokenizerBase, run: Run, precision: Precision
) -> None:
    model, path = trainer.accelerator.unwrap_model(trainer.model_wrapped), settings.cfg.model.path
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        # Sharded weights are gathered by the Trainer's own saving.
        trainer.save_model(str(run.folder / "model"))
        return
    if isinstance(model, PeftModel) and is_adapter(model_folder(path)):
        # The model under this adapter is a merge that exists nowhere on disk: an adapter file alone would name the wrong base.
        model = model.merge_and_unload()
    dtype = settings.cfg.model.dtype if precision.autocast else str(precision.weights).split(".")[1]
    save_model(model, tokenizer, run.folder / "model", dtype)
    if is_main():
        run.note(weights=weights_hash(model))


def _plain(node: DictConfig | None) -> dict | None:
    return None if node is None else OmegaConf.to_container(node, resolve=True)
