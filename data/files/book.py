"""A book as running text, and the passages that are cut from it. Pure functions of text.

What is no text of the author goes: header and licence of Project Gutenberg, title page and contents, headings, ornaments,
pictures. Lines are joined, so a passage has one blank between two words and no other white space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple

SLACK = 8  # a passage ends at a sentence at most 1/8 of its length away: of 380 words 333 to 427, as the released 306 to 427
REST = 4  # what is left of a text counts as a passage from 1/4 of its length
TITLE_WORDS = 12  # a longer paragraph is no heading

# Marks of Project Gutenberg: today's, and those of the nineties.
_START = re.compile(
    r"\*\*\*\s*START OF TH(?:E|IS) PROJECT GUTENBERG.{0,300}?\*\*\*|\*END\*?\s?THE SMALL PRINT!.{0,100}?\*END\*", re.S
)
_END = re.compile(r"\*\*\*\s*END OF TH(?:E|IS) PROJECT GUTENBERG|^\s*End of (?:the |this )?Project Gutenberg", re.M)
_CREDITS = re.compile(
    r"(?:Produced|E-?text prepared|This e-?(?:book|text) was produced|Transcribed|HTML version) (?:by|from)\b|Transcriber", re.I
)
_PICTURE = re.compile(r"\[(?:Illustration|Picture|Transcriber)\b[^\]]*\]", re.I)
_ITALICS = re.compile(r"(?<!\w)_([^_]+)_(?!\w)")

_COUNT = (
    r"(?:[ivxlcdm]+|\d+|(?:the\s+)?(?:first|second|third|last|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif)ty(?:-\w+)?))"
)
_NUMBERED = re.compile(
    rf"(?:chapter|book|volume|vol\.|part|letter|canto|stave|act|scene|section)\s+{_COUNT}(?!\w)(.*)", re.I | re.S
)
_BARE_NUMBER = re.compile(r"(?:[IVXLCDM]+|\d+)\.?")
_NAMED = re.compile(
    r"(?:table of )?contents|(?:list of )?illustrations|prologue|epilogue|preface|foreword|afterword|introduction|finis|the end|"
    r"(?:end of (?:the )?)(?:\w+ )?(?:book|volume|part)\b.*",
    re.I,
)
_WIKI = re.compile(r"=+ .* =+")
_LISTED = re.compile(r"(?:chapter\s+)?(?:[ivxlcdm]+|\d+)[.:)]?\s+\S.*|.*\S\s+\d+", re.I)  # a line of a table of contents

_OPEN, _CLOSED = "\"'“‘(", "\"'”’)]"
_SHORT = re.compile(r"(?:[A-Z]|Mrs?|Ms|Dr|St|Esq|Capt|Col|Gen|Lieut|Rev|Hon|Messrs|Mme|Mlle|No|Vol|viz|vs|etc|i\.e|e\.g)\.")


class Excerpt(NamedTuple):
    """A passage in two parts: what is given, and how it goes on."""

    prefix: str
    rest: str

    @property
    def whole(self) -> str:
        return f"{self.prefix} {self.rest}"


def chapters(text: str) -> list[str]:
    """The running text of each chapter, words separated by single blanks; a text without headings is one chapter."""
    found: list[list[str]] = [[]]
    heading = True  # a book begins with its title page
    for block in re.split(r"\n[ \t]*\n", _without_licence(text.replace("\r\n", "\n").removeprefix("\ufeff"))):
        lines = [line.strip() for line in _PICTURE.sub("", block).splitlines() if line.strip()]
        if not any(character.isalnum() for line in lines for character in line):
            continue
        if _is_heading(lines):
            heading = True
            if found[-1]:
                found.append([])
        elif not (heading and (_is_title(lines) or _CREDITS.match(lines[0]))):
            heading = False
            found[-1].append(" ".join(lines))
    return [_ITALICS.sub(r"\1", " ".join(" ".join(blocks).split())) for blocks in found if blocks]


def passages(texts: Iterable[str], words: int, rest: bool = False) -> list[str]:
    """Consecutive pieces of about `words` words of each text, none of which runs over the end of its text.

    A piece ends where a sentence does: at the sentence end nearest to `words`, if one lies within words // 8 of it, and else
    after exactly `words` words. What is then left of a text is not used, or with `rest` a shorter piece, from words // 4 words.
    """
    found = []
    for text in texts:
        parts = text.split()
        start = 0
        while len(parts) - start >= words - words // SLACK:
            end = start + _length(parts[start : start + words + words // SLACK], words)
            found.append(" ".join(parts[start:end]))
            start = end
        if rest and len(parts) - start >= max(1, words // REST):
            found.append(" ".join(parts[start:]))
    return found


def excerpt(passage: str, prefix: int) -> Excerpt:
    """The first `prefix` words of a passage, and all others."""
    parts = passage.split(" ")
    return Excerpt(" ".join(parts[:prefix]), " ".join(parts[prefix:]))


def kept_out(count: int, share: float) -> list[bool]:
    """Which of `count` passages are kept out so that they are `share` of all and spread evenly, the same for every run.

    Of share 1/5 the 3rd, 8th, 13th, ...: the middle one of every five.
    """
    exact = Fraction(str(share))
    before = [floor(place * exact + Fraction(1, 2)) for place in range(count + 1)]
    return [later > earlier for earlier, later in zip(before, before[1:], strict=False)]


def _without_licence(text: str) -> str:
    starts = list(_START.finditer(text))
    text = text[starts[-1].end() :] if starts else text
    end = _END.search(text)
    return text[: end.start()] if end else text


def _is_heading(lines: Sequence[str]) -> bool:
    text = " ".join(lines)
    if _WIKI.fullmatch(text):
        return True
    if len(text.split()) > TITLE_WORDS:
        return all(_is_heading([line]) for line in lines) if len(lines) > 1 else False
    if text[0] in _OPEN:
        return False
    numbered = _NUMBERED.fullmatch(text)
    if numbered:
        title = numbered[1].strip()
        return not title or title[0] in ".:,;-–—" or _is_capitalised(title)
    plain = text.rstrip(".:")
    return bool(_BARE_NUMBER.fullmatch(text) or _NAMED.fullmatch(plain)) or _is_upper(plain)


def _is_upper(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    return len(letters) > 1 and all(character.isupper() for character in letters)


def _is_capitalised(title: str) -> bool:
    return all(word[0].isupper() or len(word) <= 3 for word in title.split()) and title[-1].isalnum()


def _is_title(lines: Sequence[str]) -> bool:
    """Of a paragraph behind a heading or on a title page: whether it is a title, a name, a date, or a table of contents."""
    text = " ".join(lines)
    short = len(text.split()) <= TITLE_WORDS and (text[-1].isalnum() or text[-1] == ")") and text[0] not in _OPEN[:4]
    return short or (len(lines) > 1 and all(_LISTED.fullmatch(line) for line in lines))


def _length(parts: Sequence[str], words: int) -> int:
    """Words of the piece that `parts` begins with; they are no more than a piece may have."""
    least = words - words // SLACK
    ends = [place for place in range(least, len(parts) + 1) if _ends_sentence(parts[place - 1])]
    return min(ends, key=lambda place: abs(place - words), default=min(words, len(parts)))


def _ends_sentence(word: str) -> bool:
    bare = word.rstrip(_CLOSED)
    return bare.endswith((".", "!", "?")) and not _SHORT.fullmatch(bare.lstrip(_OPEN))
