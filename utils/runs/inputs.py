"""What a run is going to read must not lie where it writes: starting anew deletes the folder `out`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.files import flat_settings, resolve
from utils.weights.adapters import base_of

# Settings whose value is a file or folder; of any other one, a value counts that holds a separator and exists.
PATHS = frozenset(
    "path tokenizer oracle null_runs from_logs data_root file facts general_file book base_run perplexity_model "
    "bleurt_checkpoint refusals forget retain holdout general before".split()
)
WRITTEN_THERE = ("out", "cache")
# Parts of a run folder that its own run makes, replaces and deletes.
OWNED = ("checkpoints", "model", "trained", "snapshots")


def inputs(settings: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Setting and path of every existing file or folder that `settings` name, and of the base of an adapter among them."""
    for key, value in flat_settings(settings).items():
        if key in WRITTEN_THERE:
            continue
        for text in value if isinstance(value, list | tuple) else (value,):
            if not isinstance(text, str) or not text or not (key.split(".")[-1] in PATHS or os.sep in text):
                continue
            if not os.path.exists(path := resolve_safely(text)):  # says no, rather than raising, for what can be no path
                continue
            yield key, path
            for folder in (path, path / "model"):
                base = base_of(folder)
                if base is not None and os.path.exists(under := resolve_safely(base)):
                    yield f"the base model of {key}", under


def resolve_safely(text: str) -> Path:
    """`utils.files.resolve` of a text that may be no path at all, such as a whole prompt."""
    try:
        return resolve(text)
    except (OSError, ValueError, RuntimeError):
        return Path(text)


def in_the_way(out: Path, settings: Mapping[str, Any]) -> str | None:
    """Why a run must not write to `out`, in one sentence: it would replace or delete what it reads. None if it may.

    Links are followed on both sides. Reads nothing but small JSON files, and changes nothing.
    """
    target = out.expanduser().resolve()
    for folder in (target, *target.parents):
        if folder.name in OWNED and (folder.parent / "run.json").is_file():
            return (
                f"out={out}: {folder.name}/ of the run {folder.parent} is written and deleted by that run itself; choose another "
                f"out=, such as {folder.parent / 'eval'}"
            )
    for key, path in inputs(settings):
        read = path.resolve()
        if target == read or target in read.parents:
            where = "is" if target == read else "holds"
            return f"out={out} {where} {key}={path}, which this run reads and would replace; choose another out="
        if any(target == read / owned or read / owned in target.parents for owned in OWNED):
            return (
                f"out={out} lies within the model of {key}={path}, which this run reads; choose another out=, "
                f"such as {path / 'eval'}"
            )
    return None
