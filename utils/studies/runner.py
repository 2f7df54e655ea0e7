"""What a launcher runs for a study: one command line as a process of its own, its output in a file, its end in another.

An order is a JSON file, written by utils/studies/launch.py. Whoever wants everything to stop puts a file `stop` beside the orders
of a launch: no cell of it begins after that, and those that run are asked to end as by Ctrl-C. That works for every launcher,
from another shell, and over a shared file system.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from utils import ROOT, alive, interruption
from utils.files import read_json, told, write_json

BEHIND = ".orders"  # in the pool: orders, outputs, ends
STOP = "stop"
WORDS = ("finished", "failed", "stopped", "taken")
POLL = 0.2  # seconds between two looks at the process
LOOK = 2.0  # seconds between two looks at the stop file
PATIENCE = 600.0  # seconds for an interrupted cell to write its checkpoint
LONGEST = 600  # characters of a sentence
TAIL = 65536  # bytes of an output that are read for its last sentence
ASKED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # exit codes of who was asked to end
BAR = re.compile(r"\d+%\||\b(?:it/s|s/it)\b|\?it/s")  # a progress bar
AGENT = re.compile(r"^[EW]\d{4} .*torch/distributed/elastic/", re.MULTILINE)  # where torchrun's own report begins

_SEIZING = threading.Lock()


@dataclass(frozen=True)
class Order:
    """command: as typed in `folder`, python and torchrun meaning this environment's, scripts being this project's. launch: which
    start of the study this belongs to.

    slots: GPUs (or places on a CPU) of this machine to take from; empty where somebody else hands them out. takes: how many.
    """

    name: str
    command: Sequence[str]
    folder: str
    behind: str
    slots: Sequence[str]
    takes: int
    gpus: bool
    launch: str

    @property
    def path(self) -> Path:
        return folder_of(Path(self.behind), self.launch) / f"{self.name}.order"

    @property
    def end(self) -> Path:
        """File that says how it ended, or that it runs."""
        return Path(self.behind) / f"{self.name}.json"

    @property
    def output(self) -> Path:
        return Path(self.behind) / f"{self.name}.log"

    def write(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, asdict(self))
        return self.path


def folder_of(behind: Path, launch: str) -> Path:
    """Where the orders of one launch lie."""
    return behind / "launches" / launch


def run_cell(cfg: DictConfig) -> str:
    """The task of a launcher: carries out the order in the file `cfg.order`; raises nothing that is the cell's.

    Returns how it ended: one of WORDS or, where not even that could be written, a sentence.
    """
    ended = "stopped"
    try:
        with suppress(interruption.Interrupted), interruption.heard(), interruption.deferred():
            ended = _run(Order(**(read_json(Path(cfg.order)) or {})))
    except OSError as error:
        return told(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ended


def stop(behind: Path, launch: str) -> None:
    """No cell of a launch begins any more, and those that run are interrupted."""
    folder = folder_of(behind, launch)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).touch()


def _run(order: Order) -> str:
    with ExitStack() as held:
        places = held.enter_context(taken(order)) if order.slots else []
        if places is None or _stopped(order):
            return "stopped"
        if held.enter_context(_sign(order)) is None:
            return "taken"
        if _done_meanwhile(order):
            return "finished"
        return _carried_out(order, places)


def _stopped(order: Order) -> bool:
    return bool(interruption.asked()) or order.path.with_name(STOP).exists()


def _done_meanwhile(order: Order) -> bool:
    """Whether another start of a study has finished this cell since the order was given."""
    if (read_json(order.end) or {}).get("status") != "finished":
        return False
    with suppress(OSError):
        return order.end.stat().st_mtime_ns > order.path.stat().st_mtime_ns
    return False


@contextmanager
def _sign(order: Order) -> Iterator[alive.Sign | None]:
    """The sign that a process carries the order out; None if another one does already."""
    try:
        sign = _seized(order.end.with_suffix(".lock"))
    except alive.Taken:
        yield None
        return
    try:
        yield sign
    finally:
        sign.remove()


@contextmanager
def taken(order: Order) -> Iterator[list[str] | None]:
    """Waits for places of this machine and holds them; None if everything was asked to stop meanwhile."""
    signs: list[alive.Sign] = []
    places: list[str] = []
    folder = Path(order.behind) / "slots" / socket.gethostname()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        while len(places) < order.takes:
            for slot in order.slots:
                if len(places) == order.takes:
                    break
                try:
                    signs.append(_seized(folder / slot.replace("/", "_")))
                    places.append(slot)
                except alive.Taken:
                    continue
            if len(places) < order.takes:  # all or none, or two that wait for each other would wait for ever
                while signs:
                    signs.pop().remove()
                places.clear()
                if _stopped(order):
                    yield None
                    return
                time.sleep(LOOK * (1 + (os.getpid() % 7) / 7))
        yield places
    finally:
        for sign in signs:
            sign.remove()


def _seized(path: Path) -> alive.Sign:
    """Raises Taken, also where this very process holds it: a launcher may use threads."""
    with _SEIZING:
        if alive.held(path) is not None:
            raise alive.Taken(None)
        return alive.seize(path)


def _carried_out(order: Order, places: Sequence[str]) -> str:
    started = time.time()
    facts: dict[str, Any] = {"launch": order.launch, "command": list(order.command), "places": list(places)}
    write_json(order.end, {"status": "running", "started": started, **facts})
    with open(order.output, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            _typed(order.command), cwd=order.folder, env=_environment(order, places), stdout=output, stderr=subprocess.STDOUT
        )
        asked = True  # unless it ends by itself
        try:
            asked = _awaited(process, order)
        finally:
            status = _status(process.returncode, asked)
            why = _last_sentence(order.output, process.returncode) if status == "failed" else ""
            seconds = time.time() - started
            write_json(order.end, {"status": status, "code": process.returncode, "told": why, "seconds": seconds, **facts})
    return status


def _status(code: int | None, asked: bool) -> str:
    return "finished" if code == 0 else "stopped" if asked or code in ASKED else "failed"


def _awaited(process: subprocess.Popen, order: Order) -> bool:
    """Waits for the end; whether it was asked to stop. Whatever ends the wait (a cluster's own signal) ends the process first."""
    looked, asked = time.time(), 0.0
    try:
        while process.poll() is None:
            time.sleep(POLL)
            now = time.time()
            if asked and now - asked > PATIENCE:
                process.kill()
            if not asked and (interruption.asked() or now - looked > LOOK):
                looked = now
                if _stopped(order):
                    asked = now
                    process.terminate()  # not SIGINT: a second one would cut a checkpoint short
        return bool(asked)
    except BaseException:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        raise


def _typed(command: Sequence[str]) -> list[str]:
    """The command with this environment's own Python and this project's scripts."""
    first = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}[command[0]]
    script = next((place for place, word in enumerate(command) if word.endswith(".py")), 0)
    return [*first, *(str(ROOT / word) if place == script else word for place, word in enumerate(command) if place)]


def _environment(order: Order, places: Sequence[str]) -> Mapping[str, str]:
    environment = dict(os.environ)
    if order.gpus and places:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(places)
    if not order.gpus and len(order.slots) > 1 and "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // len(order.slots)))
    return environment


def _last_sentence(output: Path, code: int) -> str:
    """Why a command failed: the error of its last traceback, or its last line that is neither a progress bar nor torchrun's."""
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "killed by SIGKILL, as a machine does that runs out of memory"
    with open(output, "rb") as file:
        file.seek(max(0, output.stat().st_size - TAIL))
        text = file.read().decode("utf-8", errors="replace").replace("\r", "\n")
    if (agent := AGENT.search(text)) is not None:
        text = text[: agent.start()]
    lines = [line.rstrip() for line in text.split("\n") if line.strip() and not BAR.search(line)]
    traces = [place for place, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if traces:
        errors = [line for line in lines[traces[-1] + 1 :] if not line.startswith(" ")]
        lines = errors[:1] or lines
    return (lines[-1].strip() if lines else f"ended with {code} and said nothing")[:LONGEST]
