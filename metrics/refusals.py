"""Whether an answer declines to answer, told by its opening words: a list, ours, of how models and people say so in English."""

from __future__ import annotations

import re

OPENINGS = (
    r"i(?:'m| am)? (?:do not|don't|cannot|can't|could not|couldn't|have no|haven't|am not|not|unable|afraid)",
    r"i(?:'m| am) (?:sorry|unable|not|afraid|unaware|unfamiliar)",
    r"(?:sorry|apologies|unfortunately|regrettably)",
    r"i(?:'d| would) (?:rather not|prefer not)",
    r"(?:that|this|it)(?:'s| is) (?:not something|beyond|outside|unknown|unclear)",
    r"(?:there is|there's) no (?:information|record|data)",
    r"no (?:information|idea|record|data|comment)\b",
    r"i lack\b",
    r"as an ai\b",
    r"my (?:knowledge|training|data)(?:base)? (?:does not|doesn't|has no|lacks)",
)
_REFUSES = re.compile(rf"\W*(?:oh, |well, |hmm, )?(?:{'|'.join(OPENINGS)})", re.I)


def is_refusal(answer: str) -> bool:
    """Whether the answer begins as a refusal does; False for an empty one, which says nothing."""
    return _REFUSES.match(answer.replace("’", "'")) is not None
