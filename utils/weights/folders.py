"""Where a model lies: in a run folder, in a folder of its own, or on the Hub. Loads nothing."""

from __future__ import annotations

from pathlib import Path

from utils.weights.adapters import ADAPTER_FILE


class ModelError(ValueError):
    """The model or tokenizer cannot be loaded as asked; the message names key and remedy."""


def model_folder(path: Path | str, key: str = "model.path") -> str:
    """A run folder stands for the model in it; everything else (a checkpoint folder, a Hub name) stands for itself.

    Raises ModelError, with the key that it was given by, for a local folder that holds no model.
    """
    folder, name = Path(path).expanduser(), str(path)
    if (found := model_in(folder)) is not None:
        return str(found)
    looks_local = folder.exists() or name.startswith((".", "/", "~", "runs", "models")) or name.count("/") > 1
    if looks_local:
        state = "holds no model" if folder.exists() else "does not exist"
        raise ModelError(f"{key}={path} {state}; give a run folder, a checkpoint folder or a Hub name")
    return name


def model_in(folder: Path) -> Path | None:
    """The folder of the model or adapter in a run folder, or the folder itself if it is one; None if there is none."""
    places = (folder / "model", folder)
    return next((place for place in places if (place / "config.json").is_file() or is_adapter(place)), None)


def is_adapter(folder: Path | str) -> bool:
    """Whether a folder (as `model_folder` gives it) holds an adapter instead of a whole model."""
    return (Path(folder) / ADAPTER_FILE).is_file()


def check_combined(target: str | None, path: str) -> None:
    """Whether the model of `reinforced.path` can stand beside that of `model.path`, by the folders. Raises ModelError."""
    if target is None:
        raise ModelError(f"reinforced.path={path}: set model.path to the target model, which {path} was finetuned from")
    folder = model_folder(path, "reinforced.path")
    if Path(folder).resolve() == Path(model_folder(target)).resolve():
        raise ModelError(f"reinforced.path={path} is model.path itself, so nothing would be unlearned; give the reinforced model")
