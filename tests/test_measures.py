"""measure=[...] on the command line: no forward pass more than without, and the benchmark's own numbers stay what they are."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
import torch

import utils.weights.reinforced
from tests.models import tiny_model, tokenizer
from tests.runs import QUICK_EVALUATION, ROOT, metrics, run, target
from utils.evaluation import scoring
from utils.runs import cli
from utils.runs.settings import SettingsError
from utils.weights.models import save_model


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    model = tiny_model(seed=5, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    save_model(model, tokenizer(), folder, torch.float32)
    return folder


def evaluate(folder, oracle, *overrides):
    oracle_folder = shutil.copytree(oracle, folder / "oracle")
    common = ("split=forget05", f"model.path={target()}", f"oracle={oracle_folder}", "trust_oracle=true", f"cache={folder}/cache")
    run(folder, "evaluate", *common, *QUICK_EVALUATION, *overrides, "out=eval")
    return metrics(folder / "eval")


def test_measures_add_numbers_and_no_forward_pass(oracle, tmp_path, monkeypatch):
    forwarded, score = [], scoring.answer_statistics
    monkeypatch.setattr(scoring, "answer_statistics", lambda e, examples, n: forwarded.append(examples) or score(e, examples, n))
    generated, generate = [], scoring.generate
    monkeypatch.setattr(scoring, "generate", lambda m, e, prompts, *r: generated.append(prompts) or generate(m, e, prompts, *r))
    calls, found = [], []
    for name, overrides in (("plain", ()), ("more", ("measure=[membership,memorization,fluency]",))):
        (tmp_path / name).mkdir()
        found.append(evaluate(tmp_path / name, oracle, *overrides))
        calls.append((sum(map(len, forwarded)), len(forwarded), sum(map(len, generated))))
        del forwarded[:], generated[:]
    assert calls[0] == calls[1] and min(calls[0]) > 0
    plain, more = found
    assert plain == {name: more[name] for name in plain}
    attacks = {f"mia_{name}" for name in ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")}
    assert attacks | {"mia_loss_privleak", "exact_memorization_forget", "extraction_strength_forget"} <= set(more)
    columns = set(pd.read_parquet(tmp_path / "more" / "eval" / "scores.parquet").columns)
    assert {"entropy", "logp_variance"} <= columns and {"entropy"} <= set(
        pd.read_parquet(tmp_path / "more" / "eval" / "oracle.parquet").columns
    )


def test_measures_can_be_taken_from_saved_scores(oracle, tmp_path, monkeypatch):
    (tmp_path / "plain").mkdir()
    plain = evaluate(tmp_path / "plain", oracle)
    monkeypatch.setattr(utils.weights.reinforced, "load_model", lambda *_: pytest.fail("a model was loaded"))
    again = ("split=forget05", *QUICK_EVALUATION, "rescore=true", "measure=[memorization]", "out=eval")
    run(tmp_path / "plain", "evaluate", *again)
    more = metrics(tmp_path / "plain" / "eval")
    assert plain == {name: more[name] for name in plain} and "exact_memorization_forget" in more


def test_a_measure_that_does_not_fit_is_refused_at_once(tmp_path):
    with pytest.raises(SettingsError, match=r"measure=\[membership\]: not with from_logs"):
        run(tmp_path, "evaluate", f"from_logs={ROOT}/README.md", "measure=[membership]")
    with pytest.raises(ValueError, match="knowundo"):
        run(tmp_path, "evaluate", "benchmark=knowundo", f"model.path={target()}", "measure=[membership]")
    assert cli.find_problem("evaluate", ["measure=[membership,memorisation]"]) == (
        "measure=memorisation: there is no such measure; did you mean memorization?"
    )
    assert cli.find_problem("evaluate", ["measure=[membership,memorization]", "measure.membership.k=0.2"]) is None
    assert cli.find_problem("evaluate", ["measure=membership"]) is None
