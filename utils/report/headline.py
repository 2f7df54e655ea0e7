"""What a report says in words: the result in a few sentences, and what to know before trusting it."""

from __future__ import annotations

from utils.report.columns import SIGNIFICANCE, Column, Map
from utils.report.read import BESIDE, Report, ReportRun
from utils.report.table import disagreements

NAMED = 5  # methods that the headline lists by name


def headline(report: Report) -> str:
    """The result of each benchmark in at most three sentences."""
    parts = report.parts()
    told = {benchmark: _headline(part) for benchmark, part in parts.items()}
    return " ".join(f"{benchmark}: {words}" if len(parts) > 1 else words for benchmark, words in told.items())


def verdicts(report: Report) -> list[tuple[ReportRun, list[str]]]:
    """What the benchmarks themselves say about each unlearned model, in sentences; only some benchmarks do."""
    found = []
    for part in report.parts().values():
        for run in part.of_role("method") if part.display.told is not None else ():
            numbers = {name: {"value": one.value, "n": one.n, "ci95": one.interval} for name, one in run.metrics.items()}
            found.append((run, part.display.told(numbers)))
    return found


def caution(report: Report) -> list[str]:
    """What a reader should know before trusting the table; often nothing."""
    notes = []
    for part in report.parts().values():
        if (tested := tested_map(part)) is not None:
            notes += _passing_target(part, tested.y)
        for name, values in disagreements(part).items():
            notes.append(f"The runs do not share one {name}: {', '.join(values)}. Compare only those that do.")
    return notes


def _passing_target(part: Report, column: Column) -> list[str]:
    for run in part.of_role("target"):
        if (run.finite(column.metric) or 0.0) >= SIGNIFICANCE:
            p = run.metrics[column.metric]
            return [
                f"The target itself passes the test (p = {column.show(p.value)}, n = {p.n}): these questions are too few, or it "
                f"knows too little of them, for {column.name} to tell who forgot."
            ]
    return []


def tested_map(part: Report) -> Map | None:
    """The benchmark's map if its y is a p-value: then a test says who cannot be told from the oracle."""
    axes = part.display.map
    return axes if axes is not None and axes.y.is_p_value else None


def _headline(part: Report) -> str:
    methods = part.of_role("method")
    if methods and part.display.told is not None:
        return " ".join(f"{run.label}: {' '.join(told)}" for run, told in verdicts(part)[:NAMED])
    if not methods:
        return "No unlearned model yet: this is what the target knows and what the oracle does not."
    tested = tested_map(part)
    if tested is None:
        return _best_by(part, methods)
    measured = [(run, p) for run in methods if (p := run.finite(tested.y.metric)) is not None]
    if not measured:
        return f"{_count(len(methods), 'method')}; {tested.y.name} was not measured, so nothing says which forgot."
    return _by_test(part, measured, tested)


def _by_test(part: Report, measured: list[tuple[ReportRun, float]], tested: Map) -> str:
    """Who matches the oracle on the forget set, and what that leaves of the other column. measured: with p-values."""
    quality, kept = tested.y, tested.x
    passed = [run for run, p in measured if p >= SIGNIFICANCE]
    total = _count(len(measured), "method")
    if passed:
        names = _named([run.label for run in passed])
        lead = f"{len(passed)} of {total} cannot be told from the retain oracle on the forget set"
        chosen = max(passed, key=lambda run: run.finite(kept.metric) or 0.0)
        rest = f"{chosen.label} keeps the most:" if len(passed) > 1 else "It keeps"
        told = f"{lead} (p ≥ {SIGNIFICANCE}): {names}. {rest} {_told(chosen, kept)}"
    else:
        nearest, p = max(measured, key=lambda pair: pair[1])
        lead = f"None of {total} matches the retain oracle on the forget set (p < {SIGNIFICANCE})."
        told = f"{lead} The nearest is {nearest.label}: p = {quality.show(p)}, {_told(nearest, kept)}"
    return told + _around(part, kept) + "."


def _best_by(part: Report, methods: list[ReportRun]) -> str:
    """The best of the methods by the two columns of the map, or by the first column that has better and worse."""
    axes = part.display.map
    columns = [axes.y, axes.x] if axes is not None else part.columns
    sentences = [f"{_count(len(methods), 'method')}."]
    sound = [run for run in methods if run.folder not in part.collapsed]
    for column in columns:
        values = {run.label: value for run in sound if (value := run.finite(column.metric)) is not None}
        best = column.best(values, part.first("oracle", column.metric))
        if best:
            who = [label for label in values if label in best]
            lead = "Best by" if len(methods) > 1 else "By"
            sentences.append(f"{lead} {column.words}: {_named(who)}, {column.show(values[who[0]])}{_around(part, column)}.")
        if axes is None and len(sentences) > 1:
            break
    return " ".join(sentences)


def _named(labels: list[str]) -> str:
    return ", ".join(labels[:NAMED]) + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")


def _around(part: Report, column: Column) -> str:
    """What target and oracle have, in brackets, as far as known."""
    values = {role: part.first(role, column.metric) for role in BESIDE}
    words = ", ".join(f"{role} {column.show(value)}" for role, value in values.items() if value is not None)
    return f" ({words})" if words else ""


def _told(run: ReportRun, column: Column) -> str:
    value = run.finite(column.metric)
    return f"an unmeasured {column.words}" if value is None else f"{column.words} {column.show(value)}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
