"""docs/benchmarks.md against the code: a section for every file of config/{benchmark,measure,probe}, a row for every metric.

Metrics are found by asking for them: `numbers` of each benchmark and measure reads files that are made up for the requests
of its fixture, so that names come out as in metrics.json and no model is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate

from metrics.benchmarks.null_oracles import null_metrics
from metrics.benchmarks.tofu import TaskScores
from tests.test_documents import ROOT, config, read, table_of, ticked
from utils.items.benchmark import Benchmark
from utils.items.requests import Request
from utils.items.saved import Saved

PAGE = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
CODE = "\n".join(
    read(
        "*.py", "config/**/*.yaml", "data/**/*.py", "metrics/**/*.py", "scripts/**/*.py", "scripts/**/*.sh", "utils/**/*.py"
    ).values()
)
FILES = {
    group: sorted(path.stem for path in (ROOT / "config" / group).glob("*.yaml")) for group in ("benchmark", "measure", "probe")
}
PLAIN = ("probe", "none")  # the one file that changes nothing
CHOICES = [(group, name) for group, names in FILES.items() for name in names if (group, name) != PLAIN]
RESAMPLES = 2
SAID = "one two three four five"
NEEDED = {"own_metric": (f"measure.own_metric.of={ROOT}/tests/metrics/measures/rated.py:same",)}


def sections(page: str) -> dict[tuple[str, str], str]:
    """(group, name) -> text below the heading that holds the code span `group=name`, as far as the next heading."""
    parts = re.split(r"^(#{2,3} .*)$", page, flags=re.MULTILINE)
    found: dict[tuple[str, str], str] = {}
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        for group, name in re.findall(r"`(\w+)=(\w+)`", heading):
            assert (group, name) not in found, f"two sections on {group}={name}"
            found[group, name] = text
    return found


def patterns(section: str) -> dict[str, re.Pattern]:
    """What the first column of a section's tables of metrics names -> the names meant. <x>: any word, [y]: may be missing."""
    rows = re.findall(r"^\| metric \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", section, re.MULTILINE)
    spans = [span for table in rows for row in table.splitlines() for span in ticked(row.split("|")[1])]
    return {span: re.compile(_expression(span)) for span in spans}


def _expression(span: str) -> str:
    expression = re.escape(span).replace(r"\[", "(?:").replace(r"\]", ")?")
    return re.sub(r"<\w+>", r"[\\w.]+?", expression)


def undocumented(names: Iterable[str], section: str) -> list[str]:
    known = patterns(section).values()
    return [name for name in names if not any(pattern.fullmatch(name) for pattern in known)]


@cache
def benchmark(name: str) -> Benchmark:
    return instantiate(config("evaluate", f"benchmark={name}", "data_root=fixture").benchmark)


@cache
def measure(name: str) -> Any:
    return instantiate(config("evaluate", f"measure={name}", *NEEDED.get(name, ())).measure[name])


@cache
def probe(name: str) -> Any:
    return instantiate(config("evaluate", f"probe={name}").probe)


def few(requests: Iterable[Request], count: int = 2) -> list[Request]:
    """The first requests of each task."""
    kept: dict[str, list[Request]] = {}
    for request in requests:
        kept.setdefault(request.task, []).append(request)
    return [request for of_task in kept.values() for request in of_task[:count]]


def scored(requests: Iterable[Request]) -> pd.DataFrame:
    """A score table as an evaluation saves it: two tokens to every answer."""
    numbers = {"logp": [-1.0, -0.5], "hit": [True, False], "entropy": [1.0, 1.0], "logp_variance": [1.0, 1.0]}
    same = {"asked_by": "", "tokens": 2, "eos": False, "said": SAID, "wanted": SAID, "generation": SAID, **numbers}
    keys = ("task", "index", "role", "number")
    rows = [dict(zip(keys, (r.task, r.index, role, n), strict=True)) | same for r in requests for role, n, _ in r.answers]
    return pd.DataFrame(rows, columns=[*keys, *same])


