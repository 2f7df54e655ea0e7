"""What one needs to know to repeat a run, and which of its settings decide what it computes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from utils import ROOT
from utils.distributed import gpus, world_size
from utils.files import flat_settings, read_json
from utils.fingerprint import settings_hash
from utils.secrets import struck

# Where a run lies and how it is executed does not change what it computes.
PER_DEVICE = "per_device_batch_size"
NOT_PART_OF_THE_RESULT = tuple(
    "out resume overwrite override_model trust_oracle cache cache_gib report_to per_device_batch_size log_every checkpoint "
    "checkpoints_kept show_prompts workers tokens_per_batch rescore recipe".split()
)
# Dials that came later, with the value that stands for what was done before them: with it a run is the same run as without the
# dial, so that folders and archives of earlier runs are still known.
CAME_LATER = {"before": "auto"}
LIBRARIES = ("torch", "transformers", "accelerate", "peft", "datasets", "hydra-core", "rouge_score", "scipy", "numpy")


def sources(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """Hash of the weights in the run folders that `settings` name, by key; None for what is no run folder."""
    paths = {"model.path": settings["model"]["path"], "oracle": settings.get("oracle")}
    paths["reinforced.path"] = settings.get("reinforced", {}).get("path")
    made = {key: read_json(Path(path).expanduser() / "run.json") if path else None for key, path in paths.items()}
    return {key: run.get("weights") if isinstance(run, dict) else None for key, run in made.items()}


def result_hash(settings: Mapping[str, Any], counts: Collection[str] = ()) -> str:
    """16 hex digits of the settings that decide what is computed. counts: as in `changed_settings`."""
    outside = set(NOT_PART_OF_THE_RESULT) - set(counts)
    outside |= {key for key, value in CAME_LATER.items() if settings.get(key, value) == value}
    return settings_hash(settings, outside)


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any], counts: Collection[str] = ()) -> dict[str, Any]:
    """Dotted key -> new value, or None, of the settings that are not as they were and decide what is computed.

    counts: dials that do so although they stand in NOT_PART_OF_THE_RESULT.
    """
    before, after = CAME_LATER | flat_settings(old), CAME_LATER | flat_settings(new)
    outside = set(NOT_PART_OF_THE_RESULT) - set(counts)
    keys = [key for key in {**before, **after} if key.split(".")[0] not in outside]
    return {key: after.get(key) for key in keys if before.get(key) != after.get(key)}


def capsule(settings: Mapping[str, Any], counts: Collection[str] = ()) -> dict[str, Any]:
    """What one needs to know to repeat a run: code, libraries, hardware, settings hash. counts: as in `changed_settings`."""
    return {
        "settings_hash": result_hash(settings, counts),
        "command": [Path(sys.argv[0]).name, *map(struck, sys.argv[1:])],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": git_commit(),
        "python": platform.python_version(),
        "libraries": _versions(),
        "hardware": {"gpus": gpus(), "cpus": os.cpu_count(), "machine": platform.machine(), "processes": world_size()},
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


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
