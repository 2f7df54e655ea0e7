"""The command line of localisation: settings of unlearn.py in, a region that unlearn.py reads and a page to look at out."""

from __future__ import annotations

import pytest

from scripts.localize import main
from tests.runs import launch, losses, run, target
from utils.training import localize
from utils.training.region_file import read_region

SPLIT = ("model=tiny", "benchmark=tofu", "split=forget01", "method.region.forget=null", "method.region.retain=null")
FEW = ("benchmark.retain_rows=6", "method.region.mu_quantile=0.8", "method.region.sigma_quantile=0.3")


def call(*words: object) -> None:
    main([str(word) for word in words])


def test_localise_then_unlearn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call(*SPLIT, *FEW, "model=tiny", f"model.path={target()}", "out=region")
    assert capsys.readouterr().out.splitlines()[-2:] == ["region/region.json", "region/region.html"]
    found = read_region(tmp_path / "region" / "region.json")
    assert f"{len(found.region)} of {len(found.tensors)} tensors" in (tmp_path / "region" / "region.html").read_text()
    dials = ("method=memflex", "batch_size=2", "steps=1", "warmup=0")
    run(
        tmp_path,
        "unlearn",
        *SPLIT,
        *dials,
        "model=tiny",
        f"model.path={target()}",
        "method.region.file=region/region.json",
        "out=run",
    )
    assert read_region(tmp_path / "run" / "region.json") == found and losses(tmp_path / "run")
    # The run that localises by itself finds the same.
    run(tmp_path, "unlearn", *SPLIT, *FEW, *dials, "model=tiny", f"model.path={target()}", "out=alone")
    assert read_region(tmp_path / "alone" / "region.json") == found


def test_other_thresholds_cost_no_gradients(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call(*SPLIT, *FEW, "model=tiny", f"model.path={target()}", "out=region")
    first = read_region(tmp_path / "region" / "region.json")
    monkeypatch.setattr(localize, "mean_gradients", None)
    call(*SPLIT, "benchmark.retain_rows=6", "method.region.sigma=1e6", "model=tiny", f"model.path={target()}", "out=region")
    second = read_region(tmp_path / "region" / "region.json")
    assert second.tensors == first.tensors and second.region == () and second.sigma == 1e6
    assert "change mu and sigma, or give mu_quantile and sigma_quantile" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_measure_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (*SPLIT, *FEW, "model=tiny", f"model.path={target()}")
    call(*words, "out=one")
    done = launch(tmp_path, "scripts/localize.py", *words, "out=two", processes=2)
    assert done.code == 0, done.err
    one, two = (read_region(tmp_path / name / "region.json") for name in ("one", "two"))
    assert one.source == two.source and one.region == two.region
    for name, tensor in one.tensors.items():
        assert two.tensors[name].cosine == pytest.approx(tensor.cosine, abs=1e-5)
        assert two.tensors[name].magnitude == pytest.approx(tensor.magnitude, rel=1e-5)


@pytest.mark.parametrize(
    "words, message",
    [
        (("model.pth=x",), "model.pth=x: there is no key model.pth; did you mean model.path"),
        (("model.path=runs/nowhere", *SPLIT), "model.path=runs/nowhere does not exist"),
        (SPLIT, "model.path=null: unlearning starts from a trained model"),
        (("model.path=x", "seed=0,1"), "seed=0,1: several values are a sweep; add -m"),
        (
            ("method=ga", "model=tiny", f"model.path={target()}", *SPLIT[:3]),
            "method=ga: has no region to locate; use method=memflex",
        ),
    ],
)
def test_a_mistake_is_one_sentence(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refusal:
        call(*words)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_help_shows_how_to_call_it(capsys):
    with pytest.raises(SystemExit):
        call("--help")
    assert "method.region.file=runs/region/region.json" in capsys.readouterr().out
