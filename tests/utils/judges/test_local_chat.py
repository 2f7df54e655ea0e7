"""Replies of a model on this machine: exact draws, which depend on nothing but seed, request and attempt."""

from __future__ import annotations

import pytest
import torch
from pytest import approx

from tests.models import tiny_model, tokenizer
from tests.utils.tokens.made_tokenizers import LLAMA3, bpe
from utils.judges.endpoint import Ask
from utils.judges.local_chat import DrawPerRow, LocalChat, load_local_chat

ASKS = [Ask("Be brief.", question) for question in ("Who?", "When was that, and why?", "Where is it?")]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def replies(chat: LocalChat, asks: list[Ask] = ASKS) -> list:
    return [reply for _, reply in sorted(chat.replies(asks), key=lambda pair: pair[0])]


def test_draws_follow_the_softmax():
    """4000 rows; a share p is known to within sqrt(p / 4000), at most 0.008."""
    logits = torch.tensor([0.0, 1.0, 2.0, -30.0])
    drawn = DrawPerRow([f"row {n}" for n in range(4000)], temperature=0.5)(torch.empty(0), logits.expand(4000, 4))
    shares = torch.bincount(drawn.argmax(dim=1), minlength=4) / 4000
    assert shares.tolist() == approx(torch.softmax(logits / 0.5, dim=0).tolist(), abs=0.03)


def test_temperature_zero_takes_the_largest():
    logits = torch.tensor([[0.0, 1.0, 0.5]])
    assert DrawPerRow(["row"], 0.0)(torch.empty(0), logits) is logits


def test_replies_do_not_depend_on_their_batch(model):
    alone = replies(LocalChat(model, tokenizer(), max_tokens=8, batch_size=1))
    assert replies(LocalChat(model, tokenizer(), max_tokens=8, batch_size=3)) == alone
    assert replies(LocalChat(model, tokenizer(), max_tokens=8), ASKS[::-1]) == alone[::-1]


def test_seed_and_attempt_give_other_replies(model):
    first = replies(LocalChat(model, tokenizer(), max_tokens=8))
    other = replies(LocalChat(model, tokenizer(), max_tokens=8, seed=1))
    again = replies(LocalChat(model, tokenizer(), max_tokens=8), [Ask(a.system, a.user, 2) for a in ASKS])
    texts = [[reply.text for reply in some] for some in (first, other, again)]
    assert len({text for some in texts for text in some}) == 9


def test_temperature_zero_ignores_the_seed(model):
    first, other = (replies(LocalChat(model, tokenizer(), temperature=0, max_tokens=8, seed=seed)) for seed in (0, 1))
    assert first == other


def test_tokens_and_the_limit_are_reported(model):
    ids = tokenizer()("Be brief.\n\nWho?\n\n").input_ids
    (reply,) = replies(LocalChat(model, tokenizer(), max_tokens=3), ASKS[:1])
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cut) == (len(ids), 3, True)
    ending = tiny_model()
    ending.generation_config.eos_token_id = list(range(2048))
    (reply,) = replies(LocalChat(ending, tokenizer(), max_tokens=3), ASKS[:1])
    assert (reply.completion_tokens, reply.cut) == (1, False)


def test_a_chat_template_is_used_and_writes_its_own_bos(model):
    chatting = bpe(template=LLAMA3)
    ids = LocalChat(model, chatting)._prompt_ids(ASKS[0])
    assert ids.count(chatting.bos_token_id) == 1
    assert chatting.decode(ids).count("Be brief.\n\nWho?") == 1 and chatting.decode(ids).endswith(
        "assistant<|end_header_id|>\n\n"
    )


def test_bad_settings_and_folders_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="temperature=-1"):
        LocalChat(model, tokenizer(), temperature=-1)
    with pytest.raises(ValueError, match="holds no model"):
        load_local_chat(tmp_path, 0.9, 8, 1, 0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_local_chat(tmp_path, 0.9, 8, 1, 0)
