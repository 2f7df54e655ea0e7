"""An archive that is damaged is one sentence; one that is empty is none."""

from __future__ import annotations

import pytest

from utils.studies.archive import CELLS, Archive


@pytest.mark.parametrize(
    "content", ['{"folder": "a", "metrics": {}}\n[1]\n', '{}\n{"metrics": {"m": {"definition": 0}}}\n', "{}\n{}\n"]
)
def test_a_damaged_archive_is_one_sentence(tmp_path, content):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / CELLS).write_text(content)
    with pytest.raises(ValueError, match=f"{CELLS}: is no archive of a study") as refusal:
        Archive.of("study", tmp_path)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("content", [None, ""])
def test_an_empty_archive_holds_nothing(tmp_path, content):
    (tmp_path / "study").mkdir()
    if content is not None:
        (tmp_path / "study" / CELLS).write_text(content)
    assert not list(Archive.of("study", tmp_path))
