"""Room for the token cache: how large it is, what must go first, and what may not go because a live run uses it.

A run says which folder of the cache it uses by a sign of life (utils/alive.py) in <root>/live/. Of the other folders, the file
that was used longest ago goes first; times of use are access times that the cache sets itself, so that mount options do not
matter. Everything else that lies in the root is left alone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from utils import alive

log = logging.getLogger(__name__)

FOLDER = re.compile(r"[0-9a-f]{16}-.+")  # of one model: <weights>-<how they compute>
FILE = re.compile(r"(values-[0-9a-f]+\.safetensors|texts-[0-9a-f]+\.json)")
ORPHAN = re.compile(r"partial-[0-9a-f]{32}|(values|texts)-.+\.partial.*")
LIVE = "live"


def use(folder: Path) -> alive.Sign:
    """Says that this process uses a folder of the cache, until the sign is removed: nothing in it is deleted meanwhile."""
    with _one_at_a_time(folder.parent):
        return alive.post(folder.parent / LIVE / f"{folder.name}.{uuid4().hex}")


def touch(path: Path) -> None:
    """The file is used now. Its time of change stays, by which processes know it again."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def make_room(root: Path | str | None, gib: float | None, told: bool = True) -> None:
    """Deletes what nobody finished, then files until the cache is no larger than `gib` (None: no limit); says where it is and how
    large (told), and what was deleted. Called by one process of a run, when it begins and, without a word, when it ends.

    Files of live runs stay, and a warning says so if they alone are more.
    """
    if root is None or not Path(root).is_dir():
        return
    root = Path(root)
    try:
        with _one_at_a_time(root):
            size, deleted = _make_room(root, float("inf") if gib is None else gib * 2**30)
    except OSError as error:  # of somebody else: it may be read all the same
        log.warning("cache=%s: cannot be tidied up (%s)", root, error)
        return
    limit = "no limit, cache_gib=null" if gib is None else f"at most {gib:g} GiB, cache_gib"
    gone = f"; {_shown(deleted)} of what was not used for longest deleted" if deleted else ""
    if told or deleted:
        log.info("cache %s: %s (%s)%s", root, _shown(size), limit, gone)
    if gib is not None and size > gib * 2**30:
        log.warning("cache=%s: what live runs use is more than cache_gib=%g allows, and is kept", root, gib)


def _make_room(root: Path, limit: float) -> tuple[int, int]:
    """Bytes that are left, and bytes that were deleted besides orphans."""
    live = _live_folders(root)
    found: list[tuple[float, int, Path]] = []
    size = 0
    for folder in root.iterdir():
        if not FOLDER.fullmatch(folder.name) or not folder.is_dir():
            continue
        for path in folder.iterdir():
            if ORPHAN.fullmatch(path.name) and folder.name not in live:
                path.unlink(missing_ok=True)
            elif FILE.fullmatch(path.name):
                with suppress(FileNotFoundError):  # found damaged by a live run
                    state = path.stat()
                    size += state.st_size
                    if folder.name not in live:
                        found.append((state.st_atime, state.st_size, path))
    deleted = 0
    for _, length, path in sorted(found):
        if size - deleted <= limit:
            break
        path.unlink(missing_ok=True)
        deleted += length
    for folder in {path.parent for *_, path in found}:
        with suppress(OSError):
            folder.rmdir()  # if nothing is left in it
    return size - deleted, deleted


def _live_folders(root: Path) -> set[str]:
    """Folders that somebody who lives uses, this process too; signs of the dead are deleted."""
    live = set()
    for path in (root / LIVE).glob("*") if (root / LIVE).is_dir() else ():
        if alive.held(path):
            live.add(path.name.rpartition(".")[0])
        else:
            path.unlink(missing_ok=True)
    return live


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Nobody begins to use a folder while another decides that nobody does."""
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root / "lock", os.O_CREAT | os.O_RDWR, 0o666)
    try:
        with suppress(OSError):  # a file system without locks: a file that goes too early is computed again
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _shown(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
