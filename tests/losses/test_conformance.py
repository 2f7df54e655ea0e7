"""What every method promises, whatever its equation. A new file in config/method is tested by being there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from pytest import approx

from tests.losses.cases import METHOD_FILES, METHODS, method_config, method_loss, pick, random_streams, rows_of
from tests.losses.descent import FreeModel
from tests.naive import NAIVE_STATISTICS
from utils.engine.loss import STREAMS, check_needs, parts_of
from utils.engine.table import TokenTable
from utils.engine.token_statistics import name_of, need_reference_logits
from utils.runs.recipes import recipe_settings
from utils.training.method import Templates

every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_config_is_short_sourced_and_complete(name):
    lines = METHOD_FILES[name].read_text().splitlines()
    config = method_config(name)
    _, script, *words = lines[0].removeprefix("# ").split()
    assert lines[0].startswith("# python ") and script in ("unlearn.py", "finetune.py")
    said = dict(word.split("=", 1) for word in words if not word.startswith("-"))
    recipe = recipe_settings(said["recipe"], Path(script).stem, said) if "recipe" in said else {}
    assert (recipe | said)["method"] == name
    assert len(lines) <= 18
    assert config.name == name
    unsourced = [line for line in lines if re.match(r"\s*\w+: [\d.]+", line) and "# " not in line]
    assert not unsourced
    uses_template = "template" in method_loss(name).needs
    assert ("templates" in config) == uses_template
    if uses_template:
        Templates(**config.templates)


@every_method
def test_needs_are_streams_and_statistics_that_exist(name):
    loss = method_loss(name)
    check_needs(loss.needs)
    assert loss.needs and isinstance(loss.micro_batch_dependent, bool) and set(loss.repels) <= set(STREAMS)
    assert hash(loss) == hash(method_loss(name)), "a loss is a frozen value: equal configs give equal losses"


@every_method
def test_value_and_parts_are_finite_scalars(name):
    loss = method_loss(name)
    output = loss(**random_streams(loss))
    assert output.parts
    for value in (output.loss, *output.parts.values()):
        assert value.shape == () and value.isfinite()
    assert parts_of(loss) == ("loss", *output.parts)


@every_method
@pytest.mark.parametrize("logit", [1000.0, -1000.0], ids=["certain", "impossible"])
def test_extreme_probabilities_stay_finite_in_float32(name, logit):
    """Of 6 words the true one has this logit and the others 0; to the reference all are alike."""
    loss = method_loss(name)
    logits = torch.tensor([logit, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64).expand(2, 50, 6)
    extreme = (logits, torch.zeros_like(logits), torch.zeros(2, 50, dtype=torch.long))
    streams, leaves = {}, []
    for stream, asked in loss.needs.items():
        columns = {key: NAIVE_STATISTICS[key](*extreme).float().requires_grad_() for key in map(name_of, asked)}
        streams[stream] = TokenTable.of(torch.ones(2, 50, dtype=torch.bool), columns)
        leaves.append(columns[name_of(asked[0])])
    output = loss(**streams)
    assert output.loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(output.loss, leaves))


@every_method
def test_gradient_reaches_answer_tokens_only(name):
    loss = method_loss(name)
    streams = random_streams(loss)
    loss(**streams).loss.backward()
    for stream, asked in loss.needs.items():
        for statistic in map(name_of, asked):
            gradient, mask = streams[stream][statistic].grad, streams[stream].mask
            assert (gradient[mask] != 0).all(), f"{stream}.{statistic} is asked for but not used"
            assert (gradient[~mask] == 0).all()


@every_method
def test_right_padding_changes_nothing(name):
    loss = method_loss(name)
    streams = random_streams(loss)
    padded = {}
    for stream, whole in streams.items():
        extra = whole.mask.shape[0], 3
        mask = torch.cat([whole.mask, torch.zeros(extra, dtype=torch.bool)], dim=1)
        junk = torch.full(extra, -2.0, dtype=torch.float64)
        padded[stream] = TokenTable.of(mask, {key: torch.cat([v, junk], dim=1) for key, v in whole.statistics.items()})
    assert_same(loss(**padded), loss(**streams))


@every_method
def test_row_order_changes_nothing(name):
    loss = method_loss(name)
    streams = random_streams(loss)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_same(loss(**{stream: rows_of(whole, order) for stream, whole in streams.items()}), loss(**streams))


@every_method
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 3), (4, 1)], ids=str)
def test_micro_batches_add_up_to_the_whole_batch(name, sizes):
    loss = method_loss(name)
    if loss.micro_batch_dependent:
        pytest.skip("declares that it depends on the micro-batch")
    streams = random_streams(loss)
    outputs = [
        loss(**{stream: rows_of(whole, index) for stream, whole in streams.items()}) for index in torch.arange(5).split(sizes)
    ]
    whole = loss(**streams)
    assert sum(output.loss.item() for output in outputs) == approx(whole.loss.item(), abs=1e-12)
    for part, value in whole.parts.items():
        assert sum(output.parts[part].item() for output in outputs) == approx(value.item(), abs=1e-12)


@every_method
def test_only_a_loss_that_depends_on_the_micro_batch_says_so(name):
    loss = method_loss(name)
    streams = random_streams(loss)
    parts = [loss(**{stream: rows_of(whole, torch.tensor([row])) for stream, whole in streams.items()}) for row in range(5)]
    adds_up = sum(part.loss.item() for part in parts) == approx(loss(**streams).loss.item(), abs=1e-12)
    assert adds_up != loss.micro_batch_dependent


@every_method
def test_descends_and_moves_every_stream_the_right_way(name):
    """50 steps of SGD on free logits: answers get more likely and KL to the reference falls, but the other way round for
    streams that the method repels."""
    loss = method_loss(name)
    model = FreeModel(loss.needs)
    with torch.no_grad():
        before, first = model.streams(), loss(**pick(model.streams(), loss)).loss
    for _ in range(50):
        model.step(loss(**pick(model.streams(), loss)).loss, rate=0.5)
    with torch.no_grad():
        after, last = model.streams(), loss(**pick(model.streams(), loss)).loss
    assert last.isfinite() and last < first
    for stream, asked in loss.needs.items():
        distances = [name_of(one) for one in asked if need_reference_logits([one])]
        if "logp" not in asked and not distances:
            continue  # a statistic of its own, which says nothing about directions
        read, sign = ("logp", 1) if "logp" in asked else (distances[0], -1)
        moved = after[stream].mean(read) - before[stream].mean(read)
        assert ((-sign if stream in loss.repels else sign) * moved > 0).all(), stream


def assert_same(first, second):
    assert first.loss.item() == approx(second.loss.item(), abs=1e-12)
    parts = [{name: value.item() for name, value in output.parts.items()} for output in (first, second)]
    assert parts[0] == approx(parts[1], abs=1e-12)
