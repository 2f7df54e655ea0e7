"""scripts/reproduce: each script is a name for studies; what the environment says goes to them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from utils import ROOT
from utils.studies.study import studies

# The interpreter of these scripts: it writes down what studies are asked for, and makes nothing.
PYTHON = """#!/usr/bin/env bash
case "$1" in
  -c) echo "$SAID" ;;
  scripts/study.py) shift && echo "$*" >> "$SAID/studies" ;;
esac
"""
PLAN = "plan=true"
CASES = [
    ("completion.sh", {}, [], ["tiny/completion"]),
    ("completion.sh", {"MODEL": "opt-2.7b"}, ["DIR"], ["flat/book_opt-2.7b common.data_root=DIR"]),
    ("knowundo.sh", {}, [], ["knowundo_tiny"]),
    ("knowundo.sh", {"MODEL": "llama2-7b-chat"}, ["DIR"], [f"knowundo/table_{k} common.data_root=DIR" for k in (2, 3)]),
    ("knowundo.sh", {"MODEL": "qwen1.5-7b-chat", "SEEDS": "0,1"}, [], [f"knowundo/table_{k} seeds=[0,1]" for k in (4, 6)]),
    ("meow.sh", {"LAUNCHER": "joblib"}, [], ["tiny/meow launcher=joblib"]),
    ("meow.sh", {"MODEL": "phi-1.5"}, [], [f"meow/phi-1.5_forget{k}" for k in ("01", "05", "10")]),
    (
        "meow.sh",
        {"MODEL": "llama2-7b-chat"},
        [],
        [*(f"meow/llama2-7b-chat_forget{k}" for k in ("01", "05", "10")), "meow/nlu", "meow/nlg"],
    ),
    ("muse.sh", {}, [], ["tiny/muse_news"]),
    ("muse.sh", {}, ["books"], ["tiny/muse_books"]),
    ("muse.sh", {"MODEL": "llama2-7b", "NPROC": "8"}, ["books"], ["muse/table_3_books processes=8"]),
    ("sku.sh", {}, [], ["tiny/sku"]),
    ("sku.sh", {}, ["hub"], ["sku/opt-2.7b common.data_root=hub"]),
    ("sku.sh", {"MODEL": "llama2-13b"}, [], ["sku/llama2-13b"]),
]


DIALS = ("MODEL", "DATA_ROOT", "SEEDS", "NPROC", "LAUNCHER", "CORPUS")


def called(folder: Path, script: str, dials: dict[str, str], words: list[str]) -> tuple[int, str, list[str]]:
    """Exit code and standard error of a script, and the studies that it asks for with their words."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    mine = {key: value for key, value in os.environ.items() if key not in DIALS}
    env = {**mine, "PATH": f"{python.parent}:{os.environ['PATH']}", "SAID": str(folder), "VIRTUAL_ENV": str(folder), **dials}
    command = ["bash", str(ROOT / "scripts" / "reproduce" / script), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    said = folder / "studies"
    return done.returncode, done.stderr.strip(), said.read_text().splitlines() if said.is_file() else []


@pytest.mark.parametrize(("script", "dials", "words", "expected"), CASES)
def test_a_script_is_a_name_for_studies(script, dials, words, expected, tmp_path):
    code, told, asked = called(tmp_path, script, dials, [*words, PLAN])
    assert code == 0, told
    assert asked == [f"{line} {PLAN}" for line in expected]
    assert {line.split()[0] for line in asked} <= {*studies()}


def test_a_model_without_a_study_is_named(tmp_path):
    code, told, asked = called(tmp_path, "sku.sh", {"MODEL": "opt-1.3b"}, [PLAN])
    assert code != 0 and not asked
    assert told == "MODEL=opt-1.3b: choose one of tiny opt-2.7b llama2-7b llama2-13b"


@pytest.mark.parametrize("script", sorted((ROOT / "scripts" / "reproduce").glob("*.sh")), ids=lambda path: path.name)
def test_every_study_that_a_script_names_is_there(script):
    named = re.findall(r"\bstudy \"?([\w/.${}:-]+)", script.read_text("utf-8"))
    known = [name for name in named if "$" not in name]
    assert named and {*known} <= {*studies()}
    assert all(any(one.startswith(name.partition("$")[0]) for one in studies()) for name in named)
