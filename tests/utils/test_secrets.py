"""Secrets: told by their form or by their key, struck out of whatever is stored or printed, and nothing else is."""

from __future__ import annotations

import pytest

import utils.runs.load
from tests.runs import run, script, target
from utils.secrets import struck, without_secrets

HELD = {
    "https://me:word@host/v1": "https://***@host/v1",
    "https://word@host": "https://***@host",
    "see http://a:b@c and ftp://d:e@f": "see http://***@c and ftp://***@f",
    "https://host/v1?api_key=word&n=1": "https://host/v1?api_key=***&n=1",
    "key sk-abcdefghijklmnop1234": "key ***",
    "hf_ABCDEFGHIJKLMNOPQRST": "***",
    "ghp_ABCDEFGHIJKLMNOPQRST": "***",
    "Authorization: Bearer abcdefgh12": "Authorization: Bearer ***",
}
PLAIN = [
    "https://host:8000/v1",
    "runs/a@b",
    "task-sk-1",
    "hf_small",
    "me@host",
    "tokens=5",
    "https://host/a?n=1",
    "OPENAI_API_KEY",
]


@pytest.mark.parametrize("text", HELD)
def test_secrets_are_struck_out_by_their_form(text):
    assert struck(text) == HELD[text] and struck(HELD[text]) == HELD[text]


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text):
    assert struck(text) == text


def test_secrets_are_struck_out_by_their_key():
    kept = {
        "tokenizer": "a",
        "tokens_per_batch": 5,
        "key_variable": "OPENAI_API_KEY",
        "eos_token": "</s>",
        "seed": 1,
        "token": None,
    }
    settings = {"a": {"api_key": "x", "token": "y", "list": ["https://u:p@h", 1]}, "password": "z", **kept}
    secret = {"a": {"api_key": "***", "token": "***", "list": ["https://***@h", 1]}, "password": "***"}
    assert without_secrets(settings) == secret | kept


def test_a_run_keeps_and_prints_no_secret(tmp_path, monkeypatch, capfd):
    """From the environment a setting may hold one; what is stored says where it stood."""
    monkeypatch.setenv("HOST_OF_THE_DATA", "https://me:hunter2@host/data")
    monkeypatch.setattr("sys.argv", ["unlearn.py", "+mirror=https://me:hunter2@host/data"])

    def load(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(utils.runs.load, "load_model", load)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "unlearn", "model=tiny", f"model.path={target()}", "+mirror=${oc.env:HOST_OF_THE_DATA}", "out=run")
    stored = [(tmp_path / "run" / name).read_text(encoding="utf-8") for name in ("run.json", "config.yaml")]
    assert all("hunter2" not in text and "https://***@host/data" in text for text in stored)
    assert "hunter2" not in "".join(capfd.readouterr())


def test_an_error_prints_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("HOST_OF_THE_DATA", "https://me:hunter2@host")
    refused = script(tmp_path, "unlearn", "model=tiny", f"model.path={target()}", "data_root=${oc.env:HOST_OF_THE_DATA}")
    assert refused.code == 1 and "hunter2" not in refused.err and refused.err.startswith("data_root=https://***@host")
    assert not list(tmp_path.iterdir())
