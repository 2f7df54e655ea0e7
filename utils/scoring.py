"""Scoring: one forward pass over every (question, answer), saved as a table that every metric reads.

    scores.parquet     task, index, role, number, tokens, eos (whether the last token is EOS), wanted (the answer's tokens as
                       text), and per answer token: logp (nats), hit, what else is asked; with argmax also said: the most
                       likely tokens as text
    generations.jsonl  task, index, question, generation, reference

Questions are packed with all their answers, sorted by length, and dealt out to the processes; finished tasks are kept in
parts/, so that an interrupted evaluation goes on with the next task.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import distributed as dist
from tqdm import tqdm

from data.prompts import EmptyAnswer, Encoder, Example
from data.requests import Request
from utils.distributed import barrier, is_main, rank, world_size
from utils.engine import Engine
from utils.files import write_text
from utils.fingerprint import text_hash
from utils.generation import generate

log = logging.getLogger(__name__)

KEYS = ["task", "index", "role", "number"]
SCORED = ("logp", "hit")
DTYPES = {"hit": torch.bool, "argmax": torch.int32}


class ScoreError(ValueError):
    """A question cannot be scored; the message names it."""


def requests_hash(requests: Sequence[Request], encoder: Encoder) -> str:
    """16 hex digits of everything that decides which tokens are scored."""
    return text_hash(encoder.fingerprint(), *(repr(request) for request in requests))


def score(
    engine: Engine, encoder: Encoder, requests: Sequence[Request], tokens_per_batch: int, statistics: Sequence[str] = SCORED
) -> pd.DataFrame | None:
    """The score table of `requests` on the main process, None on the others. Raises ScoreError for an answer without tokens."""
    requests = [request for request in requests if request.answers]
    encoded = [_encode(encoder, request) for request in requests]
    batches = list(_batches(encoded, tokens_per_batch))[rank() :: world_size()]
    rows: list[dict] = []
    with torch.no_grad():
        for batch in tqdm(batches, desc="scoring", unit="batch", disable=not is_main()):
            unique = [example for number in batch for example in dict.fromkeys(encoded[number].values())]
            values = _statistics(engine, unique, tuple(statistics))
            found = dict(zip(_keys(batch, encoded), values.split([len(e) for e in unique]), strict=True))
            for number in batch:
                for (role, place), example in encoded[number].items():
                    values_of = dict(zip(statistics, found[(number, example)].unbind(dim=1), strict=True))
                    rows.append(_row(encoder, requests[number], role, place, example, values_of))
    rows = _to_main(rows)
    if rows is None:
        return None
    return pd.DataFrame(rows, columns=_columns(statistics)).sort_values(KEYS, ignore_index=True)


def continue_prompts(
    engine: Engine, encoder: Encoder, requests: Sequence[Request], batch_size: int, max_new_tokens: int
) -> list[dict] | None:
    """The model's own greedy answers, on the main process; None on the others."""
    mine = [request for request in requests if request.reference is not None][rank() :: world_size()]
    texts: dict[int, str] = {}
    limits = [request.max_new_tokens or max_new_tokens for request in mine]
    for limit in sorted(set(limits)):
        places = [place for place, own in enumerate(limits) if own == limit]
        prompts = [encoder.generation_prompt(mine[place].asked) for place in places]
        texts |= dict(zip(places, generate(engine.model, encoder, prompts, batch_size, limit), strict=True))
    rows = [
        {"task": r.task, "index": r.index, "question": r.question, "generation": text, "reference": r.reference}
        for r, text in ((r, texts[place]) for place, r in enumerate(mine))
    ]
    rows = _to_main(rows)
    return None if rows is None else sorted(rows, key=lambda row: (row["task"], row["index"]))


