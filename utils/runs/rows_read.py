"""What a retain oracle must never have seen: the rows that a run and those before it read, held against those to be forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from utils.files import read_json
from utils.items.benchmark import Benchmark
from utils.items.rows import QA
from utils.reading import files_read
from utils.runs.lineage import Origin
from utils.runs.settings import SettingsError, build


def maker(folder: Path) -> Origin | None:
    """The run that trained an oracle, whose folder this is, or an evaluation of it; None if nobody says."""
    capsule = read_json(folder / "run.json")
    evaluated = isinstance(capsule, dict) and capsule.get("script") == "evaluate"
    return Origin.of(capsule["settings"]["model"]["path"] if capsule is not None and evaluated else folder)


def check_never_saw(key: str, folder: Path, cfg: DictConfig, benchmark: Benchmark) -> None:
    """Raises SettingsError for an oracle that has read a row of the forget split, or of which nobody knows what it has read.

    Rows count, not names: a model retained on 99 % is an oracle of the one per cent alone. key: the setting that names it.
    """
    if cfg.trust_oracle:
        return
    origin, trust = maker(folder), "say trust_oracle=true if you know that it never saw what is to be forgotten"
    if origin is None:
        raise SettingsError(f"{key}={folder}: no run.json says what this model was trained on; {trust}")
    forgotten = set(benchmark.training(cfg.split))
    for run in origin.line():
        try:
            with files_read() as now:
                read = rows_of(run)
        except (ValueError, KeyError, OSError) as error:
            raise SettingsError(f"{key}={folder}: what {run.folder} was trained on cannot be read ({error}); {trust}") from error
        _check_files(key, folder, run, now, trust)
        seen = forgotten & read
        if seen:
            raise SettingsError(
                f"{key}={folder}: is no retain oracle for split={cfg.split}: {run.folder} has read {len(seen)} of its "
                f"{len(forgotten)} rows (split={run.settings['split']})"
            )


def rows_of(run: Origin) -> set[QA]:
    """The rows that a run trained on. Raises ValueError, KeyError or OSError if settings or data do not give them any more."""
    node = OmegaConf.create(dict(run.settings["benchmark"]))
    benchmark, split = build(node, f"benchmark={node.name}"), run.settings["split"]
    splits = [split] if run.capsule["script"] == "finetune" else [split, benchmark.retain_split(split)]
    return {row for name in splits for row in benchmark.training(name)}


def saw_nothing(run: Origin, forgotten: Iterable[QA]) -> bool:
    """Whether neither a run nor those before it read any of the rows; False where that cannot be told."""
    wanted = set(forgotten)
    try:
        return all(not wanted & rows_of(each) for each in run.line())
    except (ValueError, KeyError, OSError):
        return False


def _check_files(key: str, folder: Path, run: Origin, now: dict[str, str], trust: str) -> None:
    before = run.capsule.get("data") or {}
    for name in now:
        if before.get(name, now[name]) != now[name]:
            raise SettingsError(f"{key}={folder}: {run.folder} was trained on another {name} than is there now; {trust}")
