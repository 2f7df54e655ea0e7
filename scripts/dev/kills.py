"""Kills runs at random file operations and holds every rerun to the bit against runs that nobody disturbed.

    python -m scripts.dev.kills --count 200

A process that has loaded everything forks one child for each run. In the child every file operation of Python below the working
folder (opened to write, renamed, linked, deleted, made, touched) is counted; at one drawn at random the child kills itself,
before it or with its file half-written. Every third time the same command is killed once more. Then it runs to its end, and
what it leaves must equal what an undisturbed run leaves: log, weights, scores, answers, metrics, and no leftovers.
Three kinds in turn: a training, an evaluation, and an evaluation beside a cache that is being tidied up.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

TRAINING = (
    "unlearn",
    ("method=npo_rt", "split=forget05", "batch_size=4", "epochs=1.2", "lr=1e-3", "warmup=1", "checkpoint=1", "snapshots=2"),
)
QUICK = ("benchmark.rows=2", "benchmark.max_new_tokens=4", "resamples=100", "split=forget05")
EVALUATION = ("evaluate", (*QUICK, "oracle=oracle", "trust_oracle=true"))
TIDYING = ("evaluate", (*QUICK, "oracle=none", "cache_gib=0"))
KINDS = {"training": TRAINING, "evaluation": EVALUATION, "cache": TIDYING}
# Events of Python's audit hook that change a folder, and where the path stands among their arguments.
EVENTS = {"os.rename": 0, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.link": 0, "os.utime": 0, "os.truncate": 0}
KILLED = -signal.SIGKILL
SECONDS = 240


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=12, metavar="N", help="kills (default: 12)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments that are drawn (default: 0)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="an empty folder to work in (default: a temporary one)")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="lethe-kills-"))
    failures = kill(folder.resolve(), options.count, options.seed)
    if options.folder is None and not failures:
        shutil.rmtree(folder)
    return len(failures)


def kill(folder: Path, count: int, seed: int) -> list[str]:
    """Prints a line for each kill; returns what went wrong."""
    _prepare(folder)
    wanted, operations = {}, {}
    for kind in KINDS:
        place = folder / f"undisturbed-{kind}"
        code, operations[kind] = _child(folder, place, kind, None)
        if code != 0:
            raise SystemExit(f"the undisturbed {kind} failed; see {place}.log")
        wanted[kind] = contents(place / "run")
    print(f"file operations: {operations}", flush=True)
    draw, failures, kills, number = random.Random(seed), [], 0, 0
    while kills < count:
        kind = list(KINDS)[number % len(KINDS)]
        place = folder / f"{number:04d}"
        number += 1
        moments = []
        for again in range(2 if number % 3 == 0 else 1):
            moment = draw.randrange(operations[kind])
            code, _ = _child(folder, place, kind, (moment, draw.random() < 0.5))
            if code == KILLED:
                kills += 1
                moments.append(moment)
            elif code != 0:
                failures.append(f"{place}: {kind} failed before it was killed at {moment}")
            elif again == 0:
                moments.append(-1)  # what came before left less to do
        code, _ = _child(folder, place, kind, None)
        problem = f"the rerun failed with {code}" if code else difference(wanted[kind], contents(place / "run"))
        if problem:
            failures.append(f"{place}: {kind} killed at {moments}: {problem}")
        else:
            shutil.rmtree(place)
            place.with_suffix(".log").unlink()
        print(f"{kills}/{count} {kind} at {moments}: {problem or 'ends as if nothing had been'}", flush=True)
    print(f"{kills} kills, {len(failures)} reruns that did not end as if nothing had been", *failures, sep="\n", flush=True)
    return failures


def contents(run: Path) -> dict[str, Any]:
    """What a run leaves: hash of each file, numbers of those that hold times or paths; names alone tell of leftovers."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if name == "run.json":
            known = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {key: known.get(key) for key in ("status", "weights", "results", "settings_hash", "steps", "requests")}
        elif name == "log.jsonl":
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found[name] = [{key: record.get(key) for key in ("step", "loss", "grad_norm")} for record in records]
        elif name != "config.yaml":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def difference(wanted: dict[str, Any], found: dict[str, Any]) -> str | None:
    names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    return f"{', '.join(names)} differ" if names else None


def _prepare(folder: Path) -> None:
    """A model to unlearn from, a retain oracle, and everything imported that a run needs, before the first fork."""
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    logging.disable(logging.WARNING)
    from tests.models import tiny_model, tokenizer
    from utils.runs import oracles, score, train  # noqa: F401
    from utils.weights.models import save_model

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    for number, name in enumerate(("target", "oracle")):
        save_model(tiny_model(seed=number, **small), tokenizer(), folder / name, torch.float32)


def _child(folder: Path, place: Path, kind: str, moment: tuple[int, bool] | None) -> tuple[int, int]:
    """Runs a kind in a fork; exit code (negative: killed by that signal), and how many file operations were counted."""
    if not place.exists():
        shutil.copytree(folder / "oracle", place / "oracle")  # its own: the scores of an oracle are kept beside it
    counted, told = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(counted)
        _run(folder, place, kind, moment, told)
    os.close(told)
    with os.fdopen(counted, encoding="utf-8") as pipe:
        text = pipe.read()
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), int(text or 0)


def _run(folder: Path, place: Path, kind: str, moment: tuple[int, bool] | None, told: int) -> None:
    code = 1
    signal.alarm(SECONDS)
    with open(place.with_suffix(".log"), "a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        print(f"--- {kind} {moment}", flush=True)
        try:
            count = _watch(folder, moment)
            _script(place, *KINDS[kind])
            os.write(told, str(count()).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            log.flush()
            os._exit(code)


def _script(place: Path, name: str, words: Sequence[str]) -> None:
    from utils.runs.cli import compose_settings
    from utils.runs.series import script_main

    os.chdir(place)
    if "cache_gib=0" in words:
        stale = Path("cache") / ("0" * 16 + "-old")
        stale.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            (stale / f"texts-{number:02x}.json").write_text("{}")
            (stale / f"partial-{number:032x}").write_text("{")
    script_main(name)(compose_settings(name, [*words, "model.path=../target", "cache=cache", "out=run"]))
    left = [path for path in Path("cache").glob("*/partial-*") if "-old" not in path.parts[-2]]  # those are made anew each time
    if left:
        raise AssertionError(f"left in the cache: {left}")


def _watch(folder: Path, moment: tuple[int, bool] | None) -> Callable[[], int]:
    """Counts file operations below `folder`, and kills this process at the one that `moment` says."""
    seen = 0
    within = str(folder) + os.sep

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        flags = 0
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, str | bytes) or not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in EVENTS:
            path = arguments[EVENTS[event]]
        else:
            return
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(within):
            return
        number, seen = seen, seen + 1
        if moment is not None and number == moment[0]:
            if moment[1] and event == "open":
                _leave_half(path, flags)
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: seen


def _leave_half(path: str, flags: int) -> None:
    """As if the process had been killed in the middle of writing; what was opened to be changed in place is left alone."""
    if flags & (os.O_TRUNC | os.O_APPEND | os.O_EXCL):
        with suppress(OSError):
            os.write(os.open(path, flags, 0o666), b"{")


if __name__ == "__main__":
    sys.exit(main())
