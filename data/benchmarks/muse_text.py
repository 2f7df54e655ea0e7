"""MUSE's running text as training items: one stream of tokens, cut into pieces of equal length.

MUSE (arXiv 2407.06460), released code: the texts of a split, with a blank line between them, are tokenised as one and cut into
pieces that leave room for a BOS; the last one is filled up with the beginning of the first. Every token of a piece carries loss.

open-unlearning decodes each piece and tokenises it again, so that its tokens need not be those of the stream; the BOS comes on
top of the length, and the last piece stays short.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from utils.items.rows import QA, Passage
from utils.tokens.prompts import Encoder

BETWEEN = "\n\n"  # texts of a split


def cut_pieces(pairs: Sequence[QA], encoder: Encoder) -> list[QA]:
    """The answers of `pairs` as one text, in passages of encoder.max_length tokens.

    The BOS is one of them, except under compat=open_unlearning. The last passage is filled up from the first; a single passage is
    left short, as a text does not follow itself.
    """
    if not pairs:
        return []
    text = BETWEEN.join(pair.answer for pair in pairs)
    ids = _bare_ids(encoder, text)
    # Behind a BOS, or behind its own first token: what an encoded passage holds besides its ids.
    sample = Passage("", "", (0, 0)).example(encoder)
    added = len(sample.prompt) + len(sample.answer) - 2
    if encoder.compat == "open_unlearning":
        pieces = list(_tokenised_again(encoder, ids, encoder.max_length))
    else:
        pieces = list(_filled(ids, encoder.max_length - added))
    # One token alone is no item: where nothing stands before it, nothing is left to predict.
    return [Passage("", encoder.tokenizer.decode(piece), tuple(piece)) for piece in pieces if len(piece) > 1]


def _filled(ids: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(ids), size):
        piece = ids[start : start + size]
        yield piece + ids[: size - len(piece)] if start else piece


def _tokenised_again(encoder: Encoder, ids: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(ids), size):
        text = encoder.tokenizer.decode(ids[start : start + size], skip_special_tokens=True)
        yield _bare_ids(encoder, text)[:size]


def _bare_ids(encoder: Encoder, text: str) -> list[int]:
    return encoder.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
