"""What goes to the Hub, and that nothing goes by accident; the Hub itself is a stand-in here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

from scripts import push
from tests.models import tiny_model, tokenizer, with_lora
from tests.utils.weights.test_card import CAPSULE, SETTINGS, metric
from utils.files import write_json
from utils.fingerprint import folder_hash
from utils.weights.models import save_model


def write_run(folder: Path, adapter: bool = False, **facts) -> Path:
    """A finished run; its adapter lies on a local folder."""
    model = with_lora(tiny_model()) if adapter else tiny_model()
    if adapter:
        model.config.save_pretrained(folder.parent / "base")
        model.active_peft_config.base_model_name_or_path = str(folder.parent / "base")
    save_model(model, tokenizer(), folder / "model", torch.float32)
    known = {"status": "finished", "started": "2026-01-01T00:00:00+00:00", "weights": folder_hash(folder / "model")}
    write_json(folder / "run.json", {**CAPSULE, **known, **facts})
    return folder


def evaluate(run: Path, folder: Path, started: str = "2026-01-02T00:00:00+00:00") -> Path:
    settings = {**SETTINGS, "model": {**SETTINGS["model"], "path": str(run)}}
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"script": "evaluate", "status": "finished", "started": started, "settings": settings})
    write_json(folder / "metrics.json", {"forget_prob": metric(0.25)})
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "npo")


class Hub:
    """Stands for HfApi: keeps what it is asked to do."""

    def __init__(self, token: str) -> None:
        self.done = [token]
        Hub.last = self

    def create_repo(self, repo: str, private: bool, exist_ok: bool) -> None:
        if repo == "nobody/x":
            raise OSError("no such owner")
        self.done.append((repo, private))

    def create_commit(self, repo: str, operations: list, commit_message: str) -> object:
        self.files = {one.path_in_repo: one.path_or_fileobj for one in operations}
        return type("Made", (), {"commit_url": f"hub/{repo}"})()


def test_by_default_nothing_is_sent(run, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: pytest.fail("the Hub was called"))
    evaluate(run, run / "eval")
    before = (run / "model" / "config.json").stat().st_mtime_ns, sorted(path.name for path in (run / "model").iterdir())
    push.main([str(run), "repo=me/npo"])
    told = capsys.readouterr().out
    assert "to me/npo (private" in told and "model.safetensors" in told and " bytes" in told
    assert "| `forget_prob` | 0.25 | [0.15, 0.35] | 20 |" in told and "nothing was uploaded" in told
    assert before == ((run / "model" / "config.json").stat().st_mtime_ns, sorted(p.name for p in (run / "model").iterdir()))


def test_what_is_sent(run, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "from the environment")
    other = evaluate(run, run.parent / "elsewhere")
    push.main([str(run), "repo=me/npo", "push=true", "private=false", f"evaluation={other}"])
    assert Hub.last.done == ["from the environment", ("me/npo", False)]
    assert set(Hub.last.files) == {"README.md", *(path.name for path in (run / "model").iterdir())}
    assert b"`forget_prob` | 0.25" in Hub.last.files["README.md"] and "uploaded: hub/me/npo" in capsys.readouterr().out


def test_an_adapter_goes_with_the_name_of_its_base(tmp_path, monkeypatch):
    run = write_run(tmp_path / "lora", adapter=True)
    with pytest.raises(ValueError, match=r"its adapter belongs on .*base, which is on no Hub; .* base=OWNER/NAME"):
        push.prepare(run, {"repo": "me/npo"})
    what = push.prepare(run, {"repo": "me/npo", "base": "somebody/model"})
    assert json.loads(what.files["adapter_config.json"])["base_model_name_or_path"] == "somebody/model"
    assert b"base_model: somebody/model" in what.files["README.md"] and "base.json" not in what.files
    assert str(tmp_path).encode() not in b"".join(file for file in what.files.values() if isinstance(file, bytes))


REFUSED = [
    (
        ["repo=me/npo", "token=hf_abcdefghijklmnopqrst"],
        r"^token=\*\*\*: the token comes from the environment alone; set HF_TOKEN",
    ),
    (["rep=me/npo"], "rep=me/npo: there is no such key; did you mean repo"),
    (["repo=npo"], "repo=npo: write it as OWNER/NAME"),
    (["repo=me/npo", "push=yes"], "push=yes: write true or false"),
    ([], "repo: is missing"),
    (["repo=me/npo", "evaluation=nowhere"], "evaluation=nowhere: holds no finished evaluation"),
    (["repo=me/npo", "push=true"], "push=true: HF_TOKEN is not set"),
]


@pytest.mark.parametrize("words, message", REFUSED)
def test_mistakes_are_one_sentence(run, words, message, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(SystemExit) as stopped:
        push.main([str(run), *words])
    assert re.search(message, str(stopped.value))


def test_what_is_no_such_run_is_refused(run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds no finished run of finetune.py or unlearn.py"):
        push.prepare(tmp_path, {"repo": "me/npo"})
    other = write_run(tmp_path / "other")
    with pytest.raises(ValueError, match=r"evaluation=.*: is of .*other, not of"):
        push.prepare(run, {"repo": "me/npo", "evaluation": str(evaluate(other, tmp_path / "of_other"))})
    evaluate(run, run / "eval", started="2025-01-01T00:00:00+00:00")
    with pytest.raises(ValueError, match="eval: is older than the model, which was made again since"):
        push.prepare(run, {"repo": "me/npo"})
    (run / "model" / "model.safetensors").write_bytes((run / "model" / "model.safetensors").read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="its weights are not those that the run"):
        push.prepare(run, {"repo": "me/npo"})


def test_what_the_hub_refuses_is_one_sentence(run, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "x")
    assert issubclass(HfHubHTTPError, OSError)
    with pytest.raises(SystemExit, match=r"repo=nobody/x: it did not get there \(no such owner\); check name, token and rights"):
        push.main([str(run), "repo=nobody/x", "push=true"])
