"""What happens beside the steps of a training run: checkpoints, snapshots, early stops, the progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from utils.distributed import from_main, highest
from utils.interruption import asked
from utils.training.resumable import keep_last, seal


class SealCheckpoints(TrainerCallback):
    """Seals a checkpoint once everything of it is on disk, and only then deletes those before the last `kept`."""

    def __init__(self, kept: int):
        self.kept = kept

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(args.output_dir)
        seal(folder / f"checkpoint-{state.global_step}")
        if state.is_world_process_zero:
            keep_last(folder, self.kept)


class SaveByTheClock(TrainerCallback):
    """Asks for a checkpoint when so many minutes of training have passed since the last one; the main process decides."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic):
        self.seconds, self.clock = 60 * minutes, clock
        self._last = clock()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._last = self.clock()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if from_main(self.clock() - self._last >= self.seconds):
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._last = self.clock()


class Snapshots(TrainerCallback):
    """Keeps the model every so many steps and after the last one; `keep` writes it."""

    def __init__(self, every: int, keep: Callable[[int], None]):
        self.every, self.keep = every, keep

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.keep(state.global_step)


class StopAbove(TrainerCallback):
    """Ends training after the first step in which a logged part of the loss was at least `above`."""

    def __init__(self, part: str, above: float, parts: Callable[[], dict[str, float]]):
        self.part, self.above, self.parts = part, above, parts

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.parts()[self.part] >= self.above:
            control.should_training_stop = True
            control.should_save = False  # who resumed from here would not know that it was the last step


class StopWhenAsked(TrainerCallback):
    """Ends training after the step in which any process was told to stop, all processes after the same one, with a checkpoint.

    Comes after the other callbacks. saves: whether checkpoints are written at all. `number`: the signal that ended training.
    """

    def __init__(self, saves: bool):
        self.saves, self.number = saves, 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        ends_anyway = control.should_training_stop and state.global_step < state.max_steps
        if not ends_anyway and (number := highest(asked(), args.device)):
            self.number = number
            control.should_training_stop = True
            control.should_save = self.saves


class Progress(ProgressCallback):
    """The progress bar of the main process: step, time left and the newest loss, instead of a line per record (those are in
    log.jsonl)."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.current_step = state.global_step
        if state.is_world_process_zero:
            # From where it resumes: earlier steps took no time, and would make those to come look fast.
            steps = {"total": state.max_steps, "initial": state.global_step}
            self.training_bar = tqdm(**steps, desc="training", unit="step", dynamic_ncols=True)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if self.training_bar is not None and logs is not None and "loss" in logs:
            # Seen at once by who watches; in a file, with the next state of the bar (utils/runs/terminal/quiet.py).
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4g}", refresh=self.training_bar.mininterval < 1)
