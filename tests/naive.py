"""The slow way, as released code writes it: one padded row per (prompt, answer), one forward per stream, all logits.

Nothing here calls `losses/` or the engine, so that the two can be compared. Every formula of a method has the form
`formula(model, reference, streams, pad) -> scalar loss`, where `streams` maps a stream to its examples and `reference`
is a frozen copy of the model, forwarded again. Coefficients are those that papers and released code print.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.engine.loss import Needs
from utils.engine.table import TokenTable
from utils.engine.token_statistics import name_of
from utils.tokens.example import Example

Streams = Mapping[str, Sequence[Example]]
Formula = Callable[[nn.Module, nn.Module, Streams, int], Tensor]


def pad_right(examples: Sequence[Example], pad: int, length: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(B, T) input ids, attention mask and labels, -100 on prompts and padding. T: the longest row, or `length`."""
    width = length or max(len(e.prompt) + len(e.answer) for e in examples)
    ids = torch.full((len(examples), width), pad)
    attention = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full((len(examples), width), -100)
    for row, example in enumerate(examples):
        end = len(example.prompt) + len(example.answer)
        ids[row, :end] = torch.tensor(example.prompt + example.answer)
        attention[row, :end] = 1
        labels[row, len(example.prompt) : end] = torch.tensor(example.labels or example.answer)
    return ids, attention, labels


