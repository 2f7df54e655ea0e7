"""Retain oracles of an evaluation: models that never saw what is to be forgotten, asked what the benchmark compares with.

    oracle.parquet     scores of the oracle (oracle), for role `answer` also its own answer
    null/000.parquet ...  the same of oracles trained with other seeds (null_runs)

Whoever evaluated an oracle on the same questions, prompts and tokens has its scores already; else its model is scored once, and
the scores stay in its folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet
from omegaconf import DictConfig, OmegaConf

from utils.distributed import barrier, by_main, is_main
from utils.engine.token_cache import TokenCache
from utils.evaluation.questions import Questions
from utils.evaluation.results import GENERATIONS, NULLS, ORACLE, SCORES, check, read_table
from utils.evaluation.scoring import requests_hash
from utils.files import read_json, read_rows, write_parquet
from utils.items.benchmark import Benchmark
from utils.items.rows import QA
from utils.items.saved import Row, seen_by
from utils.reading import files_read
from utils.runs.lineage import Origin
from utils.runs.load import load_engine
from utils.runs.run import Run
from utils.runs.score import put
from utils.runs.settings import SettingsError, build
from utils.tokens.prompts import Encoder
from utils.weights.folders import model_in

log = logging.getLogger(__name__)


def check_oracle(cfg: DictConfig, questions: Questions, encoder: Encoder) -> None:
    """Raises SettingsError if what compares with an oracle has nothing to compare with; names the commands that make it."""
    benchmark = questions.benchmark
    _check_nulls(cfg, benchmark)
    if cfg.oracle == "none" or not questions.oracle:
        return
    if cfg.oracle is None:
        if benchmark.needs_oracle and not _is_oracle(cfg, benchmark):
            raise SettingsError(f"oracle=null: {benchmark.compares} a retain oracle. {_make_oracle(cfg, benchmark)}")
        return
    asked = requests_hash(questions.oracle, encoder)
    for key, path in [("oracle", cfg.oracle), *(("null_runs", path) for path in cfg.null_runs)]:
        folder = Path(path)
        if not folder.is_dir():
            raise SettingsError(f"{key}={folder}: there is no such folder. {_make_oracle(cfg, benchmark)}")
        if not _saved_scores(folder, asked) and model_in(folder) is None:
            raise SettingsError(
                f"{key}={folder} holds no model, and no scores for split={cfg.split} with these prompts and rows. Name the "
                f"retain oracle's own folder, or evaluate it first with: python evaluate.py model={cfg.model.name} "
                f"model.path=ORACLE benchmark={cfg.benchmark.name} split={cfg.split} oracle=none"
            )
        _check_never_saw(key, folder, cfg, benchmark)


def bring_oracle(cfg: DictConfig, questions: Questions, encoder: Encoder, run: Run) -> None:
    """Copies the oracles' scores into the run folder, scoring an oracle's model if nobody did yet.

    Raises ResultsError, on every process, if an oracle's scores are damaged.
    """
    if cfg.oracle in (None, "none") or not questions.oracle:
        return
    targets = {run.folder / ORACLE: cfg.oracle}
    targets |= {run.folder / NULLS / f"{number:03d}.parquet": path for number, path in enumerate(cfg.null_runs)}
    sources = {target: _find_or_score(cfg, questions, encoder, Path(path)) for target, path in targets.items()}
    for source in sources.values():
        check(source.parent, source.name, GENERATIONS)
    tasks = {request.task for request in questions.oracle}
    for target, source in sources.items() if is_main() else ():
        table = read_table(source)
        table = table[table["task"].isin(tasks) & (table["asked_by"] == "")]
        if "generation" not in table:
            table = with_generations(table, read_rows(source.with_name(GENERATIONS)))
        target.parent.mkdir(exist_ok=True)
        write_parquet(table, target)
    first, *nulls = [str(source) for source in sources.values()]
    run.note(oracle=first, **({"nulls": nulls} if nulls else {}))
    barrier()


def with_generations(table: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """A score table whose rows of role `answer` also hold the model's own answer and what it is compared with."""
    texts = {(row["task"], row["index"]): row for row in seen_by("", rows)}
    keys = zip(table["task"], table["index"], table["role"], strict=True)
    answered = [texts.get((task, index)) if role == "answer" else None for task, index, role in keys]
    columns = {name: [None if row is None else row[name] for row in answered] for name in ("generation", "truth")}
    return table.assign(**columns)


def _find_or_score(cfg: DictConfig, questions: Questions, encoder: Encoder, folder: Path) -> Path:
    """The table that holds the oracle's scores, with every statistic asked for if that can be had."""
    asked = requests_hash(questions.oracle, encoder)

    def known() -> Path | None:
        saved = _saved_scores(folder, asked)
        whole = [path for path in saved if set(questions.statistics) <= set(pyarrow.parquet.read_schema(path).names)]
        return (whole or saved)[0] if whole or model_in(folder) is None else None

    if (found := by_main(known)) is not None:
        return found
    log.info("%s holds no scores for split=%s yet: scoring its model once", folder, cfg.split)
    engine = load_engine(OmegaConf.merge(cfg.model, {"path": str(folder)}), encoder, cfg.precision, cfg.seed)
    table, rows = put(questions.oracle, questions, cfg, engine, encoder, TokenCache(cfg.cache, engine))
    path = folder / "oracle" / f"{asked}.parquet"
    if is_main():
        path.parent.mkdir(exist_ok=True)
        write_parquet(with_generations(table, rows), path)
    barrier()
    return path


