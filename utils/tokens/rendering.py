"""Text and hashes around a tokenizer, for utils/tokens/prompts.py: a readable view of ids, a fingerprint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIM, RESET = "\x1b[2m", "\x1b[0m"
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoding gives for the first bytes of a character cut in two


def show(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], answer: Sequence[int], color: bool = False) -> str:
    """The prompt as text, then every answer token as ⟦token⟧ (newlines as ⏎); `color` dims the prompt on a terminal.

    A token is shown as what it adds to the text before it, so a leading space is visible in every kind of vocabulary,
    and of a character spread over several tokens only the last shows it.
    """
    ids, shown = list(prompt), _text(tokenizer, prompt)
    parts = [f"{DIM}{shown}{RESET}" if color else shown]
    for token in answer:
        ids.append(token)
        text = _text(tokenizer, ids)
        parts.append("⟦" + text[len(shown) :].replace("\n", "⏎") + "⟧")
        shown = text
    return "".join(parts)


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False).rstrip(INCOMPLETE)


def is_newline(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """Whether the token is nothing but line ends."""
    text = tokenizer.decode([token], skip_special_tokens=False)
    return text != "" and text.strip("\n") == ""


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """All that decides which ids a text gets, as plain JSON values.

    A fast tokenizer gives its whole definition (vocabulary, merges, normaliser, special tokens), less the padding and
    truncation that earlier calls may have left in it. A slow one shows no merges: its class and vocabulary must do.
    """
    if tokenizer.is_fast:
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        definition = {key: value for key, value in definition.items() if key not in ("padding", "truncation")}
    else:
        definition = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    return {"definition": definition, "special": special}


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of PAD, EOS, BOS and UNK, those of them that the tokenizer has."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    return frozenset(token for token in ids if token is not None)
