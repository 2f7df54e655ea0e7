"""Where a model comes from: the run that wrote its folder, and what that run and those before it had read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files import read_json

TRAINS = ("finetune", "unlearn")


@dataclass(frozen=True)
class Origin:
    """The run that wrote a model. folder: the run's. capsule: its run.json. part: model, trained or snapshots."""

    folder: Path
    capsule: Mapping[str, Any]
    part: str

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.capsule["settings"]

    @property
    def finished(self) -> bool:
        return self.capsule.get("status") == "finished"

    @classmethod
    def of(cls, path: Path | str | None) -> Origin | None:
        """Of a run folder, or of a model in one; None for a model of another source (a Hub name, a folder made elsewhere)."""
        if path is None:
            return None
        folder = Path(path).expanduser()
        places = [(folder, "model")]
        if folder.name in ("model", "trained"):
            places.append((folder.parent, folder.name))
        if folder.parent.name == "snapshots":
            places.append((folder.parent.parent, "snapshots"))
        for home, part in places:
            capsule = read_json(home / "run.json")
            if isinstance(capsule, dict) and capsule.get("script") in TRAINS and isinstance(capsule.get("settings"), dict):
                return cls(home, capsule, part)
        return None

    def line(self) -> Iterator[Origin]:
        """This run, the one that its model came from, and so on back to where no run says more."""
        origin: Origin | None = self
        seen: set[Path] = set()
        while origin is not None and origin.folder.resolve() not in seen:
            seen.add(origin.folder.resolve())
            yield origin
            origin = Origin.of(origin.settings.get("model", {}).get("path"))
