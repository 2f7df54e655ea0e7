"""Where a model comes from: the run that wrote its folder, and what that run and those before it had read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from utils.distributed import by_main, is_main
from utils.files import read_json
from utils.fingerprint import folder_hash
from utils.weights.card import Evaluated, write_card

TRAINS = ("finetune", "unlearn")

Role = Literal["untouched", "target", "oracle", "method", "relearned", "log"]
"""What a model is to those beside it: as it came; has learned what is to be forgotten; never saw it; has unlearned it; has
learned again after that; or is known by the logs of other code alone."""


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


def role_of_training(script: str, path: str | None, benchmark: str, split: str, harmless: Sequence[str]) -> Role:
    """What a run makes of the model in `path` (None: of random weights), from this and all runs before it.

    harmless: beginnings of the benchmark's splits that hold nothing of what can be forgotten (utils/items/benchmark.py).
    """
    if script == "unlearn":
        return "method"
    origin = Origin.of(path)
    before = [] if origin is None else list(origin.line())
    if any(earlier.capsule["script"] == "unlearn" for earlier in before):
        return "relearned"
    learned = [earlier.settings.get("split") for earlier in before if _benchmark(earlier.settings) == benchmark]
    parts = [part for splits in (split, *learned) for part in str(splits).split("+")]
    return "oracle" if all(part.startswith(tuple(harmless)) for part in parts) else "target"


def role_of_evaluated(cfg: DictConfig) -> Role | None:
    """What is evaluated. None: the run that wrote the model did not say."""
    if cfg.from_logs is not None:
        return "log"
    if cfg.reinforced.path is not None:
        return "method"  # the logits of two models: what no run wrote
    origin = Origin.of(cfg.model.path)
    return "untouched" if origin is None else origin.capsule.get("role")


def tell_card(out: Path, settings: Mapping[str, Any]) -> None:
    """Writes the numbers of the evaluation in `out` into the card of its model, if that is eval/ of the run that made the model.
    settings: of the evaluation."""
    origin = Origin.of(settings["model"]["path"])
    alone = origin is not None and origin.part == "model" and origin.finished and settings["reinforced"]["path"] is None
    if is_main() and alone and out.resolve() == (origin.folder / "eval").resolve():
        write_card(origin.folder / "model", origin.capsule, Evaluated(read_json(out / "metrics.json") or {}, settings))


def _benchmark(settings: Mapping[str, Any]) -> object:
    return (settings.get("benchmark") or {}).get("name")
