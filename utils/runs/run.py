"""A run is a folder: config.yaml, run.json (what made it), log.jsonl, checkpoints/ while it trains, model/ or scores at the end.

run.json says `running` until everything else is on disk, then `finished`. Files that others read are written under another
name and renamed, so what exists is whole.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from utils import alive
from utils.cache_limit import LIVE, make_room
from utils.distributed import barrier, forget_peak, from_main, is_main, peak_memory
from utils.files import flat_settings, read_json, read_rows, write_json, write_rows, write_text
from utils.runs.capsule import PER_DEVICE, capsule, changed_settings, sources
from utils.runs.inputs import in_the_way
from utils.secrets import without_secrets
from utils.shared_work import blind_to
from utils.training.resumable import last_checkpoint, step_of, whole_checkpoint

log = logging.getLogger(__name__)

T = TypeVar("T")

LOCK = "lock.json"  # who works in the folder (utils/alive.py)
CLEARED = "cleared"  # status of a run whose results were given up


class RunError(ValueError):
    """The run folder cannot be used as asked; the message says why and what to do."""


@dataclass
class Run:
    """One run folder. `skip` is True if it is already finished with the same settings.

    checkpoint: where to resume from, if an earlier attempt got that far. counts: dials that change the result of this run,
    although they stand in NOT_PART_OF_THE_RESULT. earlier: run.json of the half-written run that goes on.
    """

    folder: Path
    settings: dict[str, Any]
    skip: bool = False
    checkpoint: Path | None = None
    counts: frozenset[str] = frozenset()
    earlier: dict[str, Any] = field(default_factory=dict)
    capsule: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.time)
    _lock: alive.Sign | None = None

    @classmethod
    def open(cls, cfg: DictConfig, script: str, data: Mapping[str, str], counts: Iterable[str] = ()) -> Run:
        """Starts, resumes or skips the run in `cfg.out`, which belongs to this process, or to all of one launch, until `close`.
        data: name -> hash of the files that it goes by (utils/reading.py).
        counts: dials that count as settings all the same.

        Raises RunError, on all processes alike, if the folder holds a run with other settings or from other weights, something
        that is no run, or a half-written run while resume=false; if another run works in it; if an input lies where the run
        would write. Without overwrite=true only the folder of a run that failed before its first result is deleted.
        """
        run = cls(Path(str(cfg.out)), _kept(cfg), counts=frozenset(counts))
        run.skip = run._on_main(lambda: run._claim(script, data))
        if run.skip:
            log.info("%s is finished with these settings; skipped (overwrite=true runs it again)", run.folder)
            return run
        run._check_seen()
        forget_peak()
        run.checkpoint = whole_checkpoint(run.checkpoints)
        run._on_main(lambda: run._begin(script, data))
        return run

    @classmethod
    def reopen(cls, cfg: DictConfig, script: str) -> Run:
        """The finished run in `cfg.out`, to add to what it found (`note_again`); it is this process's until `close`.

        Raises RunError if there is none, or if somebody else works there.
        """
        run = cls(Path(str(cfg.out)), _kept(cfg))
        run.capsule = run._on_main(lambda: run._reclaim(script)) or {}
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the folder free. What is not finished by now is gone on with by the next run in it."""
        if self._lock is not None:
            self._lock.remove()
            self._lock = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def record(self, entry: Mapping[str, Any]) -> None:
        """Appends one line to log.jsonl (main process only)."""
        if is_main():
            self._check_ours()
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def note(self, **facts: Any) -> None:
        """Adds facts (data and model hashes, batch plan, ...) to run.json."""
        self.capsule.update(facts)
        if is_main():
            self._check_ours()
            write_json(self.folder / "run.json", self.capsule)

    def check_micro_batch(self, size: int) -> None:
        """For a loss that depends on the micro-batch. Raises RunError if the half-written run that goes on had another size."""
        before = self.earlier.get("micro_batch", size)
        if before != size:
            raise RunError(
                f"out={self.folder} holds a half-written run in micro-batches of {before}, on which its loss depends, and "
                f"{PER_DEVICE}={self.settings[PER_DEVICE]} gives {size} here; use {PER_DEVICE}={before}, or overwrite=true"
            )

    def note_again(self) -> None:
        """Adds to `rescored` of run.json that its numbers are computed anew: when, with which code, which settings differ."""
        now = capsule(self.settings)
        changed = changed_settings(self.capsule["settings"], self.settings)
        entry = {"date": now["started"], **{key: now[key] for key in ("code", "command", "libraries")}, "settings": changed}
        self.note(rescored=[*self.capsule.get("rescored", []), entry])

    def finish(self) -> None:
        """Marks the run finished, drops its checkpoints and gives the folder free. Call it when everything else is on disk."""
        barrier()
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        on_gpu = peak_memory()
        peak = resident if on_gpu is None else on_gpu
        self.note(status="finished", seconds=round(time.time() - self._started, 1), peak_memory_bytes=peak)
        if is_main():
            self._tidy()
            self._tidy_cache(told=False)
        self.close()
        barrier()

    def _on_main(self, do: Callable[[], T]) -> T:
        """What the main process makes of it, on every process. Raises RunError on all of them if it cannot be done."""
        problem, made = None, None
        try:
            made = do() if is_main() else None
        except alive.Taken as taken:
            problem = self._held_by(taken.owner)
        except RunError as error:
            problem = str(error)
        except OSError as error:
            why = f"{error.strerror or error}: {error.filename or self.folder}"
            problem = f"out={self.folder}: cannot be written to ({why}); make room, or choose another out="
        problem, made = from_main((problem, made))
        if problem is not None:
            self._leave()
            raise RunError(problem)
        return made

    def _claim(self, script: str, data: Mapping[str, str]) -> bool:
        """Whether the run is finished already; if not, the folder is this process's now, and empty unless there is a run to go on
        with. Raises RunError or alive.Taken for what speaks against it."""
        overwrite = self.settings["overwrite"]
        if problem := in_the_way(self.folder, self.settings):
            raise RunError(problem)
        if owner := alive.holder(self.folder / LOCK):
            raise alive.Taken(owner)
        if self._look(script, data) == "finished" and not overwrite:
            self._tidy_if_free()
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = alive.seize(self.folder / LOCK)
        state = self._look(script, data)  # what it found before may have gone on meanwhile
        if state == "finished" and not overwrite:
            self.close()
            return True
        if state != "running" or overwrite:
            self._clear()
        return False

    def _reclaim(self, script: str) -> dict[str, Any]:
        """run.json of a finished run, whose folder is this process's now."""
        known = read_json(self.folder / "run.json")
        if not isinstance(known, dict) or known.get("script") != script or known.get("status") != "finished":
            raise RunError(
                f"rescore=true: out={self.folder} holds no finished evaluation; run the evaluation first, without rescore"
            )
        self._lock = alive.seize(self.folder / LOCK)
        return known

    def _check_seen(self) -> None:
        """Raises RunError, on all processes, if one of them has no share in the folders through which they tell each other."""
        cache = self.settings.get("cache")
        signs = {"out": self.folder / LOCK, **({} if cache is None else {"cache": Path(cache) / LIVE / "seen"})}
        for key, path in signs.items():
            if blind := blind_to(path):
                self._leave()
                raise RunError(
                    f"{key}={self.settings[key]}: {', '.join(blind)} cannot see what the main process writes there; all machines "
                    f"of a run need one folder, so choose {key}= on a disk that they share"
                )

    def _held_by(self, owner: alive.Owner | None) -> str:
        who = owner or "other processes that begin at this moment"
        return f"out={self.folder} is in use by another run ({who}); wait until it ends, or choose another out="

    def _leave(self) -> None:
        """As if this run had not come: a folder that it only began to make is gone again."""
        if self._lock is not None:
            self.close()
            with suppress(OSError):
                self.folder.rmdir()

    def _check_ours(self) -> None:
        """Raises RunError once another run took the folder over; two that write to it would mix."""
        if self._lock is not None and not self._lock.is_mine():
            raise RunError(
                f"out={self.folder} was taken over by another run, since this one gave no sign of life for {alive.STALE:.0f} "
                "seconds (was it suspended?); let the other go on, or choose another out="
            )

    def _tidy(self) -> None:
        """Deletes what a finished run needs no more."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for path in self.folder.iterdir():
            if _is_passing(path) and path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _tidy_cache(self, told: bool = True) -> None:
        make_room(self.settings.get("cache"), self.settings.get("cache_gib"), told)

    def _tidy_if_free(self) -> None:
        """The same where a run was killed while it did that; touches nothing else, and lets others work."""
        if self.checkpoints.exists() or any(map(_is_passing, self.folder.iterdir())):
            with suppress(OSError, alive.Taken):
                self._lock = alive.seize(self.folder / LOCK)
                self._tidy()
            self.close()

    def _look(self, script: str, data: Mapping[str, str]) -> str:
        """new | running | finished. Raises RunError for what is in the way."""
        overwrite, resume = self.settings["overwrite"], self.settings["resume"]
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"out={self.folder}: there is a file of that name; choose another out=")
        if self.folder.is_symlink() and not self.folder.exists():
            raise RunError(
                f"out={self.folder}: is a link to {os.readlink(self.folder)}, which does not exist; choose another out="
            )
        if not self.folder.exists() or all(map(_is_passing, self.folder.iterdir())):
            return "new"  # or killed before it wrote run.json
        known = self._known()
        if known["script"] != script:
            raise RunError(f"out={self.folder} holds a run of {known['script']}, not of {script}; choose another out=")
        if known["status"] == CLEARED:
            return "new"
        if overwrite:
            return known["status"]
        if known["status"] == "running" and not self._has_results():
            return "new"
        changed = _differences(_as_run(known), self.settings, self.counts)
        if changed:
            shown = "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
            raise RunError(
                f"out={self.folder} holds a {known['status']} run with other settings ({shown}); "
                "choose another out=, or overwrite=true"
            )
        now, before = sources(self.settings), known.get("sources", {})
        made_anew = [f"{key} was made anew since and has other weights" for key in before if before[key] != now[key]]
        earlier = known.get("data", {})
        changed_files = [key for key in data if key in earlier and data[key] != earlier[key]]
        made_anew += [f"the data file {key} has changed since" for key in changed_files]
        if made_anew:
            raise RunError(
                f"out={self.folder} holds a {known['status']} run, but {made_anew[0]}; choose another out=, or overwrite=true"
            )
        if known["status"] == "running" and not resume:
            raise RunError(f"out={self.folder} holds a half-written run; use resume=true to go on, overwrite=true to start again")
        self.earlier = known if known["status"] == "running" else {}
        return known["status"]

    def _known(self) -> dict[str, Any]:
        """run.json of a folder that is not empty. Raises RunError if it is missing or damaged."""
        path = self.folder / "run.json"
        known = read_json(path)
        if isinstance(known, dict) and {"script", "status", "settings"} <= known.keys():
            return known
        if path.exists():
            raise RunError(f"out={self.folder}: its run.json is damaged; delete the folder or choose another out=")
        foreign = sorted(path.name for path in self.folder.iterdir())[:5]
        raise RunError(f"out={self.folder}: not a run folder (it holds {', '.join(foreign)}); choose another out=")

    def _has_results(self) -> bool:
        """Whether an earlier attempt got anywhere: a run that failed while loading has nothing to lose."""
        begun = ("config.yaml", "run.json", self.checkpoints.name)
        there = [path for path in self.folder.iterdir() if path.name not in begun and not _is_passing(path)]
        return last_checkpoint(self.checkpoints) is not None or bool(there)

    def _begin(self, script: str, data: Mapping[str, str]) -> None:
        self._trim_log()
        self.capsule = {"script": script, "status": "running", "settings": self.settings, **capsule(self.settings, self.counts)}
        self.capsule |= {"sources": sources(self.settings), "data": dict(sorted(data.items()))}
        # Kept until the plan is made anew: what is refused now must be refused again.
        self.capsule |= {key: value for key, value in self.earlier.items() if key == "micro_batch"}
        write_json(self.folder / "run.json", self.capsule)  # first: whoever is killed after it is known to be a run
        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self.settings)))
        self._tidy_cache()

    def _clear(self) -> None:
        """Deletes all but run.json, which says so first: nothing that is left, if this is cut short, is taken for a result."""
        known = read_json(self.folder / "run.json")
        if known is not None:
            write_json(self.folder / "run.json", {**known, "status": CLEARED})
        for path in self.folder.iterdir():
            if path.name not in ("run.json", LOCK):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    def _trim_log(self) -> None:
        """Drops records of steps after the checkpoint that the run resumes from, sums of what is not at its end after all, and a
        half-written last line."""
        path = self.folder / "log.jsonl"
        if not path.exists():
            return
        reached = step_of(self.checkpoint) if self.checkpoint else 0
        records = [record for record in read_rows(path, appended=True) if record.get("step", 0) <= reached]
        write_rows(path, [record for record in records if "train_runtime" not in record])


def _kept(cfg: DictConfig) -> dict[str, Any]:
    """The settings as plain values, in the form in which they are stored and compared."""
    return without_secrets(OmegaConf.to_container(cfg, resolve=True))


def _is_passing(path: Path) -> bool:
    """Whether a file or folder means nothing once its writer is gone: a lock, what was still without its name."""
    return path.name == LOCK or path.name.startswith(f"{LOCK}.") or path.name.endswith(".partial")


def _as_run(known: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run.json, with the size of the micro-batches that `auto` came to."""
    return {**known["settings"], **({PER_DEVICE: known["micro_batch"]} if "micro_batch" in known else {})}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], counts: Collection[str] = ()) -> list[str]:
    """Settings that changed, as `key: old -> new`, the dials of the first level before those inside groups."""
    before, changed = flat_settings(old), changed_settings(old, new, counts)
    return [f"{key}: {before.get(key)} -> {changed[key]}" for key in sorted(changed, key=lambda key: key.count("."))]
