"""The steps of evaluate.py: score once, find the retain oracle's scores, compute metrics from files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from omegaconf import open_dict

from data.prompts import Encoder
from data.requests import Request
from metrics.measure import Evaluated, of_benchmark, rows_of_benchmark
from metrics.statistics import Metric
from metrics.tables import read_generations
from utils.combined import load_combined
from utils.distributed import barrier, is_main
from utils.engine import Engine
from utils.files import read_json, write_json
from utils.models import load_model, model_folder, resolve_precision
from utils.runs import Run
from utils.score_cache import ScoreCache
from utils.scoring import check_requests, continue_prompts, requests_hash, score, write_parquet, write_rows
from utils.settings import Settings, SettingsError

log = logging.getLogger(__name__)


def load_engine(settings: Settings, encoder: Encoder) -> Engine:
    """The model to evaluate, on its device, in eval mode."""
    cfg = settings.cfg
    precision = resolve_precision(cfg.precision, cfg.model.dtype, training=False)
    if cfg.whp.path is None:
        model = load_model(cfg.model, encoder.tokenizer, precision, cfg.seed).eval()
    else:
        model = load_combined(cfg, encoder.tokenizer, precision)
    if torch.cuda.is_available():
        model = model.to(torch.device("cuda", torch.cuda.current_device()))
    return Engine(model, encoder.pad_id, hide=encoder.pad_id if encoder.masks_inner_eos else None)


def score_run(settings: Settings, run: Run, encoder: Encoder) -> None:
    """Writes scores.parquet and generations.jsonl of the model in `model.path`."""
    cfg, benchmark = settings.cfg, settings.benchmark
    requests = all_requests(settings)
    check_requests(requests, encoder)
    engine = load_engine(settings, encoder)
    cache = ScoreCache(cfg.cache, engine)
    cache.read()
    run.note(weights=cache.weights, requests=_forget_key(settings, encoder))
    table = score(engine, encoder, requests, cfg.tokens_per_batch, statistics(settings), cache)
    rows = continue_prompts(engine, encoder, requests, cfg.generation_batch_size, benchmark.max_new_tokens, cache)
    if is_main():
        write_parquet(table, run.folder / "scores.parquet")
        write_rows(run.folder / "generations.jsonl", rows)
    barrier()
    own = run.folder / "generations.jsonl"
    rows = read_generations(own)
    enriched = [dict(row) for row in rows]
    for part in (benchmark, *settings.measures):
        enriched = part.enrich(enriched, engine, encoder, run.folder, cfg)
    if is_main() and enriched != rows:
        write_rows(own, enriched)
    barrier()


def all_requests(settings: Settings) -> list[Request]:
    """What the benchmark asks, and what its measures ask besides."""
    benchmark, split = settings.benchmark, settings.cfg.split
    return [*benchmark.requests(split), *(r for measure in settings.measures for r in measure.requests(benchmark, split))]


def statistics(settings: Settings) -> tuple[str, ...]:
    """What is scored for every answer token."""
    names = [*settings.benchmark.statistics, *(name for measure in settings.measures for name in measure.statistics)]
    return tuple(dict.fromkeys(names))


def check_reference(settings: Settings, encoder: Encoder) -> None:
    """Raises SettingsError if forget quality has nothing to compare with; names the commands that make it."""
    cfg = settings.cfg
    if cfg.reference_run == "none" or not settings.benchmark.reference_requests(cfg.split):
        return
    if cfg.reference_run is None:
        if not _is_oracle(cfg.model.path):
            raise SettingsError(f"reference_run=null: forget quality compares with a retain oracle. {_make_oracle(settings)}")
        return
    folder = Path(cfg.reference_run)
    if not folder.is_dir():
        raise SettingsError(f"reference_run={folder}: there is no such folder. {_make_oracle(settings)}")
    if _saved_scores(folder, _forget_key(settings, encoder)) is None and not _holds_model(folder):
        raise SettingsError(
            f"reference_run={folder} holds no model, and no scores for split={cfg.split} with these prompts and rows. Name the "
            f"retain oracle's own folder, or evaluate it first with: python evaluate.py model={cfg.model.name} "
            f"model.path=ORACLE benchmark={cfg.benchmark.name} split={cfg.split} reference_run=none"
        )


def bring_reference(settings: Settings, run: Run, encoder: Encoder) -> None:
    """Copies the retain oracle's forget scores to reference.parquet of this run, scoring the oracle's model if nobody did yet."""
    cfg = settings.cfg
    if cfg.reference_run in (None, "none") or not settings.benchmark.reference_requests(cfg.split):
        return
    folder, key = Path(cfg.reference_run), _forget_key(settings, encoder)
    path = _saved_scores(folder, key)
    if path is None:
        path = folder / "reference" / f"{key}.parquet"
        log.info("%s holds no scores for split=%s yet: scoring its model once", folder, cfg.split)
        theirs = settings.cfg.copy()
        with open_dict(theirs):
            theirs.model.path = str(folder)
            theirs.whp.path = None
        engine = load_engine(replace(settings, cfg=theirs), encoder)
        requests = settings.benchmark.reference_requests(cfg.split)
        cache = ScoreCache(cfg.cache, engine)
        cache.read()
        table = score(engine, encoder, requests, cfg.tokens_per_batch, statistics(settings), cache)
        limit = settings.benchmark.max_new_tokens
        rows = continue_prompts(engine, encoder, requests, cfg.generation_batch_size, limit, cache)
        if is_main():
            path.parent.mkdir(exist_ok=True)
            write_parquet(with_generations(table, rows), path)
        barrier()
    if is_main():
        table = pd.read_parquet(path)
        if "generation" not in table:
            table = with_generations(table, read_generations(path.with_name("generations.jsonl")))
        tasks = {request.task for request in settings.benchmark.reference_requests(cfg.split)}
        write_parquet(table[table["task"].isin(tasks)], run.folder / "reference.parquet")
    run.note(reference=str(path))
    barrier()


def with_generations(table: pd.DataFrame, rows: Sequence[dict]) -> pd.DataFrame:
    """A score table whose rows of role `answer` also hold the model's own answer and what it is compared with."""
    texts = {(row["task"], row["index"]): row for row in rows}
    keys = zip(table["task"], table["index"], table["role"], strict=True)
    own = [texts.get((task, index)) if role == "answer" else None for task, index, role in keys]
    columns = {name: [None if row is None else row[name] for row in own] for name in ("generation", "reference")}
    return table.assign(**columns)


