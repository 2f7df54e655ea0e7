"""Hands cells to one of Hydra's launchers: basic, joblib, submitit_local, submitit_slurm, ray (config/launch/)."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from utils.checks import choose, first_line
from utils.files import flat_settings
from utils.runs.cli import CONFIG, as_override
from utils.studies.cells import Cell
from utils.studies.runner import BEHIND, Order, run_cell, stop

log = logging.getLogger(__name__)

FOLDER = CONFIG / "launch"
HANDS_OUT = ("submitit_slurm", "ray")  # the cluster says where a cell runs
INSTALL = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}


@dataclass
class Launch:
    """One start of a study. parallel: cells at a time on this machine; None: one for each GPU, or one. settings: of the launcher,
    over those of config/launch."""

    launcher: str
    pool: Path
    settings: dict[str, object] = field(default_factory=dict)
    parallel: int | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def __post_init__(self) -> None:
        choose("launcher", self.launcher, launchers())
        self.gpus = visible_gpus()

    @property
    def behind(self) -> Path:
        return self.pool / BEHIND

    @property
    def local(self) -> bool:
        return self.launcher not in HANDS_OUT

    @property
    def slots(self) -> list[str]:
        """What cells take on this machine while they run."""
        if not self.local:
            return []
        return self.gpus or [f"cpu{number}" for number in range(self.parallel or 1)]

    def check(self) -> None:
        """Raises ValueError for a launcher that is not installed, or has no such setting."""
        self._composed([])

    def run(self, cells: Sequence[Cell], again: Sequence[str] = ()) -> None:
        """Runs cells that need nothing any more but themselves; returns when all have ended, however they did (`Order.end`).

        again: names of those whose finished folder is given up. KeyboardInterrupt is raised again when all have stopped.
        """
        self.behind.mkdir(parents=True, exist_ok=True)
        orders = [self._order(cell, cell.name in again).write() for cell in cells]
        for name in ("hydra", "hydra_plugins", "submitit"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they list every order
        try:
            with self._hydra() as made:
                made.launch([[as_override("order", str(path.absolute()))] for path in orders], initial_job_idx=0)
        except KeyboardInterrupt:
            self.stop()
            raise
        except Exception as error:  # a killed job, a queue that refused it: the ends of the cells tell what is done
            log.warning("launcher=%s: %s", self.launcher, first_line(error))

    def stop(self) -> None:
        """Asks everything that this launch began to end, and takes what waits out of SLURM's queue."""
        stop(self.behind, self.token)
        if self.launcher == "submitit_slurm" and shutil.which("scancel"):
            subprocess.run(["scancel", "--state=PENDING", f"--name={self.job_name}"], check=False)

    @property
    def job_name(self) -> str:
        return f"lethe-{self.token}"

    def _order(self, cell: Cell, again: bool) -> Order:
        takes = min(cell.processes, len(self.slots)) if self.gpus else 1
        return Order(
            cell.folder.name,
            cell.command(again),
            str(self.behind.absolute()),
            self.slots,
            takes,
            bool(self.gpus),
            self.token,
        )

    def _composed(self, words: Sequence[str]):
        settings = flat_settings(OmegaConf.to_container(OmegaConf.load(FOLDER / f"{self.launcher}.yaml")) or {}) | self.settings
        if self.launcher == "joblib":
            settings["n_jobs"] = max(1, len(self.slots))
        if self.launcher.startswith("submitit"):
            settings["name"] = self.job_name
        overrides = [
            f"hydra/launcher={self.launcher}",
            *(as_override(f"hydra.launcher.{k}", v) for k, v in settings.items()),
            *words,
        ]
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONFIG), version_base="1.3"):
                hydra = GlobalHydra.instance().hydra
                assert hydra is not None
                return hydra, hydra.compose_config("cell", overrides, run_mode=RunMode.MULTIRUN)
        except HydraException as error:
            hint = f"; pip install -r requirements-{INSTALL[self.launcher]}.txt" if self.launcher in INSTALL else ""
            raise ValueError(f"launcher={self.launcher}: {first_line(error)}{hint}") from error

    def _hydra(self):
        return _Launcher(self)


class _Launcher:
    """One of Hydra's launchers, ready; Hydra's own state is put away afterwards."""

    def __init__(self, launch: Launch):
        self._launch = launch

    def __enter__(self):
        hydra, config = self._launch._composed(["order=''"])
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        # Workers import this project by name.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(CONFIG.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run_cell, config=config)

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            GlobalHydra.instance().clear()


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
