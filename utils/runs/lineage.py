"""Where a model comes from: the run that wrote its folder, and what that run and those before it had read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.distributed import by_main
from utils.files import read_json
from utils.fingerprint import folder_hash

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

    def check_weights(self, folder: str) -> None:
        """Raises ValueError if the finished model in `folder` holds other weights than the run wrote."""
        written = self.capsule.get("weights")
        if self.part != "model" or not self.finished or written is None:
            return
        # Read once, by the main process: a large model takes a while.
        if by_main(lambda: folder_hash(Path(folder))) != written:
            raise ValueError(
                f"{folder}: its weights are not those that the run in {self.folder} wrote; bring them back, run it again with "
                "overwrite=true, or move the folder out of the run and name its file in config/model: model=NAME model.path=DIR"
            )

    def line(self) -> Iterator[Origin]:
        """This run, the one that its model came from, and so on back to where no run says more."""
        origin: Origin | None = self
        seen: set[Path] = set()
        while origin is not None and origin.folder.resolve() not in seen:
            seen.add(origin.folder.resolve())
            yield origin
            origin = Origin.of(origin.settings.get("model", {}).get("path"))