def score_tasks(
    engine: Engine,
    encoder: Encoder,
    requests: Sequence[Request],
    folder: Path,
    tokens_per_batch: int,
    generation_batch_size: int,
    max_new_tokens: int,
    statistics: Sequence[str] = SCORED,
) -> None:
    """Writes scores.parquet and generations.jsonl in `folder`, task by task; tasks whose parts exist are not computed again."""
    parts = folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    barrier()
    tasks = list(dict.fromkeys(request.task for request in requests))
    for task in tasks:
        table, texts = parts / f"{task}.parquet", parts / f"{task}.jsonl"
        done = table.exists() and texts.exists()
        barrier()  # no process may look after another has begun to write
        if done:
            continue
        asked = [request for request in requests if request.task == task]
        log.info("%s: %d questions, %d answers", task, len(asked), sum(len(request.answers) for request in asked))
        scores = score(engine, encoder, asked, tokens_per_batch, statistics)
        generations = continue_prompts(engine, encoder, asked, generation_batch_size, max_new_tokens)
        if is_main():
            write_parquet(scores, table)
            write_rows(texts, generations)
    if is_main():
        tables = [pd.read_parquet(parts / f"{task}.parquet") for task in tasks]
        tables = [table for table in tables if len(table)] or [pd.DataFrame(columns=_columns(statistics))]
        write_parquet(pd.concat(tables), folder / "scores.parquet")
        write_text(folder / "generations.jsonl", "".join((parts / f"{task}.jsonl").read_text("utf-8") for task in tasks))
    barrier()


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    """Writes JSON lines so that the file is either the old or the new one."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Writes the table so that the file is either the old or the new one."""
    partial = path.with_name(path.name + ".partial")
    table.to_parquet(partial, index=False)
    partial.replace(path)


def check_requests(requests: Sequence[Request], encoder: Encoder) -> None:
    """Raises ScoreError for the first answer that leaves no token to score; needs no model."""
    for request in requests:
        _encode(encoder, request)


def _encode(encoder: Encoder, request: Request) -> dict[tuple[str, int], Example]:
    try:
        return {(role, place): encoder.example(request.asked, text) for role, place, text in request.answers}
    except EmptyAnswer as error:
        raise ScoreError(f"task {request.task}, row {request.index + 1}: {error}") from error


def _statistics(engine: Engine, examples: Sequence[Example], names: tuple[str, ...]) -> torch.Tensor:
    """(n, len(names)) statistics of all answer tokens; halves what does not fit in memory."""
    try:
        packed = engine.pack({"answers": examples}).to(engine.device)
        return engine.statistics(packed, {"answers": names}, names).float().cpu()
    except torch.OutOfMemoryError:
        if len(examples) == 1:
            raise
    # Outside of the except block: until there, the error keeps the failed tensors alive.
    half = len(examples) // 2
    log.warning("%d answers do not fit in memory together: scoring them in two halves", len(examples))
    return torch.cat([_statistics(engine, part, names) for part in (examples[:half], examples[half:])])


def _batches(encoded: Sequence[dict], budget: int) -> Iterator[list[int]]:
    """Question numbers of each batch, at most `budget` tokens each; longest first: a lack of memory shows at once."""

    def size(number: int) -> int:
        unique = dict.fromkeys(encoded[number].values())
        return max(len(e.prompt) for e in unique) + sum(len(e.answer) for e in unique)

    batch: list[int] = []
    tokens = 0
    for number in sorted(range(len(encoded)), key=lambda n: (-size(n), n)):
        if batch and tokens + size(number) > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += size(number)
    if batch:
        yield batch


def _keys(batch: Sequence[int], encoded: Sequence[dict]) -> list[tuple[int, Example]]:
    return [(number, example) for number in batch for example in dict.fromkeys(encoded[number].values())]


def _row(encoder: Encoder, request: Request, role: str, number: int, example: Example, values: dict[str, torch.Tensor]) -> dict:
    row = {"task": request.task, "index": request.index, "role": role, "number": number, "tokens": len(example)}
    row["eos"] = example.answer[-1] == encoder.tokenizer.eos_token_id
    row["wanted"] = encoder.tokenizer.decode(list(example.answer), skip_special_tokens=True)
    for name, column in values.items():
        row[name] = column.to(DTYPES.get(name, torch.float32)).numpy()
    if "argmax" in row:
        row["said"] = encoder.tokenizer.decode(row["argmax"].tolist(), skip_special_tokens=True)
    return row


def _columns(statistics: Sequence[str]) -> list[str]:
    return [*KEYS, "tokens", "eos", "wanted", *statistics, *(["said"] if "argmax" in statistics else [])]


def _to_main(rows: list[dict]) -> list[dict] | None:
    if not dist.is_initialized():
        return rows
    gathered = [None] * world_size() if is_main() else None
    dist.gather_object(rows, gathered)
    return [row for part in gathered for row in part] if is_main() else None
