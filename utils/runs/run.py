"""A run is a folder: config.yaml, run.json (what made it), log.jsonl, checkpoints/ while it trains, model/ or scores at the end.

run.json says `running` until everything else is on disk, then `finished`. Files that others read are written under another
name and renamed, so what exists is whole.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from utils import ROOT
from utils.distributed import barrier, from_main, is_main, world_size
from utils.files import flat_settings, read_json, read_rows, write_json, write_rows, write_text
from utils.fingerprint import settings_hash
from utils.runs.inputs import in_the_way
from utils.training.callbacks import last_checkpoint

log = logging.getLogger(__name__)

# Where a run lies and how it is executed does not change what it computes.
NOT_PART_OF_THE_RESULT = (
    "out",
    "resume",
    "overwrite",
    "cache",
    "report_to",
    "per_device_batch_size",
    "log_every",
    "checkpoint",
    "show_prompts",
    "workers",
    "tokens_per_batch",
    "rescore",
)
LIBRARIES = ("torch", "transformers", "accelerate", "peft", "datasets", "hydra-core", "rouge_score", "scipy", "numpy")


class RunError(ValueError):
    """The run folder cannot be used as asked; the message says why and what to do."""


@dataclass
class Run:
    """One run folder. `skip` is True if it is already finished with the same settings."""

    folder: Path
    settings: dict[str, Any]
    skip: bool = False
    capsule: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.time)

    @classmethod
    def open(cls, cfg: DictConfig, script: str, data: Mapping[str, str]) -> Run:
        """Starts, resumes or skips the run in `cfg.out`. data: name -> hash of the files that it goes by (utils/reading.py).

        Raises RunError if the folder holds a run with other settings or from other weights, or something that is no run, or a
        half-written run while resume=false, and if what the settings name as input lies where the run would write. Without overwrite=true only the folder of a run that failed before its first
        result is deleted.
        """
        settings = OmegaConf.to_container(cfg, resolve=True)
        run = cls(Path(str(cfg.out)), settings)
        if problem := from_main(in_the_way(run.folder, settings) if is_main() else None):
            raise RunError(problem)
        state = run._look(script, data)
        if state == "finished" and not cfg.overwrite:
            log.info("%s is finished with these settings; skipped (overwrite=true runs it again)", run.folder)
            run.skip = True
            return run
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # a sweep runs many jobs in one process
        barrier()
        if is_main():
            if state != "running" or cfg.overwrite:
                run._clear()
            run._begin(script, cfg, data)
        barrier()
        return run

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def checkpoint(self) -> Path | None:
        """Where to resume from, if an earlier attempt got that far."""
        return last_checkpoint(self.checkpoints)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Appends one line to log.jsonl (main process only)."""
        if is_main():
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def note(self, **facts: Any) -> None:
        """Adds facts (data and model hashes, batch plan, ...) to run.json."""
        self.capsule.update(facts)
        if is_main():
            write_json(self.folder / "run.json", self.capsule)

    def finish(self) -> None:
        """Marks the run finished and drops its checkpoints. Call it when everything else is on disk."""
        barrier()
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak_resident_bytes()
        self.note(status="finished", seconds=round(time.time() - self._started, 1), peak_memory_bytes=peak)
        if is_main():
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        barrier()

    def _look(self, script: str, data: Mapping[str, str]) -> str:
        """new | running | finished. Raises RunError for what is in the way."""
        overwrite, resume = self.settings["overwrite"], self.settings["resume"]
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"out={self.folder}: there is a file of that name; choose another out=")
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return "new"
        known = self._known()
        if known["script"] != script:
            raise RunError(f"out={self.folder} holds a run of {known['script']}, not of {script}; choose another out=")
        if overwrite:
            return known["status"]
        if known["status"] == "running" and not self._has_results():
            return "new"
        changed = _differences(known["settings"], self.settings)
        if changed:
            shown = "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
            raise RunError(
                f"out={self.folder} holds a {known['status']} run with other settings ({shown}); "
                "choose another out=, or overwrite=true"
            )
        now, before = sources(self.settings), known.get("sources", {})
        made_anew = [f"{key} was made anew since and has other weights" for key in before if before[key] != now[key]]
        earlier = known.get("data", {})
        changed_files = [key for key in data if key in earlier and data[key] != earlier[key]]
        made_anew += [f"the data file {key} has changed since" for key in changed_files]
        if made_anew:
            raise RunError(
                f"out={self.folder} holds a {known['status']} run, but {made_anew[0]}; choose another out=, or overwrite=true"
            )
        if known["status"] == "running" and not resume:
            raise RunError(f"out={self.folder} holds a half-written run; use resume=true to go on, overwrite=true to start again")
        return known["status"]

    def _known(self) -> dict[str, Any]:
        """run.json of a folder that is not empty. Raises RunError if it is missing or damaged."""
        path = self.folder / "run.json"
        known = read_json(path)
        if isinstance(known, dict) and {"script", "status", "settings"} <= known.keys():
            return known
        if path.exists():
            raise RunError(f"out={self.folder}: its run.json is damaged; delete the folder or choose another out=")
        foreign = sorted(path.name for path in self.folder.iterdir())[:5]
        raise RunError(f"out={self.folder}: not a run folder (it holds {', '.join(foreign)}); choose another out=")

    def _has_results(self) -> bool:
        """Whether an earlier attempt got anywhere: a run that failed while loading has nothing to lose."""
        begun = ("config.yaml", "run.json", self.checkpoints.name)
        return self.checkpoint is not None or any(path.name not in begun for path in self.folder.iterdir())

    def _begin(self, script: str, cfg: DictConfig, data: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._trim_log()
        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        self.capsule = {"script": script, "status": "running", "settings": self.settings, **capsule(self.settings)}
        self.capsule |= {"sources": sources(self.settings), "data": dict(sorted(data.items()))}
        write_json(self.folder / "run.json", self.capsule)

    def _clear(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _trim_log(self) -> None:
        """Drops records of steps after the checkpoint that the run resumes from, and a half-written last line."""
        path = self.folder / "log.jsonl"
        if not path.exists():
            return
        reached = int(self.checkpoint.name.split("-")[1]) if self.checkpoint else 0
        write_rows(path, [record for record in read_rows(path, appended=True) if record.get("step", 0) <= reached])


def sources(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """Hash of the weights in the run folders that `settings` name, by key; None for what is no run folder."""
    paths = {"model.path": settings["model"]["path"], "oracle": settings.get("oracle")}
    paths["reinforced.path"] = settings.get("reinforced", {}).get("path")
    made = {key: read_json(Path(path).expanduser() / "run.json") if path else None for key, path in paths.items()}
    return {key: run.get("weights") if isinstance(run, dict) else None for key, run in made.items()}


def capsule(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What one needs to know to repeat a run: code, libraries, hardware, settings hash."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "settings_hash": settings_hash(settings, NOT_PART_OF_THE_RESULT),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": git_commit(),
        "python": platform.python_version(),
        "libraries": _versions(),
        "hardware": {"gpus": gpus, "cpus": os.cpu_count(), "machine": platform.machine(), "processes": world_size()},
    }


def git_commit() -> str:
    """Commit of this code, with -dirty if files differ from it; `unknown` outside a checkout."""
    try:
        ask = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*ask, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*ask, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        return commit + ("-dirty" if changed.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that changed, as `key: old -> new`, the dials of the first level before those inside groups."""
    before, after = flat_settings(old), flat_settings(new)
    keys = [key for key in {**before, **after} if key.split(".")[0] not in NOT_PART_OF_THE_RESULT]
    keys.sort(key=lambda key: key.count("."))
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _peak_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
