"""The long sections of report.html: the same questions answered before and after, and what made each number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from utils.files import flat_settings
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


class Answer(NamedTuple):
    """What a run answered, with words marked. text: None if it was not asked. start: of a long one what is shown at once."""

    run: ReportRun
    text: Markup | None
    start: Markup | None
    letters: int


def answered_tasks(part: Report) -> list[dict[str, Any]]:
    """The tasks of one benchmark whose answers are shown, each with some questions; those that nobody answered are left out."""
    tasks = part.display.answers
    if not tasks:
        named = dict.fromkeys(task for run in part.runs for task, _ in run.generations)
        tasks = {task: task for task in list(named)[:UNDECLARED]}
    chosen = {task: chosen_questions(part.runs, task) for task in tasks}
    return [{"title": tasks[task], "cards": [_card(part.runs, key) for key in keys]} for task, keys in chosen.items() if keys]


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


def marked(text: str, words: frozenset[str]) -> Markup:
    """Text with those of its words marked that are in `words` (lower case)."""
    parts: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        if match.group().lower() in words:
            parts += [text[end : match.start()], Markup("<mark>{}</mark>").format(match.group())]
            end = match.end()
    return Markup("").join([*parts, text[end:]])


def telling_words(truth: str, question: str) -> frozenset[str]:
    """Words of the right answer that are neither common nor in the question; all of them if none is left."""
    asked = {word.lower() for word in _WORD.findall(question)}
    words = frozenset(word.lower() for word in _WORD.findall(truth))
    return words - asked - _COMMON or words


def differing_settings(report: Report) -> dict[str, dict[str, Any]]:
    """label -> settings in which a run differs from others of its kind (methods; target and oracle)."""
    differing: dict[str, dict[str, Any]] = {}
    for methods in (False, True):
        group = [run for run in report.runs if (run.role == "method") == methods]
        flats = {run.label: _own_settings(run) for run in group}
        keys = dict.fromkeys(key for flat in flats.values() for key in flat if key not in UNTOLD)
        varying = [key for key in keys if len({repr(flat.get(key)) for flat in flats.values()}) > 1]
        for label, flat in flats.items():
            differing[label] = {key: flat[key] for key in varying if key in flat}
    return differing


def _own_settings(run: ReportRun) -> dict[str, Any]:
    """Of the training, else of the evaluation; without the model that a log was never asked about."""
    settings = flat_settings((run.training or run.evaluation)["settings"])
    return {key: value for key, value in settings.items() if run.role != "log" or not key.startswith("model.")}


def _card(runs: Sequence[ReportRun], key: Key) -> dict[str, Any]:
    """A question, its right answer, and the answer of every run."""
    task, index, question = key
    rows = [run.generations.get((task, index), {}) for run in runs]
    rows = [row if str(row.get("question")) == question else {} for row in rows]
    truth = next(str(row.get("truth", "")) for row in rows if row)
    words = telling_words(truth, question)
    answers = [_answer(run, str(row.get("generation", "")) if row else None, words) for run, row in zip(runs, rows, strict=True)]
    return {"task": task, "index": index, "question": question, "truth": marked(truth, words), "answers": answers}


def _answer(run: ReportRun, text: str | None, words: frozenset[str]) -> Answer:
    if text is None or not text.strip():
        return Answer(run, None if text is None else Markup(""), None, 0)
    start = marked(text[:CLIP], words) if len(text) > CLIP else None
    return Answer(run, marked(text, words), start, len(text))


def facts(run: ReportRun, differing: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table of settings: what differs, where and how it ran."""
    memory = max(capsule.get("peak_memory_bytes") or 0 for capsule in run.capsules)
    commit, _, changed = str(run.capsules[0].get("code", "unknown")).partition("-")
    return {
        "run": run,
        "differing": differing,
        "time": " + ".join(_duration(capsule.get("seconds")) for capsule in run.capsules),
        "memory": f"{memory / 2**30:.2f} GiB" if memory else "unknown",
        "hardware": _hardware(run.capsules[0].get("hardware") or {}),
        "code": commit[:10] + (f"-{changed}" if changed else ""),
    }


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


def libraries(runs: Sequence[ReportRun]) -> list[str]:
    """One line per set of versions, with the runs that had it."""
    users: dict[str, list[str]] = {}
    for run in runs:
        capsule = run.capsules[0]
        versions = {"python": capsule.get("python", "unknown"), **(capsule.get("libraries") or {})}
        users.setdefault(", ".join(f"{name} {version}" for name, version in versions.items()), []).append(run.label)
    whose = {words: "all runs" if len(users) == 1 else ", ".join(labels) for words, labels in users.items()}
    return [f"{labels}: {words}" for words, labels in whose.items()]
