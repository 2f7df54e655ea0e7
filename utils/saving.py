"""From a trained model to the folder that a run leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from peft import PeftModel

from utils.distributed import barrier, is_main
from utils.fingerprint import folder_hash
from utils.models import Precision, is_adapter, model_folder, save_model
from utils.runs import Run
from utils.settings import Settings
from utils.trainer import UnlearnTrainer


def save(trainer: UnlearnTrainer, settings: Settings, run: Run, precision: Precision) -> None:
    """Writes `model/`: what was trained, or what the method's `finish` makes of it."""
    result, finish = run.folder / "model", settings.finish
    if finish is None:
        write_model(trainer, settings, result, precision)
    else:
        trained = run.folder / "trained"
        write_model(trainer, settings, trained, precision)
        if is_main():
            finish(Path(model_folder(settings.cfg.model.path)), trained, result)
        barrier()
    if is_main():
        run.note(weights=folder_hash(result))


def write_model(trainer: UnlearnTrainer, settings: Settings, folder: Path, precision: Precision) -> None:
    """A plain Hugging Face (or PEFT) folder of the model as it is now; it appears only when it is whole."""
    model, cfg = trainer.accelerator.unwrap_model(trainer.model_wrapped), settings.cfg
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        # Sharded weights are gathered by the Trainer's own saving, in which every process takes part.
        partial = folder.with_name(folder.name + ".partial")
        trainer.save_model(str(partial))
        barrier()
        if is_main():
            (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle that no loader of models needs
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        barrier()
        return
    if isinstance(model, PeftModel) and cfg.adapter.name != "continue" and is_adapter(model_folder(cfg.model.path)):
        # The model under this adapter is a merge that exists nowhere on disk: an adapter file alone would name the wrong base.
        model = model.merge_and_unload()
    # What `finish` subtracts stays in the precision of training: a small difference does not survive rounding.
    as_trained = settings.finish is not None or not precision.autocast
    dtype = str(precision.weights).removeprefix("torch.") if as_trained else cfg.model.dtype
    save_model(model, trainer.processing_class, folder, dtype)