def metrics_from_files(settings: Settings, folder: Path) -> dict[str, Metric]:
    """Every metric that the files in `folder` allow. Raises SettingsError if there are no scores."""
    cfg = settings.cfg
    if not (folder / "scores.parquet").is_file():
        raise SettingsError(f"rescore=true: out={folder} holds no scores.parquet; run the evaluation first, without rescore")
    path = folder / "reference.parquet"
    scores, rows = pd.read_parquet(folder / "scores.parquet"), read_generations(folder / "generations.jsonl")
    reference = pd.read_parquet(path) if path.is_file() else None
    own = of_benchmark(scores), rows_of_benchmark(rows), reference
    metrics = settings.benchmark.metrics.from_tables(*own, cfg.compat, cfg.resamples)
    found = Evaluated(scores, rows, reference, settings.benchmark, cfg.split, cfg.compat, cfg.resamples)
    for measure in settings.measures:
        metrics |= measure.from_tables(found)
    return metrics


def metrics_from_logs(settings: Settings) -> dict[str, Metric]:
    """The metrics of logs that the benchmark's original code wrote."""
    cfg = settings.cfg
    retained = None if cfg.retain_logs is None else Path(cfg.retain_logs)
    return settings.benchmark.metrics.from_logs(Path(cfg.from_logs), retained, cfg.compat, cfg.resamples)


def write_metrics(metrics: Mapping[str, Metric], folder: Path) -> None:
    """Writes metrics.json: name -> {value, n, ci95, definition}; prints the same as a table."""
    if not is_main():
        return
    write_json(folder / "metrics.json", {name: metric.to_json() for name, metric in metrics.items()})
    width = max(len(name) for name in metrics)
    for name, metric in metrics.items():
        low, high = metric.ci95
        print(f"{name:<{width}}  {metric.value:>10.4g}   [{low:.4g}, {high:.4g}]   n={metric.n}")


def _forget_key(settings: Settings, encoder: Encoder) -> str:
    """Identifies the forget questions and their tokens: scores with the same key can be compared."""
    requests: list[Request] = settings.benchmark.reference_requests(settings.cfg.split)
    return requests_hash(requests, encoder)


def _saved_scores(folder: Path, key: str) -> Path | None:
    """Scores with this key in a run folder, in an evaluation of it that lies in it, or in an evaluation's own folder."""
    direct = folder / "reference" / f"{key}.parquet"
    if direct.is_file():
        return direct
    for table in sorted([folder / "scores.parquet", *folder.glob("*/scores.parquet")]):
        known = read_json(table.with_name("run.json")) or {}
        if table.is_file() and known.get("requests") == key and known.get("status") == "finished":
            whole = known["settings"].get("whp", {}).get("path") is None
            if whole and (table.parent == folder or _same_folder(known["settings"]["model"]["path"], folder)):
                return table
    return None


def _same_folder(path: str | None, folder: Path) -> bool:
    # A folder that only collects runs holds evaluations of other models too.
    return path is not None and Path(path).expanduser().resolve() == folder.expanduser().resolve()


def _holds_model(folder: Path) -> bool:
    try:
        return Path(model_folder(str(folder))).is_dir()
    except ValueError:
        return False


def _is_oracle(path: str | None) -> bool:
    """Whether a run folder is itself a retain oracle: there is nothing to compare it with."""
    known = read_json(Path(path) / "run.json") if path else None
    return bool(known and known.get("script") == "finetune" and str(known["settings"]["split"]).startswith("retain"))


def _make_oracle(settings: Settings) -> str:
    cfg = settings.cfg
    split = settings.benchmark.retain_split(cfg.split)
    return (
        f"Make one with: python finetune.py model={cfg.model.name} benchmark={cfg.benchmark.name} split={split} "
        f"out=runs/{split}, then add reference_run=runs/{split}; or leave forget quality out with reference_run=none"
    )