def answered(requests: Iterable[Request]) -> list[dict]:
    """Rows of generations.jsonl."""
    asked = [request for request in requests if request.truth is not None]
    texts = {"asked_by": "", "generation": SAID, "truth": SAID}
    return [{"task": r.task, "index": r.index, "question": r.question, **texts} for r in asked]


def harness_rows() -> list[dict]:
    tasks = config("evaluate", "benchmark=utility").benchmark.tasks
    about = {"of": 2, "by": "harness", "acc": 1.0, "acc_norm": 1.0, "loglikelihood": -1.0, "words": 1, "bytes": 1, "tokens": 1}
    return [{"task": task, "index": index, "window": 8, **about} for task in tasks for index in (0, 1)]


def continued_rows() -> list[dict]:
    texts = {name: SAID for name in ("generation", "truth", "output", "text", "corpora")}
    mauve = {"task": "mauve", "index": 0, "scored": "continuation", "value": 0.5, "n": 2}
    return [*({"task": "continued", "index": index, **texts} for index in (0, 1)), mauve]


JUDGED = {"harmful": False, "judge": "judge", "nll": 1.0, "perplexity_model": "model", "base": SAID}
# What extras add to each row of generations.jsonl, and the benchmarks whose extras make all of them.
ADDED: dict[str, dict] = {
    "muse": {"truth_cut": SAID},
    "safety": {"output": SAID, **JUDGED, "bleurt": 0.5, "bleurt_checkpoint": "checkpoint"},
    "nlu": {"form": "paper", "labels": ["A", "B"], "asked": "split"},
}
MADE: dict[str, Callable[[], list[dict]]] = {"utility": harness_rows, "nlg": continued_rows}


def evaluated(name: str) -> Saved:
    """An evaluation of a benchmark's fixture with all that can be asked for."""
    made = benchmark(name)
    asked = made.requests(made.split)
    rows = [row | ADDED.get(name, {}) for row in answered(few(asked))] + (harness_rows()[:2] if name == "own" else [])
    oracle = few(made.oracle_requests(asked))
    compared = scored(oracle) if oracle else None
    return Saved(scored(few(asked)), rows, compared, resamples=RESAMPLES, forgotten=made.forgotten, members=made.members)


def null_names() -> set[str]:
    """Of a benchmark that places models among oracles of other seeds: two items, four models."""
    ratios = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    ones, zeros = np.ones(2), np.zeros(2)
    tables = [TaskScores(ones, zeros, -np.log(row)[:, None], zeros) for row in ratios]
    return set(null_metrics(tables[0], tables[1], tables[2:], resamples=RESAMPLES))


def benchmark_names(name: str) -> set[str]:
    """Names of a benchmark's own metrics."""
    saved = Saved(pd.DataFrame(), MADE[name](), resamples=RESAMPLES) if name in MADE else evaluated(name)
    made = benchmark(name)
    return set(made.metrics.numbers(saved)) | (null_names() if made.least_nulls else set())


def gradients(saved: Saved) -> list[dict]:
    taken = {"asked_by": "gradnorm", "number": 0, "norm": 1.0, "p": 2.0, "parameters": "all", "train_mode": False}
    rows = [{"task": task, "index": index, **taken} for task in saved.members for index in (0, 1)]
    return [{**row, "drop_eos": "eos"} for row in rows]


def samples(saved: Saved) -> list[dict]:
    scores = {"asked_by": "leak", "samples_rougeL": [0.5] * 200}
    return [{"task": task, "index": index, **scores} for task in saved.forgotten for index in (0, 1)]


MEASURED: dict[str, Callable[[Saved], list[dict]]] = {
    "gradnorm": gradients,
    "leak": samples,
    "fluency": lambda saved: [row | {"clean": 0.5, "clean_by": "classifier"} for row in saved.generations],
}


def measure_names(name: str) -> set[str]:
    """Names of a measure on TOFU, where every measure has something to measure."""
    saved = evaluated("tofu")
    rows = MEASURED[name](saved) if name in MEASURED else saved.generations
    return set(measure(name).numbers(replace(saved, generations=rows)))


