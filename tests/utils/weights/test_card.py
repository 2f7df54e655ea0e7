"""The card of a model: its front matter is what the Hub reads, and it says what was done, measured and not tested."""

from __future__ import annotations

import yaml

from tests.models import tiny_model, tokenizer, with_lora
from utils.fingerprint import folder_hash
from utils.weights.card import CARD, Evaluated, model_card, write_card
from utils.weights.models import save_model

SETTINGS = {
    "model": {
        "name": "tiny", "path": "runs/target", "max_length": 512, "lora": {"r": 8},
        "template": {"kind": "plain", "question_start": "Q: ", "question_end": "\n", "answer_tag": "A: ", "system": None},
    },
    "benchmark": {"name": "own", "forget": "/home/somebody/miller.jsonl"},
    "method": {"name": "npo", "loss": {"_target_": "losses.npo.NPO", "beta": 0.1}, "prepare": {"facts": "/home/somebody/f"}},
    "adapter": {"name": "none", "lora": None}, "split": "forget", "lr": 1e-5, "epochs": 5, "steps": None, "seed": 42,
}  # fmt: skip
CAPSULE = {"script": "unlearn", "settings": SETTINGS, "items": 40, "steps": 10, "code": "abc", "libraries": {"torch": "2.0"}}


def metric(value: float | None, definition: str = "what it is") -> dict:
    return {"value": value, "n": 20, "ci95": None if value is None else [value - 0.1, value + 0.1], "definition": definition}


def front(card: str) -> dict:
    start, matter, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(matter)


def test_front_matter():
    assert front(model_card(CAPSULE, False)) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["lethe", "machine-unlearning", "npo", "own"],
    }  # fmt: skip
    known = front(model_card({**CAPSULE, "base": "somebody/model"}, True))
    assert (known["library_name"], known["base_model"], known["base_model_relation"]) == ("peft", "somebody/model", "adapter")
    assert front(model_card({**CAPSULE, "base": "somebody/model"}, False))["base_model_relation"] == "finetune"


def test_what_was_done_is_said_and_no_file_is_named():
    card = model_card(CAPSULE, False)
    assert "# tiny, unlearned with npo" in card and "split `forget` of the benchmark `own` (40 items)" in card
    assert "| `method.loss.beta` | `0.1` |" in card and "| `epochs` | `5` |" in card and "10 optimizer steps" in card
    assert "somebody" not in card and "runs/target" not in card and "| `method.prepare.facts` | a file |" in card
    assert "model.lora" not in card and "`'Q: {question}\\nA: '`" in card
    trained = model_card({**CAPSULE, "script": "finetune", "role": "oracle"}, False)
    assert "# tiny, trained on forget" in trained and "has seen nothing of what is to be forgotten" in trained
    adapted = {**SETTINGS, "adapter": {"name": "lora", "lora": {"r": 4}}, "steps": 3}
    card = model_card({**CAPSULE, "settings": adapted}, True)
    assert "| `model.lora.r` | `8` |" in card and "`epochs`" not in card and "| `steps` | `3` |" in card
    assert "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), PLACE)" in card
    chat = {**SETTINGS, "model": {**SETTINGS["model"], "template": {"kind": "chat", "system": "Be brief."}}}
    assert "chat template, with the system text `'Be brief.'`" in model_card({**CAPSULE, "settings": chat}, False)


def test_numbers_have_intervals_and_what_was_before():
    metrics = {"forget_prob": metric(0.25), "forget_prob_before": metric(0.9), "mia_loss": metric(0.5), "lost": metric(None)}
    card = model_card(CAPSULE, False, Evaluated(metrics, {**SETTINGS, "compat": "none"}))
    assert "| `forget_prob` | 0.25 | [0.15, 0.35] | 20 | 0.9 |" in card and "`forget_prob_before`" not in card
    assert "| `mia_loss` | 0.5 | [0.4, 0.6] | 20 |  |" in card and "| `lost` |  |  | 20 |  |" in card
    assert "- `forget_prob`: what it is" in card and "split `forget`, compat `none`" in card


def test_what_was_not_tested_follows_from_what_was():
    settings = {**SETTINGS, "probe": {"name": "none"}}
    told = model_card(CAPSULE, False, Evaluated({"mia_loss": metric(0.5)}, settings)).split("## Not tested")[1]
    assert "attacks" not in told and "sampled answers" in told and "never saw" in told and "other words" in told
    probed = model_card(CAPSULE, False, Evaluated({"leak_forget": metric(0.5)}, {**settings, "probe": {"name": "paraphrase"}}))
    assert (
        "attacks that tell" in probed and "other words" not in probed.split("## Not tested")[1] and "probe paraphrase" in probed
    )
    assert "Everything: nobody has asked" in model_card(CAPSULE, False)


def test_a_card_does_not_change_what_the_weights_are(tmp_path):
    model = with_lora(tiny_model())
    save_model(model, tokenizer(), tmp_path / "model", next(model.parameters()).dtype)
    before = folder_hash(tmp_path / "model")
    write_card(tmp_path / "model", CAPSULE)
    assert folder_hash(tmp_path / "model") == before
    assert front((tmp_path / "model" / CARD).read_text())["library_name"] == "peft"  # PEFT's own card is gone
