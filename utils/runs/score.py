"""The steps of evaluate.py that need a model. Metrics from files: utils/evaluation/numbers.py; oracles: utils/runs/oracles.py."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from utils.distributed import barrier, is_main
from utils.engine.engine import Engine
from utils.engine.token_cache import TokenCache
from utils.evaluation.questions import Questions
from utils.evaluation.results import BEFORE, GENERATIONS, SCORES
from utils.evaluation.scoring import check_requests, continue_prompts, requests_hash, score
from utils.files import read_rows, write_parquet, write_rows
from utils.interruption import Interrupted
from utils.items.benchmark import Benchmark, Extra, Resources
from utils.items.requests import Request, as_example
from utils.items.saved import Row, seen_by
from utils.runs.lineage import Origin
from utils.runs.load import load_adapter_engine, load_engine
from utils.runs.run import Run
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
    before = model_before(cfg, questions.benchmark)  # what is missing is said before the hours of the other model
    weights = _score_model(cfg.model, cfg.reinforced, cfg, questions, encoder, run.folder)
    run.note(weights=weights, requests=requests_hash(questions.oracle, encoder))
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
    was_folder = path is not None and (
        Path(path).is_absolute() or origin.capsule.get("sources", {}).get("model.path") is not None
    )
    if was_folder and not Path(path).expanduser().exists():
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
