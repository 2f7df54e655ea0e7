"""Retain oracles of an evaluation: models that never saw what is to be forgotten, asked what the benchmark compares with.

    oracle.parquet     scores of the oracle (oracle), for role `answer` also its own answer
    null/000.parquet ...  the same of oracles trained with other seeds (null_runs)

Whoever evaluated an oracle on the same questions, prompts and tokens has its scores already; else its model is scored once, and
the scores stay in its folder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet
from omegaconf import OmegaConf

from utils.distributed import barrier, is_main
from utils.engine.token_cache import TokenCache
from utils.evaluation.scoring import continue_prompts, requests_hash, score
from utils.files import read_json, read_rows, write_parquet
from utils.runs.load import load_engine
from utils.runs.run import Run
from utils.runs.settings import Settings, SettingsError
from utils.tokens.prompts import Encoder
from utils.weights.models import model_folder

log = logging.getLogger(__name__)

NULLS = "null"


def check_oracle(settings: Settings, encoder: Encoder) -> None:
    """Raises SettingsError if what compares with an oracle has nothing to compare with; names the commands that make it."""
    cfg = settings.cfg
    _check_nulls(settings)
    if cfg.oracle == "none" or not settings.oracle_requests:
        return
    if cfg.oracle is None:
        if not _is_oracle(cfg.model.path):
            raise SettingsError(f"oracle=null: {settings.benchmark.compares} a retain oracle. {_make_oracle(settings)}")
        return
    for key, path in [("oracle", cfg.oracle), *(("null_runs", path) for path in cfg.null_runs)]:
        folder = Path(path)
        if not folder.is_dir():
            raise SettingsError(f"{key}={folder}: there is no such folder. {_make_oracle(settings)}")
        if not _saved_scores(folder, oracle_key(settings, encoder)) and not _holds_model(folder):
            raise SettingsError(
                f"{key}={folder} holds no model, and no scores for split={cfg.split} with these prompts and rows. Name the "
                f"retain oracle's own folder, or evaluate it first with: python evaluate.py model={cfg.model.name} "
                f"model.path=ORACLE benchmark={cfg.benchmark.name} split={cfg.split} oracle=none"
            )


def bring_oracle(settings: Settings, run: Run, encoder: Encoder) -> None:
    """Copies the oracles' scores into the run folder, scoring an oracle's model if nobody did yet."""
    cfg = settings.cfg
    if cfg.oracle in (None, "none") or not settings.oracle_requests:
        return
    targets = {run.folder / "oracle.parquet": cfg.oracle}
    targets |= {run.folder / NULLS / f"{number:03d}.parquet": path for number, path in enumerate(cfg.null_runs)}
    sources = {target: _find_or_score(settings, encoder, Path(path)) for target, path in targets.items()}
    for target, source in sources.items() if is_main() else ():
        table = pd.read_parquet(source)
        if "generation" not in table:
            table = with_generations(table, read_rows(source.with_name("generations.jsonl")))
        tasks = {request.task for request in settings.oracle_requests}
        target.parent.mkdir(exist_ok=True)
        write_parquet(table[table["task"].isin(tasks)], target)
    first, *nulls = [str(source) for source in sources.values()]
    run.note(oracle=first, **({"nulls": nulls} if nulls else {}))
    barrier()


def with_generations(table: pd.DataFrame, rows: Sequence[dict]) -> pd.DataFrame:
    """A score table whose rows of role `answer` also hold the model's own answer and what it is compared with."""
    texts = {(row["task"], row["index"]): row for row in rows}
    keys = zip(table["task"], table["index"], table["role"], strict=True)
    own = [texts.get((task, index)) if role == "answer" else None for task, index, role in keys]
    columns = {name: [None if row is None else row[name] for row in own] for name in ("generation", "truth")}
    return table.assign(**columns)


def oracle_key(settings: Settings, encoder: Encoder) -> str:
    """Identifies what oracles are asked, and its tokens: scores with the same key can be compared."""
    return requests_hash(settings.oracle_requests, encoder)


