"""An archive that is damaged is one sentence; one that is empty is none; texts of somebody's own stay where they are."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from tests.runs import compose_settings
from utils.studies.archive import CELLS, Archive, _may_go_along


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


def test_only_shipped_texts_go_along(tmp_path):
    (tmp_path / "mine.jsonl").touch()

    def goes(*words: str) -> bool:
        return _may_go_along(OmegaConf.to_container(compose_settings("evaluate", "model=tiny", *words), resolve=True))

    assert goes("benchmark=tofu") and goes("benchmark=own")
    assert not goes("benchmark=tofu", f"data_root={tmp_path}")
    assert not goes("benchmark=own", f"benchmark.forget={tmp_path}/mine.jsonl")
    assert not goes("benchmark=own", "benchmark.retain=hub:me/mine:train")