def all_logits(model: nn.Module, examples: Sequence[Example], pad: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """(B, T-1, V) float32 logits and the (B, T-1) labels that they predict."""
    ids, attention, labels = (tensor.to(model.device) for tensor in pad_right(examples, pad, length))
    logits = model(input_ids=ids, attention_mask=attention).logits.float()
    return logits[:, :-1], labels[:, 1:]


def token_logp(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, T-1) log-probability of the labels, 0 where there is none."""
    found = torch.log_softmax(logits, dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return found * (labels != -100)


def nll(model: nn.Module, examples: Sequence[Example], pad: int) -> tuple[Tensor, Tensor]:
    """(B,) summed negative log-likelihood of each answer, and its (B,) number of tokens."""
    logits, labels = all_logits(model, examples, pad)
    return -token_logp(logits, labels).sum(dim=1), (labels != -100).sum(dim=1)


def reference_nll(reference: nn.Module, examples: Sequence[Example], pad: int) -> Tensor:
    with torch.no_grad():
        return nll(reference, examples, pad)[0]


def cross_entropy(model: nn.Module, examples: Sequence[Example], pad: int) -> Tensor:
    """The loss that Hugging Face models return: mean over all labels of the batch."""
    logits, labels = all_logits(model, examples, pad)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def kl_to_reference(model: nn.Module, reference: nn.Module, examples: Sequence[Example], pad: int) -> Tensor:
    """Mean over all answer tokens of KL(reference || model)."""
    logits, labels = all_logits(model, examples, pad)
    with torch.no_grad():
        theirs = torch.log_softmax(all_logits(reference, examples, pad)[0], dim=-1)
    each = (theirs.exp() * (theirs - torch.log_softmax(logits, dim=-1))).sum(dim=-1)
    return each[labels != -100].mean()


def plus_retain(loss: Tensor, retain: str, model: nn.Module, reference: nn.Module, streams: Streams, pad: int) -> Tensor:
    if retain == "nll":
        return loss + cross_entropy(model, streams["retain"], pad)
    if retain == "kl":
        return loss + kl_to_reference(model, reference, streams["retain"], pad)
    return loss


def gradient_ascent(model, reference, streams, pad, retain="none") -> Tensor:
    return plus_retain(-cross_entropy(model, streams["forget"], pad), retain, model, reference, streams, pad)


def npo(model, reference, streams, pad, retain="none", beta=0.1) -> Tensor:
    forgotten = nll(model, streams["forget"], pad)[0] - reference_nll(reference, streams["forget"], pad)
    loss = -(2 / beta) * F.logsigmoid(beta * forgotten).mean()
    return plus_retain(loss, retain, model, reference, streams, pad)


def muse_released(model, reference, streams, pad, forget="npo", retain="none", beta=0.1) -> Tensor:
    """As MUSE's code has it, on raw logits; where it counts positions, those that predict a label."""

    def gap(stream: str) -> tuple[Tensor, Tensor]:
        logits, labels = all_logits(model, streams[stream], pad)
        with torch.no_grad():
            theirs = all_logits(reference, streams[stream], pad)[0][labels != -100]
        return theirs, theirs - logits[labels != -100]

    if forget == "npo":
        loss = -(2 / beta) * F.logsigmoid(beta * gap("forget")[1]).mean()
    else:
        loss = -cross_entropy(model, streams["forget"], pad)
    if retain == "klr":
        theirs, difference = gap("retain")
        return loss + (theirs.exp() * difference).sum() / len(streams["retain"])
    return loss + cross_entropy(model, streams["retain"], pad) if retain == "gdr" else loss


def dpo(model, reference, streams, pad, retain="none", beta=0.1) -> Tensor:
    rejected, chosen = nll(model, streams["forget"], pad)[0], nll(model, streams["template"], pad)[0]
    rejected_ref = reference_nll(reference, streams["forget"], pad)
    chosen_ref = reference_nll(reference, streams["template"], pad)
    loss = -(2 / beta) * F.logsigmoid(beta * ((rejected - chosen) - (rejected_ref - chosen_ref))).mean()
    return plus_retain(loss, retain, model, reference, streams, pad)


def simnpo(model, reference, streams, pad, beta=4.5, gamma=0.125) -> Tensor:
    summed, tokens = nll(model, streams["forget"], pad)
    loss = -(2 / beta) * F.logsigmoid(beta * summed / tokens).mean()
    return gamma * loss + cross_entropy(model, streams["retain"], pad)


def preference_optimisation(model, reference, streams, pad) -> Tensor:
    """One forward over both batches, one pooled token mean."""
    return cross_entropy(model, [*streams["template"], *streams["retain"]], pad)


def llmu(model, reference, streams, pad) -> Tensor:
    loss = cross_entropy(model, streams["template"], pad) - 0.5 * cross_entropy(model, streams["forget"], pad)
    return plus_retain(loss, "kl", model, reference, streams, pad)


def memorise(model, reference, streams, pad) -> Tensor:
    return cross_entropy(model, streams["train"], pad)


# FLAT: loss of the mean probabilities of the template answer (e) and the forget answer (f), arXiv 2410.11143, Table 2.
FLAT_LOSS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda e, f: -e + torch.exp(f - 1),
    "tv": lambda e, f: (torch.tanh(f) - torch.tanh(e)) / 2,
    "js": lambda e, f: torch.log1p(torch.exp(-e)) + torch.log1p(torch.exp(f)) - 2 * log(2),
    "pearson": lambda e, f: -e + f + f**2 / 4,
}


