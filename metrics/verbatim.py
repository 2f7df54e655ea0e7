"""How well a model knows a text by heart: MEMO, MA (memorisation accuracy), EL (extraction likelihood), EM (exact memorisation),
ES (extraction strength).

Pure functions of texts, token ids and per-token hits; data/prepare/memo.py asks a model for the continuations that MEMO needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from metrics.rouge import scorer
from utils.checks import choose, whole

Mode = Literal["suffix", "prefix"]
Statistic = Literal["precision", "recall", "f1"]
Variant = Literal["rouge1", "rouge2", "rougeL"]

STRIDE = 5  # characters between two cuts: the only value ever released


class Cut(NamedTuple):
    """A text in two parts: what the model is given, and how the text goes on."""

    prompt: str
    label: str


def memo_cuts(question: str, answer: str, mode: Mode = "suffix", stride: int = STRIDE) -> list[Cut]:
    """Cuts of question and answer after 1, 1 + stride, ... characters (not tokens), before the last character.

    suffix: the answer is cut, prompts are the question, a blank, and the answer's beginning. prefix: the question is cut, labels
    are the rest of it, a blank, and the answer. A text of length L has ceil((L - 1) / stride) cuts, a single character none.

    Source: MEOW (arXiv 2409.11844), released code. Raises ValueError for stride < 1 or an unknown mode.
    """
    choose("mode", mode, get_args(Mode))
    whole("stride", stride, 1, f"characters; released: {STRIDE}")
    if mode == "suffix":
        return [Cut(f"{question} {answer[:s]}", answer[s:]) for s in range(1, len(answer), stride)]
    return [Cut(question[:s], f"{question[s:]} {answer}") for s in range(1, len(question), stride)]


def memo(labels: Sequence[str], outputs: Sequence[str], statistic: Statistic = "precision", variant: Variant = "rouge1") -> float:
    """MEMO of one answer: ROUGE of the model's continuation of each cut against its label, averaged over cuts; in [0, 1].

    Precision is relative to the words of the continuation: whoever goes on after the answer's end scores less. Words are lower
    case runs of a-z and 0-9, stemmed if longer than three letters (as metrics/rouge.py). Without cuts 0.0, as released.

    Released scores were taken from outputs that held special tokens as text, and words are made of these too: with <s> in front
    and </s> behind, each the word "s", a perfect continuation of m words scores m / (m + 2). Outputs are scored as they are.

    Source: MEOW (arXiv 2409.11844), released code: ROUGE-1 precision. Raises ValueError for lists of different length.
    """
    choose("statistic", statistic, get_args(Statistic))
    choose("variant", variant, get_args(Variant))
    if len(labels) != len(outputs):
        raise ValueError(f"{len(labels)} labels and {len(outputs)} outputs: each cut needs one of both")
    if not labels:
        return 0.0
    place = get_args(Statistic).index(statistic)  # rouge_score gives precision, recall, f1 in this order
    score = scorer(variant).score
    return float(np.mean([score(target=t, prediction=p)[variant][place] for t, p in zip(labels, outputs, strict=True)]))


def memorization_accuracy(tokens: Sequence[int], predicted: Sequence[int]) -> float:
    """MA: share of the tokens x_2 ... x_T that the model finds most likely after the true ones before them.

    tokens: (T,) ids. predicted: (T - 1,) ids, the most likely token after x_1, after x_1 x_2, ... In [0, 1]. MEOW scores question
    and answer as one text (its mode prefix), or the answer alone after the question (suffix); the first token is never scored.

    Source: Jang et al., 2022, Knowledge Unlearning. Raises ValueError for fewer than two tokens, or other than T - 1 predictions.
    """
    if len(tokens) < 2 or len(predicted) != len(tokens) - 1:
        raise ValueError(f"{len(tokens)} tokens, {len(predicted)} predictions: at least 2 are needed, and one prediction fewer")
    return float(np.mean(np.asarray(predicted) == np.asarray(tokens)[1:]))


def extraction_likelihood(tokens: Sequence, continuations: Sequence[Sequence], n: int) -> float:
    """EL_n: mean over the prefixes x_1 ... x_i of the share of n-grams of their continuation that the rest of the text holds.

        EL_n = 1 / (T - n) * sum_{i = 1 .. T - n} |c in ngrams_n(f(x_<=i)) : c in ngrams_n(x_>i)| / |ngrams_n(f(x_<=i))|

    tokens: (T,) ids. continuations: f(x_<=1), ..., f(x_<=T-n), ids without the prefix, made greedily. An n-gram that occurs twice
    counts twice. A continuation shorter than n tokens has no n-gram and adds 0. In [0, 1].

    Source: Jang et al., 2022, Knowledge Unlearning. Raises ValueError for n < 1, T <= n, or another number of continuations.
    """
    cuts = len(tokens) - n
    if n < 1 or cuts < 1 or len(continuations) != cuts:
        raise ValueError(
            f"n={n}, {len(tokens)} tokens, {len(continuations)} continuations: there must be n + 1 tokens or more, and "
            "as many continuations as tokens less n"
        )
    shares = []
    for i, continuation in enumerate(continuations, start=1):
        found, known = _ngrams(continuation, n), set(_ngrams(tokens[i:], n))
        shares.append(sum(gram in known for gram in found) / len(found) if found else 0.0)
    return float(np.mean(shares))


def released_extraction_likelihood(text: str, prompts: Sequence[str], outputs: Sequence[str]) -> float:
    """EL as released with MEOW: over words instead of tokens, n = 1 only, and repeated words count once.

    Share of the distinct words of an output that `text` holds, averaged over `prompts`; a prompt is deleted from both wherever it
    occurs. outputs: prompt and continuation in one string, special tokens included (`<s>` is a word). Its modes: prefix asks
    for the first i tokens of question and answer, text is both; suffix for the question and the first i tokens of the answer,
    text is the whole answer. i runs from 1 to T - 2, one cut fewer than by the definition (`extraction_likelihood`).

    Source: MEOW (arXiv 2409.11844), released code. Raises ValueError without prompts, and for an output without words.
    """
    if not prompts or len(prompts) != len(outputs):
        raise ValueError(f"{len(prompts)} prompts, {len(outputs)} outputs: at least one of each is needed, and equally many")
    shares = []
    for prompt, output in zip(prompts, outputs, strict=True):
        said = set(output.replace(prompt, "").split())
        if not said:
            raise ValueError(f"the output to the prompt {prompt!r} has no words beside it: its share is undefined")
        shares.append(len(said & set(text.replace(prompt, "").split())) / len(said))
    return float(np.mean(shares))


def exact_memorization(hits: ArrayLike) -> float:
    """EM: share of answer tokens that the model finds most likely after the true ones before them. (T,) of 0 and 1 -> [0, 1].

    hits: of the answer alone. Where EOS is supervised its hit is the last one; leave it out to compare with open-unlearning.

    Source: open-unlearning. Raises ValueError without hits.
    """
    return float(_hits(hits).mean())


def extraction_strength(hits: ArrayLike, floor: bool = False) -> float:
    """ES = 1 - k/T, k the fewest answer tokens that must be given for the model to find all others most likely. (T,) -> [0, 1].

    hits as in `exact_memorization`. If the last token is missed, no prefix will do: k = T and ES = 0. floor: open-unlearning
    stops its search at k = T - 1, so that an answer never has less than 1/T, and gives 0 for an answer without tokens.

    Source: open-unlearning. Raises ValueError without hits, unless floor is set.
    """
    if floor and np.size(hits) == 0:
        return 0.0
    hits = _hits(hits)
    missed = np.flatnonzero(~hits)
    given = missed[-1] + 1 if missed.size else 0
    return float(1 - min(given, len(hits) - 1 if floor else len(hits)) / len(hits))


def _ngrams(tokens: Sequence, n: int) -> list[tuple]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _hits(hits: ArrayLike) -> np.ndarray:
    array = np.asarray(hits)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"hits: shape {array.shape}; one 0 or 1 per answer token is needed, and at least one token")
    return array.astype(bool)
