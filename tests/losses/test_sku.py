"""SKU and LLMU against numbers of their released code on fixed logits, and against its sums written out position by position."""

from __future__ import annotations

from math import e, inf, log

import pytest
import torch
from pytest import approx
from torch import Tensor

from losses.nll import NLL
from losses.sku import SKU, PublishedLLMU
from tests.tables import table
from utils.engine.table import TokenTable
from utils.engine.token_statistics import Logits, compute

README = {"forget_weight": 2.5, "mismatched_weight": 2.5}
PADDED_SKU = {"form": "sku", "padding": "sku"}

# Two rows with padding id 1, of 6 and of 4 tokens; what is counted starts at positions 2 and 1. Logits of each position.
PADDED = torch.tensor([[2, 0, 3, 4, 0, 3], [2, 3, 4, 0, 1, 1]])
STARTS, LENGTHS = (2, 1), (6, 4)
LOGITS = torch.tensor(
    [
        [[1, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 3], [0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 1], [0, 0, 0, 2, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    ],
    dtype=torch.float64,
)
P = torch.tensor([[[0.5, 0.25, 0.25], [0.7, 0.2, 0.1]]], dtype=torch.float64)
Q = torch.tensor([[[0.25, 0.5, 0.25], [0.5, 0.3, 0.2]]], dtype=torch.float64)


def answer_nll(logits: Tensor, ids: Tensor, starts, mode: str, pad: int, counted: int | None = 1) -> float:
    """Released code, one position at a time. Labels of padding count as nothing; a position counts unless its id is `counted`.

    mode paper: the same targets, divided by how many they are.
    """
    rows = []
    for z, x, start in zip(logits, ids.tolist(), starts, strict=True):
        total, scored, count = 0.0, 0, 0
        for t in range(len(x)):
            if t < start or x[t] == counted:
                continue
            count += 1
            if t + 1 < len(x) and x[t + 1] != pad:
                total -= z[t].log_softmax(-1)[x[t + 1]].item()
                scored += 1
        divisor = count if mode != "paper" else scored
        rows.append(total / divisor if divisor else 0.0)
    return sum(rows) / len(rows)


def scored(logits: Tensor, ids: Tensor, starts, lengths) -> TokenTable:
    """The table of rows of which the tokens after position `start` are the answer."""
    logp = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    place = torch.arange(ids.shape[1] - 1)
    mask = (place >= torch.tensor(starts)[:, None]) & (place < torch.tensor(lengths)[:, None] - 1)
    whole = TokenTable.of(mask, {"logp": torch.where(mask, logp, 0.0)})
    return TokenTable(mask, whole.statistics, whole.examples, whole.tokens, torch.tensor(starts) + 1)


def normal_table(p: Tensor, q: Tensor) -> TokenTable:
    """KL and cross-entropy of (B, T, V) probabilities, every position counted."""
    return from_logits(p.log(), q.log())


def from_logits(reference: Tensor, model: Tensor) -> TokenTable:
    flat = Logits(model.flatten(0, 1), torch.zeros(model.shape[:2].numel(), dtype=torch.long), reference.flatten(0, 1))
    names = ("kl", "cross_entropy")
    columns = compute(names, flat).unflatten(0, model.shape[:2])
    mask = torch.ones(model.shape[:2], dtype=torch.bool)
    return TokenTable.of(mask, dict(zip(names, columns.unbind(-1), strict=True)))


def nothing(*statistics: str) -> TokenTable:
    empty = torch.zeros(0, 0)
    return TokenTable(empty.bool(), dict.fromkeys(statistics, empty), 1.0, 1.0, torch.zeros(0, dtype=torch.long))


def forget_loss(rows: TokenTable, **options) -> float:
    parts = SKU(**options)(forget=rows, mismatched=nothing("logp"), normal=nothing("kl")).parts
    return parts["forget_nll"].item()


def forget_rows() -> TokenTable:
    return scored(LOGITS, PADDED, STARTS, LENGTHS)


def mismatched_row(form: str) -> TokenTable:
    """8 tokens, 6 of them prompt; targets 3 to 7 have 0.1, 0.2, 0.3, 2.0 and 1.0 nats."""
    nats = torch.tensor([[0.1, 0.2, 0.3, 2.0, 1.0]], dtype=torch.float64)
    return TokenTable.of(torch.tensor([[form == "sku"] * 3 + [True] * 2]), {"logp": -nats})


def test_forget_answers_as_released():
    """p_0 = 1.9048, 3.1816, 1.7314 over 4 and p_1 = 2.4327, 1.6094 over 3; with true counts over 3 and 2."""
    assert forget_loss(forget_rows(), form="sku") == approx(1.5259159488218792, abs=1e-12)
    assert forget_loss(forget_rows()) == approx(2.1468348988576693, abs=1e-12)
    ascent = PublishedLLMU(mismatched_weight=0.0, normal_weight=0.0, forget_weight=1.0, form="llmu")
    output = ascent(forget=forget_rows(), mismatched=nothing("logp"), normal=nothing("cross_entropy"))
    assert output.loss.item() == approx(-1.5259159488218792, abs=1e-12)
    assert output.parts["forget_nll"].item() == approx(1.5259159488218792, abs=1e-12)


def test_padding_that_is_counted_dilutes_short_rows():
    """Padding id 0: rows of 6 and 4 tokens, p = ln(e + 8) - 1 at every scored position: (3 p / 4 + p / 4) / 2."""
    ids = torch.tensor([[3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 0, 0]])
    logits = torch.nn.functional.one_hot(ids.roll(-1, dims=1), 9).double()
    rows, p = scored(logits, ids, (2, 2), LENGTHS), log(e + 8) - 1
    assert forget_loss(rows, **PADDED_SKU) == approx(p / 2, abs=1e-12) == approx(0.6859754328004545)
    assert forget_loss(rows) == approx(p, abs=1e-12)
    assert answer_nll(logits, ids, (2, 2), "sku", pad=0) == approx(p / 2)


def test_mismatched_answers_as_released():
    for form, wanted in {"sku": 0.6, "paper": 1.5}.items():
        output = SKU(form=form)(forget=nothing("logp"), mismatched=mismatched_row(form), normal=nothing("kl"))
        assert output.parts["mismatched_nll"].item() == approx(wanted)


@pytest.mark.parametrize("pad, counted, padding", [(1, 1, "paper"), (0, 1, "sku")], ids=["opt", "llama"])
@pytest.mark.parametrize("mode", ["sku", "paper"])
def test_random_rows_agree_with_the_sums_written_out(pad, counted, padding, mode):
    generator = torch.Generator().manual_seed(5)
    lengths, starts = (9, 4, 6, 7), (3, 2, 2, 5)
    ids = torch.randint(2, 11, (4, 9), generator=generator)
    for row, length in enumerate(lengths):
        ids[row, length:] = pad
    logits = torch.randn(4, 9, 11, generator=generator, dtype=torch.float64)
    wanted = answer_nll(logits, ids, starts, mode, pad, counted)
    options = {"form": mode, "padding": padding if mode == "sku" else "paper"}
    assert forget_loss(scored(logits, ids, starts, lengths), **options) == approx(wanted, abs=1e-12)


def test_normal_terms_as_released():
    away = normal_table(P, Q).token_mean("kl").item()
    assert away == approx(0.12920481054860397, abs=1e-10)
    output = SKU()(forget=nothing("logp"), mismatched=nothing("logp"), normal=normal_table(P, Q))
    assert output.loss.item() == -output.parts["normal_kl"].item() == approx(-0.12920481055160385, abs=1e-10)
    close = PublishedLLMU()
    kept = close(forget=nothing("logp"), mismatched=nothing("logp"), normal=normal_table(P, Q))
    assert kept.loss.item() == approx(1.0499744722371984, abs=1e-10)
    same = close(forget=nothing("logp"), mismatched=nothing("logp"), normal=normal_table(P, P))
    assert same.loss.item() == approx(0.9207696616886276, abs=1e-10)
    assert normal_table(P, P).token_mean("kl").item() == approx(0.0, abs=1e-12)


def test_sku_leaves_the_reference_along_the_gradient_on_which_llmu_returns():
    found = {}
    for name, loss in {"sku": SKU(), "llmu": PublishedLLMU()}.items():
        logits = Q.log().requires_grad_()
        answers = {"forget": nothing("logp"), "mismatched": nothing("logp")}
        loss(normal=from_logits(P.log(), logits), **answers).loss.backward()
        found[name] = logits.grad[0].flatten().tolist()
    assert found["sku"] == approx([0.125, -0.125, 0.0, 0.1, -0.05, -0.05], abs=1e-10)
    assert found["llmu"] == approx([-0.125, 0.125, 0.0, -0.1, 0.05, 0.05], abs=1e-10)


def test_impossible_tokens_give_finite_values():
    """Logits 0, -2000, 0 against equal ones: ln 2 + 2000 / 3 - ln 3, though the probability underflows; against themselves 0."""
    equal, gap = torch.zeros(1, 1, 3), torch.tensor([[[0.0, -2000.0, 0.0]]])
    assert from_logits(equal, gap)["kl"].item() == approx(log(2) + 2000 / 3 - log(3))
    assert from_logits(equal, gap)["cross_entropy"].item() == approx(log(2) + 2000 / 3)
    for values in (from_logits(gap, gap), from_logits(gap, equal)):
        assert values["kl"].isfinite().all() and values["cross_entropy"].isfinite().all()
    assert from_logits(gap, gap)["kl"].item() == 0.0


def test_a_cap_ends_the_pull_of_positions_that_are_far_away():
    """KL 0.1733 and 0.0851 at the two positions, capped at 0.1: the first pulls no more, and the log still shows what it is."""
    logits = Q.log().requires_grad_()
    output = SKU(normal_cap=0.1)(forget=nothing("logp"), mismatched=nothing("logp"), normal=from_logits(P.log(), logits))
    assert output.loss.item() == approx(-(0.1 + 0.08512283) / 2, abs=1e-7)
    assert output.parts["normal_kl"].item() == approx(0.12920481, abs=1e-7)
    output.loss.backward()
    assert logits.grad[0].tolist() == [[0.0] * 3, approx([0.1, -0.05, -0.05])]


def test_totals_of_both_recipes():
    """Forget 1.52592, mismatched 0.6, normal -0.12920 or 1.04997."""
    rest = {"mismatched": mismatched_row("sku"), "normal": normal_table(P, Q)}
    sku = lambda **weights: SKU(**weights, form="sku")(forget=forget_rows(), **rest).loss.item()  # noqa: E731
    assert sku(**README) == approx(5.185585061503094, abs=1e-10)
    assert sku() == approx(1.2337531638593358, abs=1e-10)
    assert PublishedLLMU(form="llmu")(forget=forget_rows(), **rest).loss.item() == approx(0.8870164978262588, abs=1e-10)


def test_every_row_weighs_the_same_but_in_a_task_vector_every_token():
    """1 nat over one token, 3 nats over each of three: rows (1 + 3) / 2, tokens (1 + 9) / 4."""
    rows = table([e**-1], [e**-3] * 3)
    assert forget_loss(rows) == approx(2.0)
    output = NLL("forget")(forget=rows)
    assert output.loss.item() == output.parts["forget_nll"].item() == approx(2.5)


def test_only_padding_that_is_counted_depends_on_the_micro_batch():
    assert SKU(**PADDED_SKU).micro_batch_dependent
    assert not SKU(form="sku").micro_batch_dependent and not PublishedLLMU().micro_batch_dependent
    empty = SKU(**PADDED_SKU)(forget=nothing("logp"), mismatched=nothing("logp"), normal=nothing("kl"))
    assert empty.loss.item() == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "skuu"}, "form=skuu: .*did you mean sku"),
        ({"form": "llmu"}, "form=llmu: write one of paper, sku"),
        ({"forget_weight": -1}, "forget_weight=-1: write a number from 0"),
        ({"normal_weight": inf}, "normal_weight=inf: write"),
        ({"padding": "sku"}, "padding=sku: write paper, or form=sku beside it"),
        ({"padding": "no"}, "padding=no: write one of paper, sku"),
        ({"normal_cap": 0}, "normal_cap=0: write a number above 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SKU(**options)
