"""lm-evaluation-harness as a library: its tasks, prompts, token borders and verdicts, and the probabilities of our engine.

What is asked and how it counts is the harness's: the task files of its package as they are, its tokenisation of context and
continuation, its rolling windows, its verdict on every document. The forward pass is ours: the choices of a question are packed
together, tokens x vocabulary logits are never held as a whole (the harness holds those of a whole batch of windows), and
log-softmax is in float32 whatever the weights are.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import lm_eval.api.task
import lm_eval.tasks
import torch
from datasets import Dataset, disable_progress_bars
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from utils.distributed import gathered, is_main, rank, world_size
from utils.engine.batches import answer_statistics, batches_of
from utils.engine.engine import Engine, evaluating
from utils.tokens.example import Example

log = logging.getLogger(__name__)
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant: a model object, defaults of its own task files
lm_eval.api.task.tqdm = partial(tqdm, disable=True)  # writing questions down takes no time, and nobody waits for it

# task -> its folder in the package. A TaskManager over all folders takes a quarter of a minute.
PACKAGED = {
    "boolq": "super_glue/boolq",
    "rte": "glue/rte",
    "hellaswag": "hellaswag",
    "winogrande": "winogrande",
    "arc_challenge": "arc",
    "arc_easy": "arc",
    "openbookqa": "openbookqa",
    "piqa": "piqa",
    "truthfulqa_mc1": "truthfulqa",
    "truthfulqa_mc2": "truthfulqa",
    "wikitext": "wikitext",
}
SPLITS = ("training", "validation", "test")
SUMMED = ("logp", "hit")
ALL_WINDOWS = 2**30  # windows that the harness hands over at once; batches are made here

Scores = dict[Example, tuple[float, bool]]


class HarnessError(ValueError):
    """A task cannot be evaluated, or gave no number; the message names it."""


class EngineLM(HFLM):
    """A loaded model as the harness wants one.

    max_length: tokens of a context or window at most; None: what the model's config allows, as the harness has it.
    tokens_per_batch: tokens computed together. Every process computes a share, and all of them get all values.
    """

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase, tokens_per_batch: int, max_length: int | None = None):
        super().__init__(pretrained=engine.model, tokenizer=tokenizer, max_length=max_length, batch_size=ALL_WINDOWS)
        # The harness hides no token from the model, whatever compat= says.
        self.engine = Engine(engine.model, engine.pad, engine.chunk_bytes, engine.shared, autocast=engine.autocast)
        self.tokens_per_batch = tokens_per_batch

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As the harness has it, without its bar beside ours; so the next."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """(texts, context ids, continuation ids) -> (sum of log p of the continuation, whether greedy decoding gives it)."""
        examples = [self._example(context, continuation) for _, context, continuation in requests]
        found = log_likelihoods(self.engine, examples, self.tokens_per_batch)
        return [found[example] for example in examples]

    def _example(self, context: Sequence[int], continuation: Sequence[int]) -> Example:
        """What does not fit is cut on the left, as in the harness: the last token is not fed, so one more counts."""
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            raise HarnessError(f"a choice of {len(continuation)} tokens is longer than benchmark.max_length={self.max_length}")
        return Example(tuple(context[-room:]), tuple(continuation))


def load_task(name: str, rows: Sequence[dict] | None = None, split: str = "test", num_fewshot: int = 0) -> Task:
    """A packaged task, on the data set that its file names, or on `rows`, which stand for the given split.

    num_fewshot: examples before each question, drawn as the harness does; a task that forbids them gets none.
    """
    folder = Path(lm_eval.tasks.__file__).parent / PACKAGED[name]
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    changes: dict = {"task": name}
    if rows is not None:
        disable_progress_bars()  # rows in memory take no time
        data = {split: Dataset.from_list(list(rows))}
        changes |= {"custom_dataset": lambda **_: data}
        changes |= {f"{known}_split": known if known == split else None for known in SPLITS}
    # Packaged files are changed by those who include them: here a group of one.
    task = manager.load([{"group": f"only_{name}", "task": [changes]}])["tasks"][name]
    if task.get_config("num_fewshot") != 0:
        task.set_config("num_fewshot", num_fewshot)
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return task


def evaluate_task(lm: EngineLM, task: Task, limit: int | None = None) -> list[dict]:
    """One row per document, in order, of all documents or the first `limit`.

    task, index; of: documents in the task; by: who evaluated it and how. Multiple choice: question, loglikelihoods (one per
    choice), picked (the choice that has the highest), and the task's own verdicts (acc, acc_norm). Texts: loglikelihood (nats),
    words, bytes, tokens, window. Raises HarnessError for a verdict that is no finite number.
    """
    name, count = task.config.task, len(task.eval_docs)
    log.info("%s: %d of %d documents", name, min(limit or count, count), count)
    results = evaluate(lm, {"tasks": {name: task}}, limit=limit, bootstrap_iters=0)
    shots = task.get_config("num_fewshot") or 0
    version = importlib.metadata.version("lm_eval")
    by = f"lm-evaluation-harness {version}, task {name} version {task.VERSION}, {f'{shots}-shot' if shots else 'zero-shot'}"
    known = {"task": name, "of": count, "by": by}
    row = _text if task.OUTPUT_TYPE == "loglikelihood_rolling" else _choice
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return [{**known, "index": sample["doc_id"], **row(lm, task, sample)} for sample in samples]


def _choice(lm: EngineLM, task: Task, sample: dict) -> dict:
    values = [float(loglikelihood) for loglikelihood, _ in sample["filtered_resps"]]
    verdicts = {name: _number(task, sample, name, sample.get(name)) for name in task.aggregation()}
    return {
        "question": sample["arguments"][0][0],
        "loglikelihoods": values,
        "picked": max(range(len(values)), key=values.__getitem__),
        **verdicts,
    }


def _text(lm: EngineLM, task: Task, sample: dict) -> dict:
    loglikelihood, words = sample["word_perplexity"]
    return {
        "loglikelihood": _number(task, sample, "word_perplexity", loglikelihood),
        "words": words,
        "bytes": sample["byte_perplexity"][1],
        "tokens": len(lm.tok_encode(sample["arguments"][0][0])),
        "window": lm.max_length,
    }


def _number(task: Task, sample: dict, name: str, value: object) -> float:
    """The harness drops a metric that it cannot import without a word; here that is an error."""
    if value is None or not math.isfinite(value):
        raise HarnessError(f"task {task.config.task}, row {sample['doc_id'] + 1}: {name} is {value}, not a number")
    return float(value)


def log_likelihoods(engine: Engine, examples: Sequence[Example], tokens_per_batch: int) -> Scores:
    """Each different answer -> (sum of log p in nats, whether all its tokens are the most likely ones), on every process."""
    batches = batches_of(list(dict.fromkeys(examples)), tokens_per_batch)[rank() :: world_size()]
    found: list[tuple[Example, tuple[float, bool]]] = []
    with torch.no_grad(), evaluating(engine.model):
        for batch in tqdm(batches, desc="scoring", unit="batch", disable=not is_main()):
            for example, values in zip(batch, answer_statistics(engine, batch, SUMMED), strict=True):
                found.append((example, (float(values[:, 0].double().sum()), bool(values[:, 1].all()))))
    return dict(gathered(found))
