"""Passwords, API keys and tokens come from the environment, and are struck out of whatever is stored or printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

STRUCK = "***"
# Settings and parameters of URLs that are secrets by their name; `tokenizer`, `tokens_per_batch` and `eos_token` are none.
NAMED = r"(?:password|passwd|passphrase|secret|api_?key|token|(?:access|auth|api|hf|bearer)_token|client_secret|secret_key)"
KEY = re.compile(rf"(?:^|[.\[]){NAMED}\]?$", re.IGNORECASE)
PATTERNS = (
    # user:password of a URL; one slash is left of two where it was taken for a path
    re.compile(r"(?P<kept>\b[a-z][a-z0-9+.-]+:/{1,2})[^\s/?#]+(?=@)", re.IGNORECASE),
    re.compile(rf"(?P<kept>[?&]{NAMED}=)[^\s&#]+", re.IGNORECASE),
    re.compile(r"(?P<kept>\bBearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE),
    # As their issuers write them: OpenAI and its like, Hugging Face, GitHub, Google, Amazon, Slack.
    re.compile(
        r"(?P<kept>(?<![\w-]))(?:sk-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
        r"|AIza[\w-]{30,}|AKIA[A-Z0-9]{16}|xox[abeoprs]-[\w-]{10,})"
    ),
)


def struck(text: str) -> str:
    """The text with `***` where a secret stands that can be told by its form."""
    for pattern in PATTERNS:
        text = pattern.sub(rf"\g<kept>{STRUCK}", text)
    return text


def without_secrets(value: Any, key: str = "") -> Any:
    """Settings, nested as they may be, with `***` for what is secret by its form, or by the name of its key."""
    if isinstance(value, Mapping):
        return {name: without_secrets(below, f"{key}.{name}") for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(one, key) for one in value]
    if not isinstance(value, str):
        return value
    return STRUCK if value and KEY.search(key) else struck(value)