def _find_or_score(settings: Settings, encoder: Encoder, folder: Path) -> Path:
    """The table that holds the oracle's scores, with every statistic asked for if that can be had."""
    cfg, key = settings.cfg, oracle_key(settings, encoder)
    known = _saved_scores(folder, key)
    whole = [path for path in known if set(settings.statistics) <= set(pyarrow.parquet.read_schema(path).names)]
    if whole or not _holds_model(folder):
        return (whole or known)[0]
    log.info("%s holds no scores for split=%s yet: scoring its model once", folder, cfg.split)
    engine = load_engine(OmegaConf.merge(cfg.model, {"path": str(folder)}), encoder, cfg.precision, cfg.seed)
    requests = settings.oracle_requests
    cache = TokenCache(cfg.cache, engine)
    table = score(engine, encoder, requests, cfg.tokens_per_batch, settings.statistics, cache)
    limit = settings.benchmark.max_new_tokens
    rows = continue_prompts(
        engine, encoder, requests, cfg.generation_batch_size, limit, cache, settings.benchmark.released(cfg.compat)
    )
    path = folder / "oracle" / f"{key}.parquet"
    if is_main():
        path.parent.mkdir(exist_ok=True)
        write_parquet(with_generations(table, rows), path)
    barrier()
    return path


def _check_nulls(settings: Settings) -> None:
    """Raises SettingsError for null_runs that cannot be a distribution of distances between oracles."""
    cfg = settings.cfg
    runs = [str(path) for path in cfg.null_runs]
    if not runs:
        return
    shown = f"null_runs=[{','.join(runs)}]"
    least = settings.benchmark.least_nulls
    if not least:
        raise SettingsError(f"{shown}: benchmark={cfg.benchmark.name} has no forget quality to place; leave null_runs out")
    if cfg.oracle in (None, "none"):
        raise SettingsError(f"{shown}: goes with oracle=ORACLE, the oracle that the model is compared with")
    if len(runs) < least:
        raise SettingsError(f"{shown}: name at least {least} retain oracles trained with other seeds than oracle")
    folders = [Path(path).resolve() for path in (cfg.oracle, *runs)]
    if len(set(folders)) < len(folders):
        raise SettingsError(f"{shown}: an oracle is named twice, here or as oracle; name each once")


def _saved_scores(folder: Path, key: str) -> list[Path]:
    """Scores with this key in a run folder, in an evaluation of it that lies in it, or in an evaluation's own folder."""
    found = [path for path in [folder / "oracle" / f"{key}.parquet"] if path.is_file()]
    for table in sorted([folder / "scores.parquet", *folder.glob("*/scores.parquet")]):
        known = read_json(table.with_name("run.json")) or {}
        if table.is_file() and known.get("requests") == key and known.get("status") == "finished":
            whole = known["settings"].get("reinforced", {}).get("path") is None
            if whole and (table.parent == folder or _same_folder(known["settings"]["model"]["path"], folder)):
                found.append(table)
    return found


def _same_folder(path: str | None, folder: Path) -> bool:
    # A folder that only collects runs holds evaluations of other models too.
    return path is not None and Path(path).expanduser().resolve() == folder.expanduser().resolve()


def _holds_model(folder: Path) -> bool:
    try:
        return Path(model_folder(folder)).is_dir()
    except ValueError:
        return False


def _is_oracle(path: str | None) -> bool:
    """Whether a run folder is itself a retain oracle: there is nothing to compare it with."""
    known = read_json(Path(path) / "run.json") if path else None
    return bool(known and known.get("script") == "finetune" and str(known["settings"]["split"]).startswith("retain"))


def _make_oracle(settings: Settings) -> str:
    cfg = settings.cfg
    split = settings.benchmark.oracle_split(cfg.split)
    return (
        f"Make one with: python finetune.py model={cfg.model.name} benchmark={cfg.benchmark.name} split={split} "
        f"out=runs/{split}, then add oracle=runs/{split}; or do without with oracle=none"
    )
