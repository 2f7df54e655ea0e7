"""docs/own_data.md, line by line: every command of the page is run, one after the other, with a small model and few questions."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path

import pytest

from data.files.sources import FIXTURES
from scripts import report, sequence
from tests.runs import SMALL, metrics, run, script, target
from utils import ROOT

PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
ASK = (
    "benchmark=own",
    "benchmark.rows=2",
    "benchmark.forget_rows=2",
    "benchmark.max_new_tokens=4",
    "benchmark.utility_limit=2",
    "resamples=100",
)
QUICK = {"finetune": ("steps=2", *SMALL), "unlearn": ("steps=1", "checkpoint=none"), "evaluate": ASK}
IN_ITS_PLACE = {"model=qwen2.5-1.5b": f"model=tiny model.path={target()} override_model=true"}  # no network here


def commands() -> list[list[str]]:
    """The words of every command, in the order of the page."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).splitlines()
    for word, instead in IN_ITS_PLACE.items():
        lines = [line.replace(word, instead) for line in lines]
    return [shlex.split(line)[1:] for line in lines]


def files(folder: Path) -> None:
    """What the page takes for granted: files of a user's, in formats that the shipped example is not in."""
    shipped = (FIXTURES / "own" / "forget.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, rows in {"customer": shipped, "monday": shipped[:3], "tuesday": shipped[3:6]}.items():
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    (folder / "tickets.csv").write_text("subject,reply\nWho came?,Ann.\nWhen?,At noon.\n", encoding="utf-8")
    for name, here in {"retain.csv": "kept.csv", "holdout.json": "unseen.json"}.items():
        (folder / here).write_bytes((FIXTURES / "own" / name).read_bytes())
    (folder / "polite.py").write_text("def polite(question, truth, generation):\n    return 'please' in generation\n")


def call(folder: Path, name: str, overrides: list[str]) -> None:
    words = [*overrides, f"cache={folder}/cache", *QUICK[name]]
    run(folder, name, *dict.fromkeys(words))


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    for path, *words in commands():
        name = Path(path).stem
        if name == "report":
            report.main(words)
        elif name == "sequence":
            monkeypatch.setattr(sequence, "run_sequence", partial(sequence.run_sequence, call=partial(call, tmp_path)))
            sequence.main(words)
        else:
            if (tmp_path / "runs/forgotten").exists() and "out=runs/forgotten" in words:
                words = [*words, "overwrite=true"]  # the page forgets twice, with a model of one's own and with the example
            finished = script(
                tmp_path, name, *words, *[word for word in QUICK[name] if word not in words], f"cache={tmp_path}/cache"
            )
            assert finished.code == 0, (words, finished.err)
    said = capsys.readouterr().out
    assert "Still there: of 2 answers" in said and "Not tested: " in said
    numbers = metrics(tmp_path / "runs/forgotten/eval")
    assert {"forget_recited_before", "mia_loss", "retain_prob", "arc_easy_acc", "piqa_acc_before"} <= numbers.keys()
    assert {"polite_forget", "polite_forget_before"} <= metrics(tmp_path / "runs/kept/polite").keys()
    assert "leak" in " ".join(metrics(tmp_path / "runs/kept/eval"))
    assert "after tuesday.jsonl" in (tmp_path / "runs/requests/sequence.md").read_text()