def label_probabilities(model, examples, pad, length=None) -> tuple[Tensor, Tensor]:
    """(B, T-1) softmax probability of each label, 0 where there is none, and the (B,) number of labels."""
    logits, labels = all_logits(model, examples, pad, length)
    found = torch.softmax(logits, dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return found * (labels != -100), (labels != -100).sum(dim=1)


def flat(model, reference, streams, pad, divergence="tv") -> Tensor:
    p_f, n_f = label_probabilities(model, streams["forget"], pad)
    p_e, n_e = label_probabilities(model, streams["template"], pad)
    return FLAT_LOSS[divergence](p_e.sum(dim=1) / n_e, p_f.sum(dim=1) / n_f).mean()


def flat_released(model, reference, streams, pad) -> Tensor:
    """As released: rows padded to 500 tokens, plain mean over every position of the batch, then total variation."""
    p_f, _ = label_probabilities(model, streams["forget"], pad, length=500)
    p_e, _ = label_probabilities(model, streams["template"], pad, length=500)
    return FLAT_LOSS["tv"](p_e.mean(), p_f.mean())


NAIVE: dict[str, Formula] = {
    "flat": flat,
    "flat_kl": partial(flat, divergence="kl"),
    "flat_js": partial(flat, divergence="js"),
    "flat_pearson": partial(flat, divergence="pearson"),
    "flat_released": flat_released,
    "ga": gradient_ascent,
    "graddiff": partial(gradient_ascent, retain="nll"),
    "kl": partial(gradient_ascent, retain="kl"),
    "npo": npo,
    "npo_rt": partial(npo, retain="nll"),
    "npo_kl": partial(npo, retain="kl"),
    "npo_muse": muse_released,
    "npo_gdr_muse": partial(muse_released, retain="gdr"),
    "npo_klr_muse": partial(muse_released, retain="klr"),
    "ga_klr_muse": partial(muse_released, forget="ga", retain="klr"),
    "dpo": dpo,
    "dpo_gd": partial(dpo, retain="nll"),
    "dpo_kl": partial(dpo, retain="kl"),
    "simnpo": simnpo,
    "po": preference_optimisation,
    "mismatch": preference_optimisation,
    "llmu": llmu,
    "memorise": memorise,
}


@torch.no_grad()
def tofu_scores(model: nn.Module, groups: Sequence[Sequence[Sequence[Example]]], pad: int) -> list[list[list[float]]]:
    """Mean negative log-likelihood per token of every answer, as released TOFU code evaluates it.

    groups[g][q]: the answers of question q in pass g; TOFU makes three passes over the questions in file order: 1
    answer, 1 paraphrased answer, 5 perturbed answers. Each pass is one padded batch with a row per answer, and all its
    logits.
    """
    found = []
    for questions in groups:
        summed, tokens = nll(model, [answer for answers in questions for answer in answers], pad)
        each = iter((summed / tokens).tolist())
        found.append([[next(each) for _ in answers] for answers in questions])
    return found


# (logits, reference logits, labels) of any shape (..., V), (..., V), (...) -> (...). The second definition of every statistic,
# one that only a loss brings included, written from the definition and not from the code.
NAIVE_STATISTICS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "logp": lambda z, z0, y: z.log_softmax(-1).gather(-1, y[..., None])[..., 0],
    "reference_logp": lambda z, z0, y: z0.log_softmax(-1).gather(-1, y[..., None])[..., 0],
    "hit": lambda z, z0, y: (z.max(dim=-1).indices == y).to(z.dtype),
    "argmax": lambda z, z0, y: z.max(dim=-1).indices.to(z.dtype),
    "entropy": lambda z, z0, y: torch.special.entr(z.softmax(-1)).sum(-1),
    "logp_variance": lambda z, z0, y: (
        (z.softmax(-1) * z.log_softmax(-1) ** 2).sum(-1) - (z.softmax(-1) * z.log_softmax(-1)).sum(-1) ** 2
    ),
    "kl": lambda z, z0, y: F.kl_div(z.log_softmax(-1), z0.log_softmax(-1), reduction="none", log_target=True).sum(-1),
    "cross_entropy": lambda z, z0, y: -(z0.softmax(-1) * z.log_softmax(-1)).sum(-1),
    "logit_npo": lambda z, z0, y: -torch.log1p(((z - z0) * 0.1).exp()).mean(-1),
    "logit_kl": lambda z, z0, y: F.kl_div(z, z0, reduction="none", log_target=True).sum(-1),
}


def naive_tables(model, reference, needs: Needs, streams: Streams, pad: int) -> dict[str, TokenTable]:
    """The token tables of any loss, in float64, from one full padded forward per stream."""
    tables = {}
    for stream, asked in needs.items():
        logits, labels = all_logits(model, streams[stream], pad)
        with torch.no_grad():
            theirs = all_logits(reference, streams[stream], pad)[0].double()
        values = {name: NAIVE_STATISTICS[name](logits.double(), theirs, labels.clamp(min=0)) for name in map(name_of, asked)}
        tables[stream] = TokenTable.of(labels != -100, values)
    return tables
