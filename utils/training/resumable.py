"""Checkpoints to go on from. Each is sealed by a manifest of its files, written last: without it a checkpoint is half-written,
with it every change of a byte is noticed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from utils.distributed import barrier, by_main, gathered, is_main, rank, world_size
from utils.files import read_json, write_json
from utils.fingerprint import file_hash

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MISSING = "missing"


def seal(checkpoint: Path) -> None:
    """Writes the manifest; every process calls it once all of them have written their part, and hashes a share of the files."""
    barrier()
    hashes = _hashes(checkpoint, by_main(lambda: _files(checkpoint)))
    if is_main():
        write_json(checkpoint / MANIFEST, hashes)
    barrier()


def keep_last(folder: Path, kept: int) -> None:
    """Deletes all checkpoints but the newest `kept` that are sealed (main process)."""
    for old in sorted(set(folder.glob("checkpoint-*")) - set(_sealed(folder)[:kept])):
        _delete(old)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None. Its files are not looked at."""
    return next(iter(_sealed(folder)), None)


def whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files are what they were when it was written, or None: on every process, which share the work.

    One that is damaged is named in a warning and deleted, and so is what was never written to its end.
    """
    names = by_main(lambda: [path.name for path in _sealed(folder)])
    damaged: list[str] = []
    found: Path | None = None
    for path in (folder / name for name in names):
        problem = _problem(path, by_main(partial(read_json, path / MANIFEST)))
        if problem is None:
            found = path
            break
        damaged.append(f"{path} is damaged ({problem})")
    if is_main():
        for path in folder.glob("checkpoint-*"):
            if path.name not in names or any(said.startswith(f"{path} ") for said in damaged):
                _delete(path)
        for said in damaged:
            log.warning("%s; going on from %s", said, "the beginning" if found is None else found.name)
    barrier()
    return found


def step_of(checkpoint: Path) -> int:
    """After how many optimizer steps a checkpoint was written."""
    return int(checkpoint.name.split("-")[1])


def _problem(checkpoint: Path, known: object) -> str | None:
    """What is wrong with the files of a checkpoint, given its manifest."""
    if not isinstance(known, dict) or not known:
        return f"its {MANIFEST} is not readable"
    for name, now in _hashes(checkpoint, sorted(known)).items():
        if now != known[name]:
            return f"{name} is {MISSING}" if now == MISSING else f"{name} is not what was written"
    return None


def _hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    mine = names[rank() :: world_size()]
    return dict(sorted(gathered([(name, _hash(folder / name)) for name in mine])))


def _hash(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError:  # a folder in its place, or a disk that cannot read it
        return MISSING


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _sealed(folder: Path) -> list[Path]:
    """The newest first."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    return sorted((path for path in numbered if (path / MANIFEST).exists()), key=step_of, reverse=True)


def _delete(checkpoint: Path) -> None:
    """The seal goes first: what is left, if this is cut short, is not taken for a checkpoint."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)
