"""Libraries keep silent, and all processes but one."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest

from utils.runs.terminal.quiet import LIBRARIES, quieten


@pytest.fixture(autouse=True)
def nothing_was_set(monkeypatch) -> Iterator[None]:
    """No variable that counts, and afterwards no trace of what a test sets."""
    for name in (*LIBRARIES.values(), "TORCH_CPP_LOG_LEVEL", "TQDM_MININTERVAL", "LETHE_TRACEBACK", "RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def said(monkeypatch, times: int = 1) -> list[str]:
    """What is seen of records of ours and of others, at a console such as Hydra makes."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    handler, root = logging.StreamHandler(out), logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(root, "level", logging.INFO)
    for _ in range(times):
        quieten()
    for name, level in (("utils.runs.run", 20), ("absl", 20), ("accelerate", 30), ("absl", 40), ("data.files.sources", 30)):
        logging.getLogger(name).handle(logging.makeLogRecord({"name": name, "levelno": level, "msg": f"{name} at {level}"}))
    assert len(handler.filters) <= 1
    return out.getvalue().splitlines()


def test_our_lines_pass_and_errors_of_all(monkeypatch):
    assert said(monkeypatch, times=2) == ["utils.runs.run at 20", "absl at 40", "data.files.sources at 30"]


def test_one_process_speaks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert said(monkeypatch) == ["absl at 40"]


def test_warnings_and_what_libraries_print_by_themselves(monkeypatch, recwarn):
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.setenv("DATASETS_VERBOSITY", "info")  # asked for
    logging.getLogger("datasets").setLevel(logging.INFO)
    quieten()
    warnings.warn("deprecated", FutureWarning, stacklevel=1)
    assert not recwarn.list
    assert [logging.getLogger(name).level for name in ("transformers", "datasets")] == [logging.ERROR, logging.INFO]


def test_who_looks_for_a_fault_sees_all(monkeypatch, recwarn):
    monkeypatch.setenv("LETHE_TRACEBACK", "1")
    quieten()
    warnings.warn("deprecated", UserWarning, stacklevel=1)
    assert len(said(monkeypatch)) == 5 and len(recwarn.list) == 1
