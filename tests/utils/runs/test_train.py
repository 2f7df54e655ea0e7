"""What a training run is made of, and what it says about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.models import encoder
from tests.runs import compose_settings, run, target
from utils.items.rows import QA
from utils.runs import train
from utils.runs.settings import check_training
from utils.runs.train import make_streams


def test_items_that_are_left_out_are_counted(caplog):
    settings = check_training(compose_settings("unlearn", "method=ga", f"model.path={target()}"), "unlearn")
    short, long = QA("Who?", "Ana."), QA("Who was that again? " * 20, "Ana.")
    small = replace(encoder(), max_length=40)
    assert make_streams(settings, small, [long, short, long, short, short]).dropped == 2
    assert "2 of 5 items left out: their prompts fill max_length=40" in caplog.text
    caplog.clear()
    assert make_streams(settings, small, [short]).dropped == 0
    assert "left out" not in caplog.text


@pytest.mark.parametrize(("method", "made"), [("ga", 0), ("npo", 1)])
def test_a_reference_is_made_where_the_loss_compares_with_one(tmp_path, monkeypatch, method, made):
    """A resident one would double the memory."""
    make, calls = train.make_reference, []
    monkeypatch.setattr(train, "make_reference", lambda *given, **named: calls.append(given) or make(*given, **named))
    dials = ("split=forget01", "batch_size=2", "steps=1", "warmup=0", "checkpoint=none", "reference=resident", "out=run")
    run(tmp_path, "unlearn", f"model.path={target()}", f"method={method}", *dials)
    assert len(calls) == made
