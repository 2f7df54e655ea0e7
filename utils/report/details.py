"""The long sections of report.html: the same questions answered before and after, and what made each number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from utils.files import flat_settings
from utils.report.columns import read_shown
from utils.report.markup import Html, element, join
from utils.report.read import Report, ReportRun

QUESTIONS = 3  # per task
UNDECLARED = 2  # tasks of a benchmark that does not say whose answers to show
CLIP = 280  # characters of an answer that are shown at once
UNTOLD = ("out", "cache", "model.path", "method.name")  # told elsewhere, or without influence on the result
# Words that say nothing about the fact asked for.
_COMMON = frozenset(
    "a an and are as at be been by for from had has have he her his in is it its of on or she that the their they this "
    "to was were which who with".split()
)
_WORD = re.compile(r"\w+")

Key = tuple[str, int, str]  # task, index, question


def answers_section(report: Report) -> list[Html]:
    """Three questions of each shown task: truth, then target, oracle and every method in their own words; or nothing."""
    columns = []
    for part in report.parts().values():
        for task, words in _shown_tasks(part).items():
            cards = [_card(part, key) for key in chosen_questions(part.runs, task)]
            if cards:
                columns.append(element("div", {}, element("h3", {}, words), *cards))
    if not columns:
        return []
    note = (
        "Greedy answers to the same questions, evenly spaced over each task. Marked are the words of the truth "
        "answer that the question does not already hold, common words aside. Where something is to be forgotten they should "
        "vanish, elsewhere they should stay."
    )
    return [element("p", {"class": "note"}, note), element("div", {"class": "columns"}, *columns)]


def _shown_tasks(part: Report) -> Mapping[str, str]:
    """Task -> title of the tasks of one benchmark whose answers are shown."""
    declared = read_shown(part.runs[0].benchmark).answers
    if declared:
        return declared
    tasks = dict.fromkeys(task for run in part.runs for task, _ in run.generations)
    return {task: task for task in list(tasks)[:UNDECLARED]}


def chosen_questions(runs: Sequence[ReportRun], task: str, count: int = QUESTIONS) -> list[Key]:
    """Up to `count` questions of a task, evenly spaced over those that the most runs answered, by index."""
    answered = [(*place, str(row.get("question"))) for run in runs for place, row in run.generations.items()]
    asked = Counter(key for key in answered if key[0] == task)
    if not asked:
        return []
    most = max(asked.values())
    shared = sorted(key for key, times in asked.items() if times == most)
    places = dict.fromkeys((2 * k + 1) * len(shared) // (2 * count) for k in range(count))
    return [shared[place] for place in places]


def marked(text: str, words: frozenset[str]) -> Html:
    """Text with those of its words marked that are in `words` (lower case)."""
    parts: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        if match.group().lower() in words:
            parts += [text[end : match.start()], element("mark", {}, match.group())]
            end = match.end()
    return join([*parts, text[end:]])


def telling_words(truth: str, question: str) -> frozenset[str]:
    """Words of the truth answer that are neither common nor in the question; all of them if none is left."""
    asked = {word.lower() for word in _WORD.findall(question)}
    words = frozenset(word.lower() for word in _WORD.findall(truth))
    return words - asked - _COMMON or words


def settings_section(report: Report) -> list[Html]:
    """Per run what differs, where and how it ran; then libraries, commands and the definition of every metric."""
    titles = ("run", "settings that differ", "time", "memory", "hardware", "code")
    heads = element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, words) for words in titles)))
    differing = differing_settings(report)
    rows = [_settings_row(run, differing[run.label]) for run in report.runs]
    table = element("table", {"class": "settings"}, heads, element("tbody", {}, *rows))
    note = "Time: training + evaluation. Settings: methods are compared with each other, target with oracle."
    commands = [line for run in report.runs for line in _commands(run)]
    definitions = {name: number.definition for run in report.runs for name, number in run.metrics.items()}
    terms = [join([element("dt", {}, name), element("dd", {}, words)]) for name, words in definitions.items()]
    return [
        element("div", {"class": "scroll", "tabindex": "0"}, table),
        element("p", {"class": "note"}, note),
        folded("Libraries", element("ul", {}, *(element("li", {}, words) for words in _libraries(report.runs)))),
        folded("Commands", element("pre", {}, "\n".join(commands))),
        folded("Definitions of the metrics", element("dl", {}, *terms)),
    ]


def differing_settings(report: Report) -> dict[str, dict[str, Any]]:
    """label -> settings in which a run differs from others of its kind (methods; target and oracle)."""
    found: dict[str, dict[str, Any]] = {}
    for methods in (False, True):
        group = [run for run in report.runs if (run.role == "method") == methods]
        flats = {run.label: flat_settings((run.training or run.evaluation)["settings"]) for run in group}
        keys = dict.fromkeys(key for flat in flats.values() for key in flat if key not in UNTOLD)
        varying = [key for key in keys if len({repr(flat.get(key)) for flat in flats.values()}) > 1]
        for label, flat in flats.items():
            found[label] = {key: flat[key] for key in varying if key in flat}
    return found


def _card(report: Report, key: Key) -> Html:
    task, index, question = key
    rows_of = {run.label: run.generations.get((task, index)) for run in report.runs}
    answers = {label: row for label, row in rows_of.items() if row is not None and str(row.get("question")) == question}
    truth = str(next(iter(answers.values())).get("truth", ""))
    words = telling_words(truth, question)
    rows = [_answer("truth", "truth", marked(truth, words))]
    for run in report.runs:
        row = answers.get(run.label)
        text = element("i", {}, "not answered") if row is None else _clipped(str(row.get("generation", "")), words)
        rows.append(_answer(run.role, run.label, text))
    title = element("h4", {"dir": "auto"}, element("small", {}, f"{task} {index}"), " ", question)
    return element("article", {}, title, *rows)


def _answer(kind: str, who: str, content: Html) -> Html:
    name = join([who, element("small", {}, "before unlearning")] if kind == "target" else [who])
    parts = [element("div", {"class": "who"}, name), element("div", {"dir": "auto"}, content)]
    return element("div", {"class": f"answer {kind}"}, *parts)


def _clipped(text: str, words: frozenset[str]) -> Html:
    """An answer; a long one as its beginning, which unfolds to the whole."""
    if not text.strip():
        return element("i", {}, "empty")
    if len(text) <= CLIP:
        return marked(text, words)
    start = element("span", {"class": "start"}, marked(text[:CLIP], words), "…")
    count = element("u", {}, f"all {len(text):,} characters")
    return element("details", {}, element("summary", {}, start, count), marked(text, words))


def _settings_row(run: ReportRun, differing: Mapping[str, Any]) -> Html:
    parts = [part for part in (run.training, run.evaluation) if part is not None]
    chips = [element("code", {}, f"{key}={value}") for key, value in differing.items()]
    seconds = [part.get("seconds") for part in parts]
    memory = max(part.get("peak_memory_bytes") or 0 for part in parts)
    commit, _, changed = str(parts[0].get("code", "unknown")).partition("-")
    cells = [
        join(chips, " ") if chips else "none",
        " + ".join(_duration(value) for value in seconds),
        f"{memory / 2**30:.2f} GiB" if memory else "unknown",
        _hardware(parts[0].get("hardware") or {}),
        commit[:10] + (f"-{changed}" if changed else ""),
    ]
    head = element("th", {"scope": "row"}, run.label)
    return element("tr", {"class": run.role}, head, *(element("td", {}, cell) for cell in cells))


def _hardware(hardware: Mapping[str, Any]) -> str:
    gpus = Counter(str(name) for name in hardware.get("gpus") or ())
    devices = ", ".join(f"{count} × {name}" for name, count in gpus.items())
    return devices or f"{hardware.get('cpus', '?')} CPUs, {hardware.get('machine', 'unknown machine')}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f}\u00a0s"
    return f"{seconds / 60:.1f}\u00a0min" if seconds < 7200 else f"{seconds / 3600:.1f}\u00a0h"


def _libraries(runs: Sequence[ReportRun]) -> list[str]:
    """One line per set of versions, with the runs that had it."""
    users: dict[str, list[str]] = {}
    for run in runs:
        capsule = run.training or run.evaluation
        versions = {"python": capsule.get("python", "unknown"), **(capsule.get("libraries") or {})}
        users.setdefault(", ".join(f"{name} {version}" for name, version in versions.items()), []).append(run.label)
    whose = {words: "all runs" if len(users) == 1 else ", ".join(labels) for words, labels in users.items()}
    return [f"{labels}: {words}" for words, labels in whose.items()]


def _commands(run: ReportRun) -> list[str]:
    parts = [part for part in (run.training, run.evaluation) if part is not None]
    commands = [" ".join(str(word) for word in part.get("command") or ["unknown"]) for part in parts]
    return [f"# {run.label}, started {parts[0].get('started', 'unknown')}", *commands, ""]


def folded(title: str, content: Html) -> Html:
    """Content that shows when its title is clicked."""
    return element("details", {"class": "folded"}, element("summary", {}, title), content)
