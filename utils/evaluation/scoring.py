"""Scoring: one forward pass over every (prompt, answer), saved as a table that every metric reads.

    scores.parquet     task, asked_by (a measure; empty: the benchmark), index, role, number, tokens, eos (whether the last token
                       is EOS), wanted (the answer's tokens as text), and per answer token: logp (nats), hit, what else is asked;
                       with argmax also said: the most likely tokens as text
    generations.jsonl  task, asked_by, index, question, generation, truth, for a request that samples also samples

Whoever asks, the same tokens are scored once and the same prompt is continued once
(utils/engine/token_cache.py). Answers are packed prompt by prompt, sorted by length, and dealt out to the processes. An
interrupted evaluation goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from utils.distributed import from_main, is_main, rank, world_size
from utils.engine.batches import answer_statistics, batches_of, by_length
from utils.engine.continuations import continue_ids, end_ids
from utils.engine.engine import Engine
from utils.engine.generation import Released, generate
from utils.engine.sampling import Draw, sampler_of
from utils.engine.token_cache import TokenCache
from utils.fingerprint import text_hash
from utils.items.requests import Request, as_example, expected, start
from utils.items.saved import Row
from utils.shared_work import shared_out
from utils.tokens.example import EmptyAnswer, Example, count_lost, prompt_key, say_lost
from utils.tokens.prompts import Encoder

log = logging.getLogger(__name__)

KEYS = ["task", "asked_by", "index", "role", "number"]
SCORED = ("logp", "hit")
DTYPES = {"hit": torch.bool, "argmax": torch.int32}


class ScoreError(ValueError):
    """A question cannot be scored; the message names it."""


def requests_hash(requests: Sequence[Request], encoder: Encoder) -> str:
    """16 hex digits of everything that decides which tokens are scored."""
    return text_hash(encoder.fingerprint(), *(repr(request) for request in requests))


def score(
    engine: Engine,
    encoder: Encoder,
    requests: Sequence[Request],
    tokens_per_batch: int,
    statistics: Sequence[str] = SCORED,
    cache: TokenCache | None = None,
) -> pd.DataFrame | None:
    """The score table of `requests` on the main process, None on the others. Raises ScoreError for an answer without tokens."""
    requests = [request for request in requests if request.answers]
    encoded = [_encode(encoder, request) for request in requests]
    cache = TokenCache(None, engine) if cache is None else cache
    asked = list(dict.fromkeys(example for answers in encoded for example in answers.values()))
    todo = from_main([place for place, example in enumerate(asked) if not cache.knows(example, statistics)])
    mine = batches_of([asked[place] for place in todo], tokens_per_batch)[rank() :: world_size()]
    with torch.no_grad():
        for batch in tqdm(mine, desc="scoring", unit="batch", disable=not is_main() or not todo):
            for example, values in zip(batch, answer_statistics(engine, batch, tuple(statistics)), strict=True):
                cache.add(example, statistics, values)
            cache.keep()
    cache.share()
    if not is_main():
        return None
    rows = []
    for request, answers in zip(requests, encoded, strict=True):
        for (role, number), example in answers.items():
            values_of = dict(zip(statistics, cache.values(example, statistics).unbind(dim=1), strict=True))
            rows.append(_row(encoder, request, role, number, example, values_of))
    return pd.DataFrame(rows, columns=_columns(statistics)).sort_values(KEYS, ignore_index=True)


def continue_prompts(
    engine: Engine,
    encoder: Encoder,
    requests: Sequence[Request],
    batch_size: int,
    max_new_tokens: int,
    cache: TokenCache | None = None,
    released: Released | None = None,
) -> list[Row] | None:
    """The model's own answers, on the main process; None on the others. A request that samples has all of them as `samples`.

    released: how released code would have continued them; then what stands beside a prompt in its batch matters too.
    """
    requests = [request for request in requests if request.truth is not None]
    cache = TokenCache(None, engine) if cache is None else cache
    # With compat=tofu_original, how far an answer goes depends on the longest prompt of its batch.
    how = (end_ids(engine.model, encoder.tokenizer), encoder.compat, batch_size if encoder.compat == "tofu_original" else None)
    if released is not None:
        how = (*how, released, text_hash(*(repr(start(encoder, request)) for request in requests)))
    jobs: dict[str, _Job] = {}
    keys: list[list[str]] = []
    for request in requests:
        prompt, limit = start(encoder, request), request.max_new_tokens or max_new_tokens
        own = {prompt_key(prompt, limit, *how, drawn): _Job(prompt, limit, drawn) for drawn in draws(request)}
        jobs |= own
        keys.append(list(own))
    todo = from_main([key for key in jobs if cache.text(key) is None])
    mine = todo[rank() :: world_size()]
    if released is not None and todo:  # whole batches, and all of them
        mine = [key for place, key in enumerate(jobs) if place // released.batch_size % world_size() == rank()]
    for alike in _alike(mine, jobs):
        batches = generate(
            engine.model,
            encoder,
            [jobs[key].prompt for key in alike],
            batch_size,
            jobs[alike[0]].limit,
            sampler_of([jobs[key].drawn for key in alike]),
            released,
        )
        for places, texts in batches:
            for place, text in zip(places, texts, strict=True):
                cache.add_text(alike[place], text)
            cache.keep()
    cache.share()
    if not is_main():
        return None
    rows = []
    for request, own in zip(requests, keys, strict=True):
        keeps = request.keeps_space or encoder.compat == "tofu_original"
        texts = [cache.text(key) if keeps else cache.text(key).strip() for key in own]
        row = {"task": request.task, "asked_by": request.asked_by, "index": request.index, "question": request.question}
        row |= {"generation": texts[0], "truth": expected(request)}
        rows.append(row if request.sampling is None else {**row, "samples": texts})
    return sorted(rows, key=lambda row: (row["task"], row["asked_by"], row["index"]))


def continue_greedily(
    engine: Engine,
    encoder: Encoder,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    limits: Sequence[int],
    batch_size: int,
) -> list[list[int]]:
    """The new ids of each prompt, at most `limits` of them, on every process; the processes share the prompts out.

    Prompts of like `lengths` are continued together. For whoever needs more than the text that `continue_prompts` gives.
    """
    ends = end_ids(engine.model, encoder.tokenizer)

    def continued(batches: Sequence[list[int]]) -> list[list[list[int]]]:
        told = tqdm(batches, desc="generating", unit="batch", disable=not is_main())
        found = []
        for batch in told:
            most = max(limits[place] for place in batch)
            new = continue_ids(engine.model, [prompts[place] for place in batch], encoder.pad_id, ends, most)
            found.append([ids[: limits[place]] for place, ids in zip(batch, new, strict=True)])
        return found

    batches = by_length(lengths, most=batch_size)
    pairs = zip(batches, shared_out(batches, continued), strict=True)
    by_place = {place: ids for batch, found in pairs for place, ids in zip(batch, found, strict=True)}
    return [by_place[place] for place in range(len(prompts))]


def check_requests(requests: Sequence[Request], encoder: Encoder) -> dict[str, int]:
    """How many answers are not whole, which is also told, by what they lost; needs no model.

    Raises ScoreError for the first answer that leaves no token to score.
    """
    examples = [example for request in requests for example in _encode(encoder, request).values()]
    counts = count_lost(examples)
    for sentence in say_lost(counts, len(examples), encoder.max_length) if is_main() else ():
        log.warning("%s", sentence)
    return counts


def _encode(encoder: Encoder, request: Request) -> dict[tuple[str, int], Example]:
    try:
        return {(role, place): as_example(encoder, request, text) for role, place, text in request.answers}
    except EmptyAnswer as error:
        raise ScoreError(f"task {request.task}, row {request.index + 1}: {error}") from error


class _Job(NamedTuple):
    """A prompt to continue: its ids, the limit of new tokens, and how they are drawn (None: the most likely)."""

    prompt: tuple[int, ...]
    limit: int
    drawn: Draw | None


def _alike(keys: Sequence[str], jobs: dict[str, _Job]) -> list[list[str]]:
    """The keys in groups that can be generated together: one limit, one way to draw."""
    groups: dict[tuple, list[str]] = {}
    for key in keys:
        job = jobs[key]
        groups.setdefault((job.limit, None if job.drawn is None else job.drawn.sampling), []).append(key)
    return list(groups.values())


def _row(encoder: Encoder, request: Request, role: str, number: int, example: Example, values: dict[str, torch.Tensor]) -> dict:
    row = dict(zip(KEYS, (request.task, request.asked_by, request.index, role, number), strict=True)) | {"tokens": len(example)}
    row["eos"] = example.answer[-1] == encoder.tokenizer.eos_token_id
    row["wanted"] = encoder.tokenizer.decode(list(example.answer), skip_special_tokens=True)
    for name, column in values.items():
        row[name] = column.to(DTYPES.get(name, torch.float32)).numpy()
    if "argmax" in values:
        row["said"] = encoder.tokenizer.decode(values["argmax"].to(torch.int32).tolist(), skip_special_tokens=True)
    return row


def _columns(statistics: Sequence[str]) -> list[str]:
    return [*KEYS, "tokens", "eos", "wanted", *statistics, *(["said"] if "argmax" in statistics else [])]


def draws(request: Request) -> tuple[Draw | None, ...]:
    """One for each answer that the request asks for; (None,) if that is the most likely one. Who asks changes no answer."""
    if request.sampling is None:
        return (None,)
    return tuple(Draw(request.sampling, request.task, request.index, number) for number in range(request.samples))
