"""Hands cells to one of Hydra's launchers: basic, joblib, submitit_local, submitit_slurm, ray (config/launch/)."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from utils import interruption
from utils.checks import choose, did_you_mean_or_all, first_line, shown
from utils.files import flat_settings
from utils.runs.cli import CONFIG, as_override
from utils.studies.cells import Cell
from utils.studies.runner import BEHIND, POLL, STOP, WORDS, Order, folder_of, run_cell, stop

log = logging.getLogger(__name__)

FOLDER = CONFIG / "launch"
HANDS_OUT = ("submitit_slurm", "ray")  # the cluster says where a cell runs
INSTALL = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
SET_BY_ITSELF = {"n_jobs": "write parallel=N", "name": "the study gives its jobs a name of their own; leave it out"}


@dataclass
class Launch:
    """One start of a study. parallel: cells at a time on this machine; None: one for each GPU, or one. settings: of the launcher,
    over those of config/launch. processes: of a cell, at most."""

    launcher: str
    pool: Path
    settings: dict[str, object] = field(default_factory=dict)
    parallel: int | None = None
    processes: int = 1
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def __post_init__(self) -> None:
        choose("launcher", self.launcher, launchers())
        self.gpus = visible_gpus()

    @property
    def behind(self) -> Path:
        return self.pool / BEHIND

    @property
    def folder(self) -> Path:
        """What this start alone needs: orders, the launcher's own files, and the word to stop."""
        return folder_of(self.behind, self.token)

    @property
    def local(self) -> bool:
        return self.launcher not in HANDS_OUT

    @property
    def slots(self) -> list[str]:
        """What cells take on this machine while they run."""
        if not self.local:
            return []
        if not self.gpus:
            return [f"cpu{number}" for number in range(self.parallel or 1)]
        return self.gpus[: self.parallel * self.processes] if self.parallel else self.gpus

    @property
    def stopped(self) -> bool:
        """Whether somebody asked this launch to stop."""
        return (self.folder / STOP).exists()

    def check(self) -> None:
        """Raises ValueError for a launcher that is not installed or has no such setting, and for what this machine cannot run."""
        if self.launcher == "basic" and (self.parallel or 1) > 1:
            raise ValueError(f"parallel={self.parallel}: launcher=basic runs one after the other; write launcher=joblib")
        if self.gpus and self.local and self.processes > len(self.gpus):
            raise ValueError(f"processes={self.processes}: this machine has GPUs for {len(self.gpus)}; write no more")
        known = self._composed().hydra.launcher
        for key, value in self.settings.items():
            line, head = f"launch.{key}={shown(value)}", key.partition(".")[0]
            if key in SET_BY_ITSELF:
                raise ValueError(f"{line}: {SET_BY_ITSELF[key]}")
            if head not in known:
                names = [str(name) for name in known if name not in ("_target_", *SET_BY_ITSELF)]
                raise ValueError(f"{line}: launcher={self.launcher} has no such setting{did_you_mean_or_all(head, names)}")
        self._composed(self._settings)

    def run(self, cells: Sequence[Cell], again: Sequence[str] = ()) -> set[str]:
        """Runs cells that need nothing any more but themselves; returns when all have ended, however they did (`Order.end`), the
        names of those that somebody else runs.

        again: names of those whose finished folder is given up. Raises Interrupted when all have stopped that ran.
        """
        _quiet()
        orders = {cell.name: self._order(cell, cell.name in again) for cell in cells}
        with interruption.deferred(), self._heeding():
            told = self._launched([order.write() for order in orders.values()])
        for name, word in zip(orders, told, strict=False):
            if word not in WORDS:
                log.warning("%s: %s", name, word)
        return {name for name, word in zip(orders, told, strict=False) if word == "taken"}

    def stop(self) -> None:
        """Asks everything that this launch began to end, and takes what waits out of SLURM's queue."""
        stop(self.behind, self.token)
        if self.launcher == "submitit_slurm" and shutil.which("scancel"):
            subprocess.run(["scancel", "--state=PENDING", f"--name={self.job_name}"], check=False)

    def tidy(self) -> None:
        """Deletes what only this start needed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def job_name(self) -> str:
        return f"lethe-{self.token}"

    @contextmanager
    def _heeding(self) -> Iterator[None]:
        """Within the block, a signal to this process stops the launch. What is started meanwhile does not hear the Ctrl-C of a
        terminal, which would end workers and controllers before the cells that they wait for: it goes by the word to stop."""
        resource_tracker.ensure_running()  # a helper of worker processes, which lets signals through again when it starts
        over = threading.Event()

        def listen() -> None:  # also the one thread that the signal can be delivered to
            while not over.wait(POLL):
                if interruption.asked():
                    return self.stop()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            over.set()
            thread.join()

    def _launched(self, orders: Sequence[Path]) -> list[str]:
        """What the task returned for each order; nothing if the launcher itself gave up: the ends of the cells tell the rest."""
        words = [[as_override("order", str(path.absolute()))] for path in orders]
        try:
            with self._hydra(len(orders)) as made:
                returned = made.launch(words, initial_job_idx=0)
                return [str(one.return_value) for one in returned]
        except Exception as error:  # a killed job, a queue that refused it
            log.warning("launcher=%s: %s", self.launcher, first_line(error))
            return []

    def _order(self, cell: Cell, again: bool) -> Order:
        takes = min(cell.processes, len(self.slots)) if self.gpus else 1
        return Order(
            cell.folder.name,
            cell.command(again),
            str(Path.cwd()),
            str(self.behind.absolute()),
            self.slots,
            takes,
            bool(self.gpus),
            self.token,
        )

    @property
    def _settings(self) -> dict[str, object]:
        """Of the launcher, those of the file below those of the study."""
        return flat_settings(OmegaConf.to_container(OmegaConf.load(FOLDER / f"{self.launcher}.yaml")) or {}) | self.settings

    def _composed(self, settings: Mapping[str, object] | None = None) -> DictConfig:
        return self._loaded(settings or {})[1]

    def _loaded(self, settings: Mapping[str, object]) -> tuple[Hydra, DictConfig]:
        words = [f"hydra/launcher={self.launcher}", as_override("hydra.sweep.dir", str(self.folder.absolute())), "order=''"]
        words += [f"++{as_override(f'hydra.launcher.{key}', value)}" for key, value in settings.items()]
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONFIG), version_base="1.3"):
                hydra = GlobalHydra.instance().hydra
                assert hydra is not None
                return hydra, hydra.compose_config("cell", words, run_mode=RunMode.MULTIRUN)
        except HydraException as error:
            wrong = next((key for key in settings if f"hydra.launcher.{key}=" in str(error)), None)
            if wrong is not None:
                why = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
                raise ValueError(f"launch.{wrong}={shown(settings[wrong])}: {why}") from error
            hint = f"; pip install -r requirements-{INSTALL[self.launcher]}.txt" if self.launcher in INSTALL else ""
            raise ValueError(f"launcher={self.launcher}: is not installed here{hint}") from error

    @contextmanager
    def _hydra(self, count: int) -> Iterator[Launcher]:
        """The launcher, ready for so many cells; Hydra's own state is put away afterwards."""
        settings = dict(self._settings)
        if self.launcher == "joblib":
            settings["n_jobs"] = min(count, self.parallel or max(1, len(self.slots) // self.processes))
        if self.launcher.startswith("submitit"):
            settings["name"] = self.job_name
        hydra, config = self._loaded(settings)
        # Workers import this project by name.
        path = os.pathsep.join([str(CONFIG.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            with _environment(PYTHONPATH=path):
                context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
                yield Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run_cell, config=config)
        finally:
            GlobalHydra.instance().clear()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _quiet() -> None:
    for name in ("hydra", "hydra_plugins", "submitit"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they list every order


def launchers() -> list[str]:
    """Names of the launchers that there are settings for."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in found.stdout.splitlines() if line.startswith("GPU ")] if found.returncode == 0 else []
    return [str(number) for number in range(len(lines))]
