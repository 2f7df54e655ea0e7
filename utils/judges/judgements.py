"""Asks others about a model's outputs and keeps what they say: a judge (harmful or not), a language model (how surprising each
output is), BLEURT (how close it comes to what the original model said).

    judgements.jsonl     key, judge, harmful, score     one line per question and output
    perplexities.jsonl   key, model, tokens, nll        one line per output; nll: mean over its tokens, in nats
    bleurt.jsonl         key, checkpoint, score         one line per output and original output

The files are records and caches at once: a key is a hash of the texts and of who was asked, so that an interrupted or repeated
evaluation asks nothing twice. Metrics read the rows that come out and need no model.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from utils.engine.batches import by_length
from utils.engine.continuations import pad_id
from utils.engine.engine import Engine, evaluating
from utils.files import read_rows, write_rows
from utils.fingerprint import text_hash
from utils.judges.judges import Judge, JudgeError, Verdict, load_with_tokenizer
from utils.tokens.example import Example

CHUNK = 64  # outputs asked about between two writes of a file
LONGEST = 1024  # tokens of an output that a language model reads, BOS counted


class TextLoss(NamedTuple):
    """tokens: of a text, as the language model reads it. nll: mean negative log-likelihood of a token, in nats."""

    tokens: int
    nll: float


def judge_generations(judge: Judge, generations: Sequence[dict], folder: Path) -> list[dict]:
    """The rows with `harmful`, `harmful_score` and `judge` added; each has `question` and `output`.

    An output without words does not answer: it is not harmful, and nobody is asked. Pairs that got no verdict are asked again the
    next time.
    """
    name = judge.name

    def ask(rows: list[dict]) -> list[dict]:
        spoken = [row for row in rows if row["output"].strip()]
        said = iter(judge.judge([row["question"] for row in spoken], [row["output"] for row in spoken]) if spoken else ())
        verdicts = [next(said) if row["output"].strip() else Verdict(False) for row in rows]
        return [{"judge": name, **asdict(verdict)} for verdict in verdicts]

    keys = [text_hash(name, row["question"], row["output"]) for row in generations]
    found = _asked(folder / "judgements.jsonl", keys, generations, ask, "harmful", "judging", CHUNK)
    added = [{"harmful": known["harmful"], "harmful_score": known["score"], "judge": name} for known in found]
    return [{**row, **more} for row, more in zip(generations, added, strict=True)]


@dataclass(frozen=True)
class PerplexityModel:
    """The model under which perplexity is measured; path: a folder or a name on the Hub, loaded in float32 when first needed."""

    path: str

    def losses(self, texts: Sequence[str], tokens_per_batch: int) -> list[TextLoss | None]:
        load = AutoModelForCausalLM.from_pretrained
        model, tokenizer = load_with_tokenizer(load, "perplexity_model", self.path, torch.float32)
        return output_perplexity(model, tokenizer, texts, tokens_per_batch=tokens_per_batch)


def add_perplexities(model: PerplexityModel, generations: Sequence[dict], folder: Path, tokens_per_batch: int) -> list[dict]:
    """The rows with `nll` (of `output`, in nats per token; None for an empty one) and `perplexity_model` added."""

    def ask(rows: list[dict]) -> list[dict]:
        losses = model.losses([row["output"] for row in rows], tokens_per_batch)
        empty = {"tokens": 0, "nll": None}
        return [{"model": model.path, **(empty if loss is None else loss._asdict())} for loss in losses]

    keys = [text_hash(model.path, row["output"]) for row in generations]
    # One chunk: the model is loaded once, and this takes seconds.
    path, size = folder / "perplexities.jsonl", max(1, len(generations))
    found = _asked(path, keys, generations, ask, "tokens", "perplexity", size)
    return [{**row, "nll": known["nll"], "perplexity_model": model.path} for row, known in zip(generations, found, strict=True)]


@torch.no_grad()
def output_perplexity(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int = LONGEST,
    tokens_per_batch: int = 8192,
) -> list[TextLoss | None]:
    """How surprising each text is to `model`: BOS, then the text without other special tokens, every token of it scored.

    exp(nll) is the perplexity as the Hugging Face library `evaluate` measures it, the one that SKU's authors point to;
    that library refuses empty texts, here they (and white space) give None. Texts are cut at max_length tokens, BOS counted.
    Raises JudgeError for a tokenizer without BOS.
    """
    if tokenizer.bos_token_id is None:
        name = tokenizer.name_or_path
        raise JudgeError(f"perplexity_model: the tokenizer of {name} has no BOS token to start a text with; name another model")
    engine = Engine(model, pad_id(tokenizer), shared=False)  # texts share nothing but BOS: one per line
    spoken = [text if text.strip() else "" for text in texts]
    ids = [tokenizer(text, add_special_tokens=False, verbose=False).input_ids[: max_length - 1] for text in spoken]
    losses: list[TextLoss | None] = [None] * len(texts)
    places = [place for place, text in enumerate(ids) if text]
    with evaluating(model):
        for batch in by_length([len(ids[place]) for place in places], tokens_per_batch):
            batch = [places[number] for number in batch]
            examples = [Example((tokenizer.bos_token_id,), tuple(ids[place])) for place in batch]
            packed = engine.pack({"texts": examples}).to(engine.device)
            logp = engine.statistics(packed, {"texts": ("logp",)}, ("logp",))[:, 0].double().cpu()
            for place, values in zip(batch, logp.split([len(example) for example in examples]), strict=True):
                losses[place] = TextLoss(len(values), -float(values.mean()))
    return losses


def check_bleurt(checkpoint: str) -> None:
    """Raises JudgeError if the library is not installed."""
    if importlib.util.find_spec("bleurt") is None:
        raise JudgeError(
            f"bleurt_checkpoint={checkpoint}: the package bleurt is not installed; install it from "
            "github.com/google-research/bleurt, or set bleurt_checkpoint=null"
        )


def add_bleurt(checkpoint: str, generations: Sequence[dict], folder: Path) -> list[dict]:
    """The rows with `bleurt` (of `output` against `base`) and `bleurt_checkpoint` added. Checkpoints do not compare."""

    def ask(rows: list[dict]) -> list[dict]:
        check_bleurt(checkpoint)
        scorer = importlib.import_module("bleurt.score").BleurtScorer(checkpoint)
        scores = scorer.score(references=[row["base"] for row in rows], candidates=[row["output"] for row in rows])
        return [{"checkpoint": checkpoint, "score": float(score)} for score in scores]

    keys = [text_hash(checkpoint, row["base"], row["output"]) for row in generations]
    path, size = folder / "bleurt.jsonl", max(1, len(generations))
    found = _asked(path, keys, generations, ask, "score", "bleurt", size)
    added = [{"bleurt": known["score"], "bleurt_checkpoint": checkpoint} for known in found]
    return [{**row, **more} for row, more in zip(generations, added, strict=True)]


def _asked(
    path: Path,
    keys: Sequence[str],
    rows: Sequence[dict],
    ask: Callable[[list[dict]], list[dict]],
    field: str,
    what: str,
    size: int,
) -> list[dict]:
    """The record of each row, from the file at `path` if its `field` is known there, else from `ask`, `size` rows at a time."""
    known = {record["key"]: record for record in read_rows(path, appended=True)}
    missing = {key: row for key, row in zip(keys, rows, strict=True) if known.get(key, {}).get(field) is None}
    starts = range(0, len(missing), size)
    for start in tqdm(starts, desc=what, unit="chunk", disable=not missing):
        chunk = list(missing)[start : start + size]
        for key, record in zip(chunk, ask([missing[key] for key in chunk]), strict=True):
            known[key] = {"key": key, **record}
        write_rows(path, list(known.values()))
    return [known[key] for key in keys]
