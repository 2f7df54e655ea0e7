"""The mutants of a small source are those that a person would list, and a folder of tests notices those that it checks."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import pytest

from scripts.dev import mutants
from utils import ROOT

SOURCE = b'''"""One + 1 is left alone, as is every text."""
import logging
LIMIT: int = 3
def short(words: list[str], most: int = LIMIT) -> bool:
    """Whether there are fewer than 3 of them: == or <."""
    if not words:
        raise ValueError(f"no words, {1 + 1} times")
    logging.info("there are %d", len(words) - 1)
    kept = [word for word in words if word != "the"]
    for word in kept:
        if word == "\xc3\xa9t\xc3\xa9" and most > 1: continue
        kept.append(-len(word))
    return len(kept) <= most
'''
EXPECTED = """
LIMIT: int = 4|LIMIT: int = 2|if not (not words):|if True:|if False:|if words:|pass
kept = [word for word in words if not (word != "the")]|kept = [word for word in words if True]
kept = [word for word in words if False]|kept = [word for word in words if word == "the"]
if not (word == "été" and most > 1): continue|if True: continue|if False: continue|if word == "été" or most > 1: continue
if word != "été" and most > 1: continue|if word == "été" and most >= 1: continue|if word == "été" and most <= 1: continue
if word == "été" and most > 2: continue|if word == "été" and most > 0: continue|if word == "été" and most > 1: pass
pass|kept.append(len(word))
return None|return len(kept) < most|return len(kept) > most
"""


def test_mutants_of_a_small_source():
    found = list(mutants.mutants("words.py", SOURCE))
    after = [mutant.name(SOURCE).partition("  ->  ")[2] for mutant in found]
    assert after == EXPECTED.strip().replace("\n", "|").split("|")
    for mutant in found:
        assert mutant.speaks(SOURCE)
        before, after = SOURCE.splitlines(), mutant.apply(SOURCE).splitlines()
        assert [number for number in range(len(before)) if before[number] != after[number]] == [mutant.line - 1]
        assert mutant.function == ("<module>" if mutant.line == 3 else "short")
    assert not mutants.Mutant("words.py", "<module>", 1, 3, 4, "0").speaks(SOURCE.replace(b'"""', b"# ", 1))


@pytest.fixture
def tree(tmp_path):
    """losses/near.py with one function, half of which is tested."""
    root = tmp_path / "tree"
    for folder in ("losses", "tests/losses", "tests/other"):
        (root / folder).mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    (root / "losses" / "near.py").write_text("def near(a, b):\n    return a - b < 2\n")
    test = "from losses.near import near\n\n\ndef test_near():\n    assert near(3, 2)\n    assert not near(9, 2)\n"
    (root / "tests" / "losses" / "test_near.py").write_text(test)
    (root / "tests" / "losses" / "test_far.py").write_text("def test_far():\n    assert False\n")
    (root / "tests" / "other" / "test_all.py").write_text("from losses import near\n")
    (root / "tests" / "other" / "test_none.py").write_text("")
    return root


def test_draws_are_steady(tree):
    drawn = list(mutants.draw(tree, 0, 100))
    assert list(mutants.draw(tree, 0, 3)) == drawn[:3]
    assert list(mutants.draw(tree, 1, 100)) != drawn and sorted(mutants.draw(tree, 1, 100)) == sorted(drawn)
    (tree / "losses" / "near.py").write_text(
        "\n\ndef near(a, b):\n    return a - b < 2\n\n\ndef far(a, b):\n    return not near(a, b)\n"
    )
    assert [name for name in mutants.draw(tree, 0, 100) if " near: " in name] == drawn
    assert not mutants.draw(tree, 0, 100, "losses/far")


def test_its_own_tests_come_first(tree):
    mutant = next(iter(mutants.draw(tree, 0, 1).values()))
    own, folder, other = "tests/losses/test_near.py", "tests/losses/test_far.py", "tests/other/test_all.py"
    far = "tests/other/test_none.py"
    reached = {reach: mutants.choose_tests(tree, mutant, reach, 8) for reach in mutants.REACH}
    assert reached == {"file": [own], "folder": [own, folder], "near": [own, other, folder], "all": [own, other, folder, far]}
    assert mutants.choose_tests(tree, mutant, "near", 1) == [own]


def asked(tree, **changes) -> argparse.Namespace:
    defaults = {"seed": 0, "count": 100, "only": "", "reach": "file", "files": 8, "seconds": 30, "survivors": False}
    return argparse.Namespace(folder=tree.parent, **{**defaults, **changes})


def test_what_is_known_is_not_tried_again(tree, monkeypatch, capsys):
    """The boundary is not tested. Tests run here, without a process of their own."""
    tried = []

    def run_tests(root, tests, seconds):
        names: dict[str, Any] = {}
        source = (root / "losses" / "near.py").read_text()
        tried.append(source)
        exec(source, names)
        right = names["near"](3, 2) and not names["near"](9, 2)
        return ("passed", "") if right else ("failed", f"{tests[0]}::test_near")

    monkeypatch.setattr(mutants, "run_tests", run_tests)
    before = (tree / "losses" / "near.py").read_text()
    first = mutants.try_all(tree, asked(tree, count=4))
    results = mutants.try_all(tree, asked(tree))
    assert tried.count(before) == 2 and len(set(tried)) == len(tried) - 1 == 7  # in the end as it is, each time
    assert results == {**first, **results}
    survived = {name.partition("->  ")[2] for name, outcome in results.items() if outcome == "survived"}
    assert survived == {"return a - b <= 2", "return a - b < 3"}
    assert mutants.summary(results).splitlines()[1].split() == ["losses", "4", "0", "2"]
    assert (tree / "losses" / "near.py").read_text() == before
    mutants.try_all(tree, asked(tree, survivors=True))
    assert len(tried) == 8 + 3


def test_what_fails_anyway_has_noticed_nothing(tree, monkeypatch):
    monkeypatch.setattr(mutants, "run_tests", lambda root, tests, seconds: ("failed", f"{tests[0]}::test_near[0 1]"))
    assert set(mutants.try_all(tree, asked(tree)).values()) == {"survived"}


@pytest.mark.slow
def test_a_folder_of_tests_notices_what_it_checks(tree):
    """With pytest, in forks of a process of its own; a mutant or two never end."""
    (tree / "losses" / "near.py").write_text("def near(a, b):\n    while b < 0:\n        b += 1\n    return a - b < 2\n")
    code = f"""
import pathlib, pytest
from scripts.dev import mutants
from tests.scripts.test_mutants import asked
tree = pathlib.Path({str(tree)!r})
print(mutants.summary(mutants.try_all(tree, asked(tree, seconds=5))))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = {line.partition("->  ")[2].partition(" | ")[0]: line for line in done.stdout.splitlines() if " | " in line}
    assert " timed out " in told["while b >= 0:"]
    assert " noticed " in told["return None"] and "tests/losses/test_near.py::test_near" in told["return None"]
    assert " survived " in told["return a - b <= 2"]
    assert "fails without any mutant" not in done.stdout
