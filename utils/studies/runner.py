"""What a launcher runs for a study: one command line as a process of its own, its output in a file, its end in another.

An order is a JSON file, written by utils/studies/launch.py. Whoever wants everything to stop writes the launch's name into the
file `stop` beside the orders: no cell begins after that, and those that run are asked to end as by Ctrl-C. That works for every
launcher, from another shell, and over a shared file system.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from utils import ROOT, alive
from utils.files import read_json, write_json

BEHIND = ".orders"  # in the pool: orders, outputs, ends
POLL = 0.2  # seconds between two looks at the process
LOOK = 2.0  # seconds between two looks at the stop file
PATIENCE = 600.0  # seconds for an interrupted cell to write its checkpoint
LONGEST = 600  # characters of a sentence


@dataclass(frozen=True)
class Order:
    """command: as typed, python and torchrun meaning this environment's. slots: GPUs (or places on a CPU) of this machine to take
    from; empty where somebody else hands them out. takes: how many. launch: which start of the study this belongs to."""

    name: str
    command: Sequence[str]
    behind: str
    slots: Sequence[str]
    takes: int
    gpus: bool
    launch: str

    @property
    def end(self) -> Path:
        """File that says how it ended, or that it runs."""
        return Path(self.behind) / f"{self.name}.json"

    @property
    def output(self) -> Path:
        return Path(self.behind) / f"{self.name}.log"

    def write(self) -> Path:
        path = Path(self.behind) / f"{self.name}.order"
        write_json(path, asdict(self))
        return path


def run_cell(cfg: DictConfig) -> str:
    """The task of a launcher: carries out the order in the file `cfg.order`; returns how it ended. Raises nothing."""
    order = Order(**(read_json(Path(cfg.order)) or {}))
    if _stopped(order):
        return "stopped"
    with ExitStack() as held:
        own = held.enter_context(_sign(order))
        if own is None:
            return "taken"
        places = held.enter_context(taken(order)) if order.slots else []
        if places is None:
            return "stopped"
        return _carried_out(order, places)


def stop(behind: Path, launch: str) -> None:
    """No cell of a launch begins any more, and those that run are interrupted."""
    (behind / "stop").write_text(launch, encoding="utf-8")


def _stopped(order: Order) -> bool:
    try:
        return (Path(order.behind) / "stop").read_text(encoding="utf-8") == order.launch
    except OSError:
        return False


@contextmanager
def _sign(order: Order) -> Iterator[alive.Sign | None]:
    """The sign that a process carries the order out; None if another one does already."""
    try:
        sign = alive.seize(order.end.with_suffix(".lock"))
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
    folder = Path(order.behind) / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        while len(places) < order.takes:
            for slot in order.slots:
                if len(places) == order.takes:
                    break
                try:
                    signs.append(_seized(folder / slot))
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
    if alive.held(path) is not None:
        raise alive.Taken(None)
    return alive.seize(path)


def _carried_out(order: Order, places: Sequence[str]) -> str:
    started = time.time()
    facts: dict[str, Any] = {"launch": order.launch, "command": list(order.command), "places": list(places)}
    write_json(order.end, {"status": "running", "started": started, **facts})
    with open(order.output, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            _typed(order.command), cwd=ROOT, env=_environment(order, places), stdout=output, stderr=subprocess.STDOUT
        )
        interrupted = _awaited(process, order)
    status = "finished" if process.returncode == 0 else "stopped" if interrupted or process.returncode in (130, 143) else "failed"
    told = "" if status == "finished" else _last_sentence(order.output, process.returncode)
    write_json(order.end, {"status": status, "code": process.returncode, "told": told, "seconds": time.time() - started, **facts})
    if interrupted is KeyboardInterrupt:
        raise KeyboardInterrupt
    return status


def _awaited(process: subprocess.Popen, order: Order) -> type[BaseException] | bool:
    """Waits for the end; whether it was asked to stop, and by a Ctrl-C here."""
    looked, asked = time.time(), False
    try:
        while process.poll() is None:
            time.sleep(POLL)
            if not asked and time.time() - looked > LOOK:
                looked = time.time()
                if _stopped(order):
                    asked = True
                    process.send_signal(signal.SIGTERM)  # not SIGINT: a second one would cut a checkpoint short
        return asked
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)  # a terminal has sent its Ctrl-C to the process too, another sender has not
        stop(Path(order.behind), order.launch)
        try:
            process.wait(PATIENCE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
        return KeyboardInterrupt


def _typed(command: Sequence[str]) -> list[str]:
    """The command with this environment's own Python."""
    first = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}[command[0]]
    return [*first, *command[1:]]


def _environment(order: Order, places: Sequence[str]) -> Mapping[str, str]:
    environment = dict(os.environ)
    if order.gpus and places:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(places)
    if not order.gpus and len(order.slots) > 1 and "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // len(order.slots)))
    return environment


def _last_sentence(output: Path, code: int) -> str:
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")]
    words = [line for line in lines if line]
    return (words[-1] if words else f"ended with {code} and said nothing")[:LONGEST]
