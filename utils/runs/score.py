"""The steps of evaluate.py: score once, compute metrics from files. The retain oracles beside it: utils/runs/oracles.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from utils.distributed import barrier, is_main
from utils.engine.token_cache import TokenCache
from utils.evaluation.measure import Evaluated, Measure, of_benchmark, rows_of_benchmark
from utils.evaluation.scoring import check_requests, continue_prompts, score
from utils.files import read_rows, write_json, write_parquet, write_rows
from utils.items.benchmark import Benchmark
from utils.items.metric import Metric
from utils.runs.load import load_engine
from utils.runs.oracles import NULLS, oracle_key
from utils.runs.run import Run
from utils.runs.settings import Settings, SettingsError
from utils.tokens.prompts import Encoder


def score_run(settings: Settings, run: Run, encoder: Encoder) -> None:
    """Writes scores.parquet and generations.jsonl of the model in `model.path`."""
    cfg, benchmark = settings.cfg, settings.benchmark
    requests = settings.requests
    check_requests(requests, encoder)
    engine = load_engine(cfg.model, encoder, cfg.precision, cfg.seed, cfg.reinforced)
    cache = TokenCache(cfg.cache, engine)
    run.note(weights=cache.weights, requests=oracle_key(settings, encoder))
    table = score(engine, encoder, requests, cfg.tokens_per_batch, settings.statistics, cache)
    rows = continue_prompts(
        engine, encoder, requests, cfg.generation_batch_size, benchmark.max_new_tokens, cache, benchmark.released(cfg.compat)
    )
    if is_main():
        write_parquet(table, run.folder / "scores.parquet")
        write_rows(run.folder / "generations.jsonl", rows)
    barrier()
    own = run.folder / "generations.jsonl"
    rows = read_rows(own)
    enriched = [dict(row) for row in rows]
    parts: list[Benchmark | Measure] = [benchmark, *settings.measures]
    for part in parts:
        enriched = part.enrich(enriched, engine, encoder, run.folder, cfg)
    if is_main() and enriched != rows:
        write_rows(own, enriched)
    barrier()


def metrics_from_files(settings: Settings, folder: Path) -> dict[str, Metric]:
    """Every metric that the files in `folder` allow. Raises SettingsError if there are no scores."""
    cfg = settings.cfg
    if not (folder / "scores.parquet").is_file():
        raise SettingsError(f"rescore=true: out={folder} holds no scores.parquet; run the evaluation first, without rescore")
    path = folder / "oracle.parquet"
    scores, rows = pd.read_parquet(folder / "scores.parquet"), read_rows(folder / "generations.jsonl")
    oracle = pd.read_parquet(path) if path.is_file() else None
    own = of_benchmark(scores), rows_of_benchmark(rows), oracle
    metrics = settings.benchmark.metrics.from_tables(*own, cfg.compat, cfg.resamples)
    found = Evaluated(scores, rows, oracle, settings.benchmark, cfg.split, cfg.compat, cfg.resamples)
    for measure in settings.measures:
        metrics |= measure.from_tables(found)
    nulls = [pd.read_parquet(path) for path in sorted((folder / NULLS).glob("*.parquet"))]
    if nulls and oracle is not None:
        metrics |= settings.benchmark.metrics.against_nulls(own[0], oracle, nulls, cfg.compat, cfg.resamples)
    return metrics


def metrics_from_logs(settings: Settings) -> dict[str, Metric]:
    """The metrics of logs that the benchmark's original code wrote."""
    cfg = settings.cfg
    retained = None if cfg.oracle in (None, "none") else Path(cfg.oracle)
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