def names_of(group: str, name: str) -> set[str]:
    return {"benchmark": benchmark_names, "measure": measure_names, "probe": lambda _: set()}[group](name)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_file_has_a_section(group, name):
    assert (group, name) in sections(PAGE), f"no heading of docs/benchmarks.md holds `{group}={name}`"


def test_every_section_has_a_file():
    assert sections(PAGE).keys() == set(CHOICES)


@pytest.mark.parametrize(("group", "name"), [choice for choice in CHOICES if choice[0] != "probe"])
def test_metrics_of_the_page_are_those_of_the_code(group, name):
    """Every metric has a row, and every row a metric."""
    section, names = sections(PAGE)[group, name], names_of(group, name)
    assert names, "the made-up tables give no metric"
    assert not undocumented(names, section)
    lost = [span for span, pattern in patterns(section).items() if not any(map(pattern.fullmatch, names))]
    assert not lost, "no such metric"


def test_a_missing_section_and_a_missing_row_are_seen():
    table = "| metric | x |\n|---|---|\n| `<task>_prob`, `avg[_prompted]` | `other` |\n"
    page = f"## One: `benchmark=one`\n\n{table}\n### Two: `measure=two`\n"
    assert sections(page).keys() == {("benchmark", "one"), ("measure", "two")}
    names = ("retain_prob", "avg", "avg_prompted", "prob", "retain_probability", "avg_other")
    assert undocumented(names, sections(page)["benchmark", "one"]) == ["prob", "retain_probability", "avg_other"]


def glance(group: str) -> Mapping[str, list[str]]:
    """Name -> the other cells of its row in the table at a glance."""
    return {ticked(row[0])[0]: row[1:] for row in table_of(PAGE, f"{group}=")}


@pytest.mark.parametrize("group", FILES)
def test_tables_at_a_glance_list_every_file(group):
    assert sorted(glance(group)) == sorted(name for kind, name in CHOICES if kind == group)


@pytest.mark.parametrize("name", FILES["benchmark"])
def test_row_of_a_benchmark(name):
    """Its forget splits are accepted; an oracle is asked if and only if the page says so; its papers are in its file."""
    _, splits, oracle, paper = glance("benchmark")[name]
    made = benchmark(name)
    assert made.split in ticked(splits)
    for split in ticked(splits):
        made.check_forget_split(split)
    assert oracle == ("yes" if made.oracle_requests(made.requests(made.split)) else "no")
    assert re.fullmatch(r"arXiv \d{4}\.\d{5}", paper) or (name, paper) == ("own", "ours")


@pytest.mark.parametrize(("group", "name"), [choice for choice in CHOICES if choice[0] != "benchmark"])
def test_row_of_a_measure_or_probe(group, name):
    """Listed are the benchmarks that do not refuse it."""
    check = {"measure": measure, "probe": probe}[group](name).check
    asked = [benchmark(other) for other in glance("benchmark")]
    assert ticked(glance(group)[name][-1]) == [made.name for made in asked if accepted(check, made, made.requests(made.split))]


def accepted(check: Callable, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except ValueError:
        return False
    return True


def test_papers_are_those_of_the_code():
    """No number of a paper that the code does not name."""
    cited = set(re.findall(r"arXiv (\d{4}\.\d{5})", PAGE))
    assert len(cited) > 10 and not {number for number in cited if number not in CODE}


def test_names_in_the_text_exist():
    """Every word with an underscore in a code span is a metric or stands in the code."""
    metrics = {name for choice in CHOICES for name in names_of(*choice)}
    spans = [span for span in ticked(PAGE) if not re.search(r"[<\[]|^(?:python|bash) ", span)]
    words = {word for span in spans for word in re.findall(r"[A-Za-z]\w*_\w+", span)}
    known = set(re.findall(r"\w+", CODE)) | metrics
    assert len(words) > 50 and not words - known


def test_page_can_be_searched_at_midnight():
    assert len(PAGE.splitlines()) <= 540
