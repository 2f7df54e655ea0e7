"""Which questions of KnowUnDo's privacy lists are about whom: the files do not say, but their order and the names in them do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from utils.items.rows import QA
from utils.reading import DataError

SCOPES = ("unlearn", "retention")
VAL_QUESTIONS = 2  # of every author, in each scope


def first_authors(lists: Mapping[str, Sequence[QA]], count: int) -> dict[str, list[QA]]:
    """The questions about the first `count` authors in the order of `unlearn`, in each of the four lists.

    Raises DataError if there are fewer authors, none of them is in a list, or it cannot be told whom a question is about.
    """
    known = Counter(phrase for pairs in lists.values() for pair in pairs for phrase in _phrases(pair.question))
    subjects: dict[str, list[str]] = {}
    for scope in SCOPES:
        subjects[scope] = _train_subjects(scope, lists[scope], known)
        names = list(dict.fromkeys(subjects[scope]))
        subjects[f"{scope}_val"] = _val_subjects(f"{scope}_val", lists[f"{scope}_val"], names)
    names = list(dict.fromkeys(subjects["unlearn"]))
    if count > len(names):
        raise DataError(f"benchmark.authors={count}: the data has {len(names)} authors; write null for all of them")
    chosen = set(names[:count])
    kept = {
        name: [pair for pair, subject in zip(pairs, subjects[name], strict=True) if subject in chosen]
        for name, pairs in lists.items()
    }
    for name, pairs in kept.items():
        if not pairs:
            raise DataError(f"benchmark.authors={count}: {name} says nothing of {', '.join(names[:count])}; take more authors")
    return kept


def _train_subjects(name: str, pairs: Sequence[QA], known: Counter[str]) -> list[str]:
    """Whom each question is about: of the names in it, the one that most questions of the benchmark hold."""
    subjects: list[str] = []
    for row, pair in enumerate(pairs, start=1):
        named = max(_phrases(pair.question), key=lambda phrase: (known[phrase], phrase.count(" ")), default=None)
        if named is None:
            raise DataError(
                f"{name}, row {row}: {pair.question!r} names no author, as benchmark.authors needs; use benchmark.rows"
            )
        if named in subjects and subjects[-1] != named:
            raise DataError(
                f"{name}, row {row}: {pair.question!r} is about {named} again, after questions about {subjects[-1]}; "
                "benchmark.authors needs all questions about an author in one block; use benchmark.rows"
            )
        subjects.append(named)
    return subjects


def _val_subjects(name: str, pairs: Sequence[QA], authors: Sequence[str]) -> list[str]:
    """Two questions for each author in the order of `authors`; a question may leave the name out, but not both."""
    if len(pairs) != VAL_QUESTIONS * len(authors):
        raise DataError(
            f"{name}: {len(pairs)} questions for {len(authors)} authors, but benchmark.authors needs {VAL_QUESTIONS} for each; "
            "use benchmark.rows"
        )
    subjects = [author for author in authors for _ in range(VAL_QUESTIONS)]
    named = [set(_phrases(pair.question)) & set(authors) for pair in pairs]
    for row, (pair, author, found) in enumerate(zip(pairs, subjects, named, strict=True), start=1):
        first = (row - 1) // VAL_QUESTIONS * VAL_QUESTIONS
        if found - {author} or not any(author in found for found in named[first : first + VAL_QUESTIONS]):
            raise DataError(
                f"{name}, row {row}: {pair.question!r} should be about {author}, in the order of the train list, as "
                "benchmark.authors needs; use benchmark.rows"
            )
    return subjects


def _phrases(question: str) -> list[str]:
    """Every run of two or more neighbouring words with capital initials, without a closing 's: what may be a name."""
    phrases: list[str] = []
    run: list[str] = []
    end = 0
    for match in re.finditer(r"[^\W\d_](?:[\w'’-]*\w)?", question):
        word = re.sub(r"['’]s$", "", match.group())
        if question[end : match.start()] != " " or not word[0].isupper():
            run = []  # a name has neither commas nor small words in it
        if word[0].isupper():
            run = [*run, word]
            phrases += (" ".join(run[first:]) for first in range(len(run) - 1))
        # A possessive closes the name: the space that follows is no longer the next character.
        end = match.start() + len(word)
    return list(dict.fromkeys(phrases))
