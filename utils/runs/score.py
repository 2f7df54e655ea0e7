"""The steps of evaluate.py: score once, compute metrics from files. The retain oracles beside it: utils/runs/oracles.py."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from utils.distributed import barrier, is_main
from utils.engine.engine import Engine
from utils.engine.token_cache import TokenCache
from utils.evaluation.questions import Questions
from utils.evaluation.results import BEFORE, GENERATIONS, NULLS, ORACLE, SCORES, check, read_table
from utils.evaluation.scoring import check_requests, continue_prompts, requests_hash, score
from utils.files import read_rows, write_json, write_parquet, write_rows
from utils.interruption import Interrupted
from utils.items.benchmark import Benchmark, Extra, Resources
from utils.items.metric import Metric
from utils.items.requests import Request, as_example
from utils.items.saved import Row, Saved, seen_by
from utils.runs.lineage import Origin
from utils.runs.load import load_adapter_engine, load_engine
from utils.runs.run import Run
from utils.runs.settings import SettingsError
from utils.tokens.prompts import Encoder

log = logging.getLogger(__name__)


def show_requests(requests: Sequence[Request], encoder: Encoder) -> None:
    """Prints questions with every answer that is scored, supervised tokens marked."""
    for request in requests if is_main() else ():
        for role, number, text in request.answers:
            shown = encoder.show(as_example(encoder, request, text))
            print(f"--- {request.task} {request.index}, {role} {number}\n{shown}")


def score_run(cfg: DictConfig, questions: Questions, encoder: Encoder, run: Run) -> None:
    """Writes scores.parquet and generations.jsonl of the model in `model.path`, and in before/ those of the model that was
    unlearned, where that is asked for."""
    run.note(lost=check_requests(questions.requests, encoder))
    weights = _score_model(cfg.model, cfg.reinforced, cfg, questions, encoder, run.folder)
    run.note(weights=weights, requests=requests_hash(questions.oracle, encoder))
    before = model_before(cfg, questions.benchmark)
    if before is not None:
        log.info("%s: the model before unlearning, asked the same", before)
        (run.folder / BEFORE).mkdir(exist_ok=True)
        model = OmegaConf.merge(cfg.model, {"path": before})
        run.note(before=before, weights_before=_score_model(model, None, cfg, questions, encoder, run.folder / BEFORE))


def model_before(cfg: DictConfig, benchmark: Benchmark) -> str | None:
    """The model to compare with as it was before unlearning; None if nobody asks for one, or there is none."""
    if cfg.before not in ("auto", "none"):
        return str(cfg.before)
    origin = Origin.of(cfg.model.path) if cfg.before == "auto" and benchmark.asks_before else None
    if origin is None or origin.capsule["script"] != "unlearn":
        return None
    path = origin.settings["model"]["path"]
    if path is not None and Path(path).is_absolute() and not Path(path).exists():
        log.warning("before=auto: %s, which %s was made of, is not there any more: its numbers are left out", path, origin.folder)
        return None
    return path


def _score_model(
    model: DictConfig, reinforced: DictConfig | None, cfg: DictConfig, questions: Questions, encoder: Encoder, folder: Path
) -> str:
    """Writes the two files of one model to `folder`; returns the hash of its weights."""
    engine = load_engine(model, encoder, cfg.precision, cfg.seed, reinforced)
    cache = TokenCache(cfg.cache, engine)
    table, rows = put(questions.requests, questions, cfg, engine, encoder, cache)
    path = folder / GENERATIONS
    if is_main():
        write_parquet(table, folder / SCORES)
        write_rows(path, rows)
    barrier()
    known = read_rows(path)
    resources = Resources(
        engine,
        encoder,
        questions.benchmark,
        questions.plain,
        folder,
        cfg.seed,
        cfg.tokens_per_batch,
        cfg.generation_batch_size,
        adapter=partial(load_adapter_engine, model, encoder, cfg.precision, reinforced),
    )
    rows = add_extras(known, questions, resources)
    if is_main() and rows != known:
        write_rows(path, rows)
    barrier()
    return cache.weights


def put(
    requests: Sequence[Request], questions: Questions, cfg: DictConfig, engine: Engine, encoder: Encoder, cache: TokenCache
) -> tuple[pd.DataFrame | None, list[Row] | None]:
    """The score table and the rows of generations of some of the requests, on the main process."""
    benchmark = questions.benchmark
    limit, released = benchmark.max_new_tokens, benchmark.released(encoder.compat)
    try:
        table = score(engine, encoder, requests, cfg.tokens_per_batch, questions.statistics, cache)
        return table, continue_prompts(engine, encoder, requests, cfg.generation_batch_size, limit, cache, released)
    except Interrupted:
        cache.write()  # up to a minute of work that the same command need not do again
        raise


def add_extras(rows: Sequence[Row], questions: Questions, resources: Resources) -> list[Row]:
    """The rows with what the extras of the benchmark, then of its measures, have to add. `rows` itself stays as it is."""
    askers: list[tuple[str, Sequence[Extra]]] = [("", questions.benchmark.extras)]
    askers += [(measure.name, measure.extras) for measure in questions.measures]
    found = list(rows)
    for asker, extra in ((asker, extra) for asker, extras in askers for extra in extras):
        changed = iter(extra(seen_by(asker, found), resources))
        found = [next(changed) if row["asked_by"] in ("", asker) else row for row in found]
        found += [{"asked_by": asker, **row} for row in changed]
    return found


def metrics_from_files(folder: Path, questions: Questions, compat: str, resamples: int) -> dict[str, Metric]:
    """Every metric that the files in `folder` allow, the benchmark's first; the same of the model before end in _before.

    Raises SettingsError if there are no scores, ResultsError for a file that is not what run.json says.
    """
    saved = _read(folder, questions, compat, resamples)
    metrics = _numbers(saved, questions)
    before = folder / BEFORE
    if (before / SCORES).is_file():
        of_before = replace(saved, scores=read_table(before / SCORES), generations=read_rows(before / GENERATIONS))
        metrics |= {f"{name}_{BEFORE}": metric for name, metric in _numbers(of_before, questions).items()}
    return {name: metric.clustered(questions.benchmark.subject) for name, metric in metrics.items()}


def _numbers(saved: Saved, questions: Questions) -> dict[str, Metric]:
    metrics = questions.benchmark.metrics.numbers(saved.seen_by(""))
    for measure in questions.measures:
        metrics |= measure.numbers(saved.seen_by(measure.name))
    return metrics


def _read(folder: Path, questions: Questions, compat: str, resamples: int) -> Saved:
    check(folder)
    if not (folder / SCORES).is_file():
        raise SettingsError(f"rescore=true: out={folder} holds no {SCORES}; run the evaluation first, without rescore")
    scores, oracle = read_table(folder / SCORES), folder / ORACLE
    if "asked_by" not in scores:
        raise SettingsError(f"rescore=true: {SCORES} of out={folder} does not say who asked; run the evaluation again")
    return Saved(
        scores,
        read_rows(folder / GENERATIONS),
        read_table(oracle) if oracle.is_file() else None,
        [read_table(path) for path in sorted((folder / NULLS).glob("*.parquet"))],
        compat,
        resamples,
        questions.benchmark.forgotten,
        questions.benchmark.members,
    )


def write_metrics(metrics: Mapping[str, Metric], folder: Path) -> None:
    """Writes metrics.json: name -> {value, n, ci95, definition}; prints the same as a table."""
    if not is_main():
        return
    write_json(folder / "metrics.json", {name: metric.to_json() for name, metric in metrics.items()})
    width = max(len(name) for name in metrics)
    for name, metric in metrics.items():
        low, high = metric.ci95
        print(f"{name:<{width}}  {metric.value:>10.4g}   [{low:.4g}, {high:.4g}]   n={metric.n}")