def _maker(folder: Path) -> Origin | None:
    """The run that trained an oracle, whose folder this is, or an evaluation of it; None if nobody says."""
    capsule = read_json(folder / "run.json")
    evaluated = isinstance(capsule, dict) and capsule.get("script") == "evaluate"
    return Origin.of(capsule["settings"]["model"]["path"] if capsule is not None and evaluated else folder)


def _check_never_saw(key: str, folder: Path, cfg: DictConfig, benchmark: Benchmark) -> None:
    """Raises SettingsError for an oracle that has read a row of the forget split, or of which nobody knows what it has read.

    Rows count, not names: a model retained on 99 % is an oracle of the one per cent alone. key: the setting that names it.
    """
    if cfg.trust_oracle:
        return
    origin, trust = _maker(folder), "say trust_oracle=true if you know that it never saw what is to be forgotten"
    if origin is None:
        raise SettingsError(f"{key}={folder}: no run.json says what this model was trained on; {trust}")
    forgotten = set(benchmark.training(cfg.split))
    for run in origin.line():
        try:
            with files_read() as now:
                read = _rows_of(run)
        except (ValueError, KeyError, OSError) as error:
            raise SettingsError(f"{key}={folder}: what {run.folder} was trained on cannot be read ({error}); {trust}") from error
        _check_files(key, folder, run, now, trust)
        seen = forgotten & read
        if seen:
            raise SettingsError(
                f"{key}={folder}: is no retain oracle for split={cfg.split}: {run.folder} has read {len(seen)} of its "
                f"{len(forgotten)} rows (split={run.settings['split']})"
            )


def _rows_of(run: Origin) -> set[QA]:
    """The rows that a run trained on. Raises ValueError, KeyError or OSError if settings or data do not give them any more."""
    node = OmegaConf.create(dict(run.settings["benchmark"]))
    benchmark, split = build(node, f"benchmark={node.name}"), run.settings["split"]
    splits = [split] if run.capsule["script"] == "finetune" else [split, benchmark.retain_split(split)]
    return {row for name in splits for row in benchmark.training(name)}


def _saw_nothing(run: Origin, forgotten: Iterable[QA]) -> bool:
    """Whether neither a run nor those before it read any of the rows; False where that cannot be told."""
    wanted = set(forgotten)
    try:
        return all(not wanted & _rows_of(each) for each in run.line())
    except (ValueError, KeyError, OSError):
        return False


def _check_files(key: str, folder: Path, run: Origin, now: dict[str, str], trust: str) -> None:
    before = run.capsule.get("data") or {}
    for name in now:
        if before.get(name, now[name]) != now[name]:
            raise SettingsError(f"{key}={folder}: {run.folder} was trained on another {name} than is there now; {trust}")


def _check_nulls(cfg: DictConfig, benchmark: Benchmark) -> None:
    """Raises SettingsError for null_runs that cannot be a distribution of distances between oracles."""
    runs = [str(path) for path in cfg.null_runs]
    if not runs:
        return
    shown = f"null_runs=[{','.join(runs)}]"
    least = benchmark.least_nulls
    if not least:
        raise SettingsError(f"{shown}: benchmark={cfg.benchmark.name} has no forget quality to place; leave null_runs out")
    if cfg.oracle in (None, "none"):
        raise SettingsError(f"{shown}: goes with oracle=ORACLE, the oracle that the model is compared with")
    if len(runs) < least:
        raise SettingsError(f"{shown}: name at least {least} retain oracles trained with other seeds than oracle")
    folders = [Path(path).resolve() for path in (cfg.oracle, *runs)]
    if len(set(folders)) < len(folders):
        raise SettingsError(f"{shown}: an oracle is named twice, here or as oracle; name each once")


def _saved_scores(folder: Path, asked: str) -> list[Path]:
    """Scores of requests with the hash `asked`: of a run folder, an evaluation of it that lies in it, an evaluation's folder."""
    found = [path for path in [folder / "oracle" / f"{asked}.parquet"] if path.is_file()]
    for table in sorted([folder / SCORES, *folder.glob(f"*/{SCORES}")]):
        capsule = read_json(table.with_name("run.json")) or {}
        if table.is_file() and capsule.get("requests") == asked and capsule.get("status") == "finished":
            alone = capsule["settings"].get("reinforced", {}).get("path") is None
            model = capsule["settings"]["model"]["path"]
            # A folder that only collects runs holds evaluations of other models too.
            same = model is not None and Path(model).expanduser().resolve() == folder.expanduser().resolve()
            found += [table] if alone and (table.parent == folder or same) else []
    return found


def _is_oracle(cfg: DictConfig, benchmark: Benchmark) -> bool:
    """Whether the model is itself a retain oracle: there is nothing to compare it with."""
    origin = Origin.of(cfg.model.path)
    return origin is not None and origin.capsule["script"] == "finetune" and _saw_nothing(origin, benchmark.training(cfg.split))


def _make_oracle(cfg: DictConfig, benchmark: Benchmark) -> str:
    split = benchmark.oracle_split(cfg.split)
    return (
        f"Make one with: python finetune.py model={cfg.model.name} benchmark={cfg.benchmark.name} split={split} "
        f"out=runs/{split}, then add oracle=runs/{split}; or do without with oracle=none"
    )
