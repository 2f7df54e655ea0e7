"""Where the model under an adapter is, also after folders were moved."""

from __future__ import annotations

import os
from pathlib import Path

from utils.files import read_json, write_json

ADAPTER_FILE = "adapter_config.json"
BASE_FILE = "base.json"  # ours, beside PEFT's: where the base lies as seen from the adapter, and which weights it had
NAME = "base_model_name_or_path"


class BaseError(ValueError):
    """The model under an adapter is not the one that the adapter was trained on, or cannot be found."""


def base_of(adapter: Path) -> str | None:
    """Hub name or folder of the model under an adapter: the path in its own file, else the place where it lay beside it.

    None if its file names none. Raises BaseError if the run that wrote the base has written other weights since.
    """
    name = (read_json(adapter / ADAPTER_FILE) or {}).get(NAME)
    if not isinstance(name, str) or not name:
        return None
    kept = read_json(adapter / BASE_FILE) or {}
    if not Path(name).is_dir() and "path" in kept and (beside := adapter / kept["path"]).is_dir():
        name = str(beside.resolve())
    now = _written(Path(name))
    if None not in (now, kept.get("weights")) and now != kept["weights"]:
        raise BaseError(f"{adapter}: its base {name} was trained again since, and holds other weights; train the adapter anew")
    return name


def keep_base(partial: Path, folder: Path, base: str | None) -> None:
    """Writes the place of `base` to the adapter in `partial`, which will be moved to `folder`; a Hub name stays as it is.

    The path in PEFT's file is absolute, so that the adapter alone may move, and the one in ours relative to `folder`, so that
    both may move together.
    """
    if base is None or not Path(base).is_dir():
        return
    settings = read_json(partial / ADAPTER_FILE) or {}
    write_json(partial / ADAPTER_FILE, {**settings, NAME: str(Path(base).absolute())})
    home = Path(base).resolve()
    write_json(partial / BASE_FILE, {"path": os.path.relpath(home, folder.resolve()), "weights": _written(home)})


def _written(model: Path) -> str | None:
    """The hash of the weights that the run around a `model/` folder wrote; None if it is part of no run."""
    run = read_json(model.parent / "run.json") if model.name == "model" else None
    return run.get("weights") if isinstance(run, dict) else None
