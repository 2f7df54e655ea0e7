"""A loaded model computes as its prompts ask for."""

from __future__ import annotations

import pytest

from tests.models import encoder
from tests.runs import compose_settings, target
from tests.utils.tokens.made_tokenizers import bpe
from utils.runs.load import load_engine
from utils.tokens.prompts import Encoder


@pytest.mark.parametrize(("compat", "hides"), [("open_unlearning", True), ("none", False)])
def test_ends_inside_a_prompt_are_hidden_where_released_code_hides_them(compat, hides):
    """Where padding is EOS, which that code tells from text by its id."""
    asking = Encoder(bpe(pad="<eos>"), encoder().template, compat=compat)
    engine = load_engine(compose_settings("evaluate", f"model.path={target()}").model, asking, "float32", 0)
    assert engine.hide == (asking.pad_id if hides else None)
