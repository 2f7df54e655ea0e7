"""Files that say who uses a folder, and by which one can tell whether that process still lives.

Such a file names host, process and start, and its owner touches it every few seconds. On the machine that wrote it the process
itself is asked; from elsewhere, its age decides. Ages are differences between two times of one file system, so that clocks of
machines need not agree.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

BEAT = 15.0  # seconds between two signs of life
STALE = 180.0  # without one: dead. Network file systems may show a new time a minute late


@dataclass(frozen=True)
class Owner:
    """A process. place: machine since its last start, and name space of process ids; empty where they cannot be told.
    born: start of the process in clock ticks, since ids are used again. sign: of this one file."""

    host: str
    pid: int
    started: str
    place: str = ""
    born: int = 0
    sign: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, there since {self.started}"


def myself() -> Owner:
    """This process, at this moment: a forked one is another."""
    now = datetime.now().isoformat(timespec="seconds", sep=" ")
    return Owner(socket.gethostname(), os.getpid(), now, _place(), _born(os.getpid()), uuid4().hex)


class Taken(Exception):
    """Somebody who lives holds the file; None if it does not say who."""

    def __init__(self, owner: Owner | None):
        super().__init__(str(owner))
        self.owner = owner


class Sign:
    """A file of this process that is touched as long as the process lives. Made by `post` or `seize`; gone after `remove`."""

    def __init__(self, path: Path, owner: Owner):
        self.path, self.owner = path, owner
        _beating[path] = self
        _start_beating()

    def is_mine(self) -> bool:
        """False once somebody else took the file over: this process was silent for so long that it seemed dead."""
        return _read(self.path) == self.owner

    def remove(self) -> None:
        if _beating.get(self.path) is self:
            del _beating[self.path]
            if self.is_mine():
                self.path.unlink(missing_ok=True)


def post(path: Path) -> Sign:
    """A sign at `path`, whose name nobody else uses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Sign(path, _written(path))


def seize(path: Path) -> Sign:
    """The one sign at `path`: of two processes that ask at once, one gets it. A dead owner's is taken over, and so is this
    process's own. Raises Taken if somebody else holds it."""
    for _ in range(100):  # each further try means that somebody else was quicker
        mine = path.with_name(f"{path.name}.{uuid4().hex}")
        owner = _written(mine)
        try:
            _link(mine, path)
            return Sign(path, owner)
        except FileExistsError:
            with _only_one(path) as same:
                if not same:
                    continue
                if (other := holder(path)) is not None:
                    raise Taken(other) from None
                os.replace(mine, path)
                return Sign(path, owner)
        except FileNotFoundError:  # somebody tidied up
            continue
        finally:
            mine.unlink(missing_ok=True)
    raise Taken(None)


def holder(path: Path) -> Owner | None:
    """Who lives and holds the sign at `path`; None if there is none, its owner is dead, or it is this process."""
    owner = held(path)
    return None if owner is None or (owner.pid == os.getpid() and owner.place == _place()) else owner


def held(path: Path) -> Owner | None:
    """Who lives and holds the sign at `path`, be it this process; None if there is none, or its owner is dead."""
    if not path.exists():
        return None
    # It was written whole: if it cannot be read, its disk failed, and only its age is left to go by.
    owner = _read(path) or Owner("an unknown host", 0, "an unknown time")
    if owner.place and owner.place == _place():
        return owner if owner.born == _born(owner.pid) else None
    if not owner.place and owner.host == socket.gethostname():  # a system that tells less: its id alone is left
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
    return owner if age(path) < STALE else None


def age(path: Path) -> float:
    """Seconds since the last sign of life, by the clock of the file system."""
    now = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        now.touch()
        return now.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        now.unlink(missing_ok=True)


@contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    """Of those that find the same dead owner, one at a time looks closer; False if the file is another one by now."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        with suppress(OSError):  # a file system without locks: the name itself decides
            fcntl.flock(handle, fcntl.LOCK_EX)
        state = os.fstat(handle)
        yield _identity(path) == (state.st_dev, state.st_ino)
    finally:
        os.close(handle)


def _link(mine: Path, path: Path) -> None:
    """Gives `mine` its second name, which must be free. Raises FileExistsError."""
    try:
        os.link(mine, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        with open(path, "x", encoding="utf-8") as file:  # a file system without hard links
            file.write(mine.read_text(encoding="utf-8"))


def _written(path: Path) -> Owner:
    owner = myself()
    path.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    return owner


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _place() -> str:
    """Process ids mean something only within one name space of one machine that was not started anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(pid: int) -> int:
    """Start of a process in clock ticks since the machine's; -1 if there is none, or it has ended and was not waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return -1


_beating: dict[Path, Sign] = {}
_beater: list[threading.Thread] = []


def _start_beating() -> None:
    if not _beater:
        _beater.append(threading.Thread(target=_beat, daemon=True, name="signs of life"))
        _beater[0].start()


def _beat() -> None:
    pause = threading.Event()
    while not pause.wait(BEAT):
        for sign in list(_beating.values()):
            with suppress(OSError):
                if sign.is_mine():
                    os.utime(sign.path)


def _forget_all() -> None:
    """A forked process holds nothing of its parent's, and threads do not follow it."""
    _beating.clear()
    _beater.clear()


@atexit.register
def _remove_all() -> None:
    for sign in list(_beating.values()):
        with suppress(OSError):
            sign.remove()


os.register_at_fork(after_in_child=_forget_all)
