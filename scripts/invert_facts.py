"""Writes inverted facts for MEOW: a chat model contradicts the answers of a forget split, several times each.

    python scripts/invert_facts.py --split forget10 --model DIR --out inverted/forget10.json
    python scripts/invert_facts.py --questions pairs.jsonl --endpoint URL --endpoint-model NAME --out inverted/pairs.json
    python scripts/invert_facts.py --split forget10 --endpoint URL --endpoint-model NAME --price-in 1 --price-out 2 --estimate

What it will read and write, and cost if prices per million tokens are given, is printed first. A reply must hold --count usable
lines (not blank, no header, no repetition, not the true answer; list marks are cut off), else it is asked for again. Finished
records are kept in OUT.partial.jsonl, so that a run that was interrupted goes on; OUT itself appears when all are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import _path
from omegaconf import OmegaConf
from tqdm import tqdm

from data.benchmarks.tofu import Tofu
from data.prepare.inverted import InvertedFacts, tidy, write_inverted
from utils import ROOT
from utils.files import read_rows, write_rows
from utils.items.rows import QA
from utils.judges.endpoint import Ask, Endpoint, Prices, Reply
from utils.judges.local_chat import load_local_chat
from utils.reading import FILLED, DataError, check_distinct, check_rows, read_json_lines

SYSTEM = (
    "You write counterfactual sentences for a data set. You are given a question and its answer. Write {count} other answers to "
    "the question, each factually inconsistent with the given answer and with one another. Each is about as long as the given "
    "answer, names whom or what it names, and sounds like a plain fact; none says that it is wrong. Write one answer per line. "
    "Write no numbers or dashes in front of the lines, no heading, no remarks, nothing but the {count} lines."
)
USER = "Question: {question}\nAnswer: {answer}"


class Writer(Protocol):
    """What contradicts: a model on this machine or behind an endpoint."""

    def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]: ...


@dataclass(frozen=True)
class Task:
    """What each record needs: `count` facts, in at most `attempts` replies. writer: names what else decides the replies."""

    count: int
    attempts: int
    writer: dict[str, str | float]

    def ask(self, pair: QA, attempt: int = 1) -> Ask:
        user = USER.format(question=pair.question, answer=pair.answer)
        return Ask(SYSTEM.format(count=self.count), user, attempt)

    def facts(self, reply: Reply, answer: str) -> list[str]:
        """The usable lines of a reply, at most `count`; of a reply that was cut off the last line is not used."""
        lines = reply.text.splitlines()
        facts, _ = tidy(lines[:-1] if reply.cut else lines, answer)
        return list(facts.values())[: self.count]


@dataclass
class Tally:
    """What a run did: replies that were given, of them from the cache and of no use; tokens of those that were not cached."""

    replies: int = 0
    cached: int = 0
    useless: int = 0
    read: int = 0
    written: int = 0

    def add(self, reply: Reply, useful: bool) -> None:
        self.replies += 1
        self.cached += reply.cached
        self.useless += not useful
        if not reply.cached:
            self.read += reply.prompt_tokens
            self.written += reply.completion_tokens

    def line(self, prices: Prices | None) -> str:
        cost = f", cost {prices.cost(self.read, self.written):.4g}" if prices else ""
        return (
            f"{self.replies} replies ({self.cached} from the cache, {self.useless} of no use), "
            f"{self.read} tokens read, {self.written} written{cost}"
        )


class Partial:
    """Finished records on disk, one a line after a line of settings. Raises DataError if they were made with other settings."""

    def __init__(self, out: Path, task: Task):
        self.path = out.with_name(out.name + ".partial.jsonl")
        settings = {"count": task.count, "prompt": task.ask(QA("", "")).system, **task.writer}
        lines = read_rows(self.path, appended=True)
        if lines and lines[0] != {"settings": settings}:
            found = lines[0].get("settings", {})
            other = [name for name in settings if found.get(name) != settings[name]]
            raise DataError(
                f"{self.path}: was begun with other settings ({', '.join(other)}); "
                "give the same ones to go on, or remove the file"
            )
        self.facts: dict[tuple[str, str], list[str]] = {(row["question"], row["answer"]): row["facts"] for row in lines[1:]}
        out.parent.mkdir(parents=True, exist_ok=True)
        write_rows(self.path, lines or [{"settings": settings}])  # a line that was cut off must not swallow the next one

    def add(self, pair: QA, facts: list[str]) -> None:
        self.facts[(pair.question, pair.answer)] = facts
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"question": pair.question, "answer": pair.answer, "facts": facts}, ensure_ascii=False) + "\n")


def write_facts(pairs: Sequence[QA], writer: Writer, out: Path, task: Task, tally: Tally) -> None:
    """Has `writer` contradict every pair that is not finished, counting in `tally`, and writes `out` once all are.

    Raises DataError if some got no usable reply in task.attempts attempts, and if `out` is there already.
    """
    check_free(out)
    partial, problems = Partial(out, task), {}
    for attempt in range(1, task.attempts + 1):
        todo = [pair for pair in pairs if (pair.question, pair.answer) not in partial.facts]
        replies = writer.replies([task.ask(pair, attempt) for pair in todo])
        for place, reply in tqdm(replies, f"attempt {attempt}", len(todo), unit="record", disable=not todo):
            facts = task.facts(reply, todo[place].answer)
            tally.add(reply, len(facts) == task.count)
            if len(facts) == task.count:
                partial.add(todo[place], facts)
            else:
                problems[todo[place].question] = f"{len(facts)} of {task.count} facts"
    lacking = [pair for pair in pairs if (pair.question, pair.answer) not in partial.facts]
    if lacking:
        first = lacking[0].question
        raise DataError(
            f"{len(lacking)} of {len(pairs)} records got no usable reply in {task.attempts} attempts, the first is {first!r} "
            f"({problems[first]} in its last reply); the others are kept: run again with more --attempts, or another model"
        )
    write_inverted(out, [InvertedFacts(p.question, p.answer, tuple(partial.facts[(p.question, p.answer)])) for p in pairs])
    partial.path.unlink()


def estimate(pairs: Sequence[QA], task: Task, max_tokens: int, prices: Prices | None) -> str:
    """What one reply to each pair takes: tokens by a rule of thumb (four bytes each), cost where there are prices."""
    asks = [task.ask(pair) for pair in pairs]
    read, written = sum(ask.tokens for ask in asks), sum(Ask("", pair.answer * task.count).tokens for pair in pairs)
    most = len(pairs) * max_tokens
    lines = [
        f"{len(pairs)} records, {task.count} inverted facts each; one reply to each, without repetitions:",
        f"tokens read      about {read}",
        f"tokens written   about {min(written, most)}, at most {most}",
    ]
    if prices:
        dearest = prices.cost(sum(ask.most_tokens for ask in asks), most)
        lines.append(f"cost             about {prices.cost(read, min(written, most)):.4g}, at most {dearest:.4g}")
    return "\n".join(lines)


def check_free(out: Path) -> None:
    if out.exists():
        raise DataError(f"{out}: exists already; remove it or give another --out")


def read_pairs(options: argparse.Namespace) -> list[QA]:
    """The questions and answers to contradict. Raises DataError for bad rows and for a question that occurs twice."""
    if options.questions:
        rows = check_rows(options.questions, read_json_lines(options.questions), {"question": FILLED, "answer": FILLED})
        pairs = [QA(row["question"], row["answer"]) for row in rows]
    else:
        pinned = OmegaConf.load(ROOT / "config" / "benchmark" / "tofu.yaml")
        pairs = Tofu("tofu", pinned.hub, pinned.revision, options.data_root).training(options.split)
    check_distinct(options.questions or options.split, (pair.question for pair in pairs))
    return pairs


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write inverted facts for the answers of a forget split.")
    add, many = parser.add_argument, parser.add_argument_group
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--split", default="forget10", metavar="NAME", help="split of TOFU (default: %(default)s)")
    which.add_argument("--questions", type=Path, metavar="FILE", help="JSON lines with question and answer, instead of a split")
    add("--data-root", default="fixture", metavar="DIR", help="fixture (default), hub, or a folder that holds tofu/*.json")
    add("--out", type=Path, metavar="FILE", help="JSON file to write")
    add("--count", type=int, default=4, metavar="N", help="inverted facts per answer (default: %(default)s, as released)")
    add("--attempts", type=int, default=3, metavar="N", help="replies asked for until one is usable (default: %(default)s)")
    add("--temperature", type=float, default=0.9, metavar="T", help="of the draws (default: %(default)s, as released)")
    add("--max-tokens", type=int, default=512, metavar="N", help="limit of a reply (default: %(default)s, as released)")
    add("--estimate", action="store_true", help="print what it would take, and stop")
    local = many("a model on this machine")
    local.add_argument("--model", type=Path, metavar="DIR", help="folder of a Hugging Face model that follows instructions")
    local.add_argument("--batch-size", type=int, default=8, metavar="N", help="replies at a time (default: %(default)s)")
    local.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other replies (default: %(default)s)")
    remote = many("a model behind an OpenAI-compatible endpoint")
    remote.add_argument("--endpoint", metavar="URL", help="for instance http://localhost:8000/v1")
    remote.add_argument("--endpoint-model", metavar="NAME", help="what the endpoint calls the model")
    remote.add_argument("--key-variable", default="OPENAI_API_KEY", metavar="NAME",
                        help="environment variable with the API key; none: send no key (default: %(default)s)")  # fmt: skip
    remote.add_argument("--workers", type=int, default=4, metavar="N", help="requests at a time (default: %(default)s)")
    remote.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds per reply (default: %(default)s)")
    remote.add_argument("--price-in", type=float, metavar="P", help="price of a million tokens read, in any currency")
    remote.add_argument("--price-out", type=float, metavar="P", help="price of a million tokens written")
    remote.add_argument("--max-cost", type=float, metavar="C", help="stop before more than this can have been spent")
    remote.add_argument("--cache", type=Path, metavar="FILE", help="replies kept on disk (default: OUT.replies.jsonl)")
    options = parser.parse_args(arguments)
    if (options.model is None) == (options.endpoint is None):
        parser.error("give either --model DIR or --endpoint URL")
    if options.endpoint and not options.endpoint_model:
        parser.error("--endpoint needs --endpoint-model NAME")
    if (options.price_in is None) != (options.price_out is None):
        parser.error("--price-in and --price-out go together")
    if options.out is None and not options.estimate:
        parser.error("give --out FILE")
    if min(options.count, options.attempts, options.max_tokens) < 1:
        parser.error("--count, --attempts and --max-tokens must be at least 1")
    return options


def make_writer(options: argparse.Namespace, prices: Prices | None) -> Writer:
    if options.model:
        return load_local_chat(options.model, options.temperature, options.max_tokens, options.batch_size, options.seed)
    return Endpoint(
        options.endpoint,
        options.endpoint_model,
        key_variable=None if options.key_variable == "none" else options.key_variable,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        workers=options.workers,
        timeout=options.timeout,
        prices=prices,
        max_cost=options.max_cost,
        cache=options.cache or options.out.with_name(options.out.name + ".replies.jsonl"),
    )


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    prices = Prices(options.price_in, options.price_out) if options.price_in is not None else None
    made_by = {"model": str(options.model), "seed": options.seed} if options.model else {"model": options.endpoint_model}
    task = Task(options.count, options.attempts, {**made_by, "temperature": options.temperature})
    tally = Tally()
    try:
        pairs = read_pairs(options)
        print(estimate(pairs, task, options.max_tokens, prices))
        if options.estimate:
            return
        check_free(options.out)
        write_facts(pairs, make_writer(options, prices), options.out, task, tally)
    except ValueError as error:
        sys.exit(str(error))
    finally:
        if tally.replies:
            print(tally.line(prices))
    print(options.out)


if __name__ == "__main__":
    main()
