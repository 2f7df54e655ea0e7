"""Localisation: the rule by hand, gradients against a plain loop, corruption by its definition, and what reaches training."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from data.files.sources import FIXTURES
from tests.models import ITEMS, RETAIN, encoder, moved, tiny_model, tokenizer, with_lora
from tests.naive import cross_entropy
from tests.runs import compose_settings, losses, run, target, weights
from utils.engine.engine import Engine
from utils.files import read_json
from utils.fingerprint import weights_hash
from utils.items.benchmark import Benchmark
from utils.tokens.example import Example
from utils.tokens.prompts import Encoder, Template
from utils.tokens.rendering import special_ids
from utils.training import localize
from utils.training.localize import GradientRegion, Thresholds, compare, corrupted, encoded, mean_gradients
from utils.training.region_file import read_region

PAD, EOS = tokenizer().pad_token_id, tokenizer().eos_token_id
LEARNT = Encoder(tokenizer(), Template("plain", question_end="\n", eos=True), 96)

# Gradients of four tensors in single passes, in units of 1e-3: two of the forget scope, three of the retain scope.
PASSES = {
    "T0": ([(1, 3), (3, 1)], [(1, 1), (2, 2), (3, 3.6)]),
    "T1": ([(1, 0), (0, 1)], [(-1, 0), (-2, 0), (-3, 0)]),
    "T2": ([(2, -2), (2, 0)], [(1, 2), (2, 4), (3, 0)]),
    "T3": ([(1, 1), (-1, -1)], [(1, 1), (1, 1), (1, 1)]),
}


class Toy(Benchmark):
    """Two splits."""

    name = "toy"

    def training(self, split: str):
        if split not in ("forget", "retain"):
            raise ValueError(f"split={split}: toy has forget and retain")
        return list(ITEMS if split == "forget" else RETAIN)

    def retain_split(self, split: str) -> str:
        return "retain"


def by_hand() -> dict:
    forget, retain = (
        {name: torch.tensor(passes[k], dtype=torch.float64).mean(dim=0) * 1e-3 for name, passes in PASSES.items()} for k in (0, 1)
    )
    return compare(forget, retain)


def test_selection_by_hand():
    """T0 points the same way, T1 and T3 are too small (T3 only on average: in single passes it is large)."""
    tensors = by_hand()
    cosines = [0.9988681377244377, -0.7071067811865475, 0.316227766016838, 0.0]
    assert [tensor.cosine for tensor in tensors.values()] == pytest.approx(cosines, abs=1e-12)
    assert [tensor.magnitude for tensor in tensors.values()] == pytest.approx([2.0e-3, 5.0e-4, 1.5e-3, 0.0], abs=1e-15)
    assert Thresholds(0.92, 6e-4).located(tensors) == ["T2"]


def test_both_thresholds_are_strict():
    tensors = by_hand()
    assert Thresholds(tensors["T2"].cosine, 6e-4).located(tensors) == []
    assert Thresholds(0.92, tensors["T2"].magnitude).located(tensors) == []
    assert Thresholds(1.1, 0.0).located(tensors) == ["T0", "T1", "T2"]


def test_quantiles_take_the_place_of_thresholds():
    """Cosines sorted: -0.707, 0, 0.316, 0.999: their median is 0.158; magnitudes 0, 5e-4, 1.5e-3, 2e-3: 1e-3."""
    rule, tensors = Thresholds(mu_quantile=0.5, sigma_quantile=0.5), by_hand()
    assert rule.thresholds(tensors) == pytest.approx((0.158113883008419, 1e-3))
    assert rule.located(tensors) == []
    assert Thresholds(mu_quantile=1.0, sigma_quantile=0.5).located(tensors) == ["T2"]
    assert Thresholds(mu_quantile=0.5, sigma=0.0).located(tensors) == ["T1"]


def wise(name: str) -> nn.Module:
    """A model with an adapter that has been trained, a full one, and one whose head is its embedding."""
    if name == "adapter":
        return moved(with_lora(tiny_model(), dropout=0.5)).train()
    return tiny_model(tie_word_embeddings=name == "tied")


def one_at_a_time(model: nn.Module, examples: list[Example]) -> dict[str, Tensor]:
    """Mean of the gradients of single samples, as released code takes it: one row, one backward pass."""
    model = copy.deepcopy(model).eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in trained.items()}
    for example in examples:
        model.zero_grad()
        cross_entropy(model, [example], PAD).backward()
        for name, parameter in trained.items():
            sums[name] += parameter.grad
    return {name: gradient / len(examples) for name, gradient in sums.items()}


@pytest.mark.parametrize("size", [1, 2, 16])
@pytest.mark.parametrize("kind", ["adapter", "full", "tied"])
def test_gradients_equal_one_sample_at_a_time(kind, size, monkeypatch):
    monkeypatch.setattr(localize, "largest_micro_batch", lambda *_, **__: size)
    model = wise(kind)
    was_training = model.training
    examples = [corrupted(e, tokenizer(), 1, index=k) for k, e in enumerate(encoded(encoder(), ITEMS))]
    examples[1] = corrupted(encoded(encoder(), ITEMS)[1], tokenizer(), 1, labels_only=True)
    found, wanted = mean_gradients(Engine(model, PAD), examples), one_at_a_time(model, examples)
    assert list(found) == list(wanted) and all(gradient.dtype == torch.float32 for gradient in found.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item(), msg=name)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training == was_training
    if kind == "adapter":
        assert all(".lora_" in name for name in found) and len(found) == 2 * 7 * 2


def test_no_two_gradients_are_held_at_once():
    """Whenever a gradient has been added, those that came before it are gone already."""
    model, held = wise("full"), []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _: held.append(sum(other.grad is not None for other in model.parameters()))
        )
    mean_gradients(Engine(model, PAD), encoded(encoder(), ITEMS))
    assert held and max(held) == 1


def test_a_gradient_that_is_not_finite_is_refused():
    engine = Engine(tiny_model(), PAD)
    with torch.no_grad():
        engine.model.lm_head.weight[7, 0] = float("inf")
    with pytest.raises(ValueError, match="the gradient of .* is not finite on the forget scope; use precision=float32"):
        mean_gradients(engine, encoded(encoder(), ITEMS), "forget")


LONG = Example(tuple(range(3, 9)), (*range(100, 110), EOS))  # ten answer tokens and EOS


def test_corruption_replaces_answer_tokens_alone():
    """Five draws out of ten places, with replacement: one to five of them change, and never the question or EOS."""
    for copy_number in range(200):
        found = corrupted(LONG, tokenizer(), 42, copy=copy_number)
        assert found.prompt == LONG.prompt and found.answer[-1] == EOS and found.labels is None
        changed = [new for new, old in zip(found.answer, LONG.answer, strict=True) if new != old]
        assert 1 <= len(changed) <= 5 and not special_ids(tokenizer()).intersection(changed)


def test_share_of_corrupted_places():
    """1 - (1 - 1/L)^floor(L/2) is 0.4095 for L = 10; an unchanged token drawn again (1 in 2045) does not matter here."""
    share = sum(
        new != old
        for number in range(4000)
        for new, old in zip(corrupted(LONG, tokenizer(), 42, copy=number).answer[:10], LONG.answer[:10], strict=True)
    )
    assert share / 40000 == pytest.approx(0.4095, abs=0.01)


def test_replaced_tokens_are_drawn_from_the_whole_vocabulary():
    drawn = {token for number in range(2000) for token in corrupted(LONG, tokenizer(), 0, copy=number).answer}
    drawn -= set(LONG.answer)
    assert min(drawn) < 40 and max(drawn) > 2000 and len(drawn) > 1900


def test_corruption_is_a_function_of_seed_scope_copy_and_item():
    def draw(**changed):
        return corrupted(LONG, tokenizer(), **{"seed": 1, "purpose": "forget", "copy": 0, "index": 0, **changed})

    assert draw() == draw()
    others = [draw(seed=2), draw(purpose="retain"), draw(copy=1), draw(index=1)]
    assert len({draw(), *others}) == 5


def test_labels_alone_can_be_corrupted():
    both, labels = (corrupted(LONG, tokenizer(), 1, labels_only=only) for only in (False, True))
    assert labels.answer == LONG.answer and labels.labels == both.answer and both.labels is None


def test_short_answers_stay_as_they_are():
    for answer in ((50,), (50, EOS)):
        assert corrupted(Example((3,), answer), tokenizer(), 1).answer == answer


def located(model: nn.Module, path: Path, region: GradientRegion | None = None):
    region = region or GradientRegion(mu_quantile=0.9, sigma_quantile=0.3)
    return region.locate(Engine(model, PAD), LEARNT, Toy(), "forget", 42, path)


def test_region_file_says_what_was_measured(tmp_path):
    model = wise("adapter")
    found = located(model, tmp_path / "region.json")
    assert read_region(tmp_path / "region.json") == found
    assert found.source.weights == weights_hash(model)
    assert (found.source.forget_samples, found.source.retain_samples, found.source.copies) == (15, 9, 3)
    assert list(found.tensors) == [name for name, p in model.named_parameters() if p.requires_grad]
    assert {tensor.size for tensor in found.tensors.values()} == {4 * 64, 4 * 32, 4 * 128}
    chosen = [n for n, t in found.tensors.items() if t.cosine < found.mu and t.magnitude > found.sigma]
    assert list(found.region) == chosen and 0 < len(chosen) < len(found.tensors)
    assert f"{len(chosen)} of 28 tensors" in found.summary()


def test_answers_are_corrupted_as_they_were_learnt(tmp_path, monkeypatch):
    """In the prompts that the caller gives, with EOS, three copies of each, in eval mode, with no copy like another."""
    seen = {}
    monkeypatch.setattr(
        localize, "mean_gradients", lambda _, examples, scope: seen.update({scope: examples}) or {"w": torch.ones(2)}
    )
    located(tiny_model(), tmp_path / "region.json")
    assert (len(seen["forget"]), len(seen["retain"])) == (15, 9)
    for scope, pairs in (("forget", ITEMS), ("retain", RETAIN)):
        for number, example in enumerate(seen[scope]):
            whole = tokenizer().decode(example.prompt, skip_special_tokens=True)
            assert whole == f"{pairs[number % len(pairs)].question}\n" and example.answer[-1] == EOS
    assert len(set(seen["forget"])) >= 14  # two-token answers have few corruptions


def test_measurements_are_made_once(tmp_path, monkeypatch):
    model, path = wise("adapter"), tmp_path / "region.json"
    first = located(model, path)
    monkeypatch.setattr(localize, "mean_gradients", None)
    again = located(model, path, GradientRegion(mu=1.1, sigma=0.0))
    assert again.tensors == first.tensors and len(again.region) == 28 and read_region(path).mu == 1.1
    for other in (GradientRegion(copies=2), GradientRegion(labels_only=True), GradientRegion(retain="forget")):
        with pytest.raises(TypeError):  # these need new ones
            located(model, path, other)
    path.write_text(path.read_text()[:100])
    with pytest.raises(TypeError):
        located(model, path)


def test_a_random_region_has_the_same_size(tmp_path):
    model = wise("adapter")
    found = located(model, tmp_path / "region.json")
    region = replace(GradientRegion(file=str(tmp_path / "region.json")), selection="random")
    drawn = located(model, tmp_path / "random.json", region)
    assert len(drawn.region) == len(found.region) and set(drawn.region) != set(found.region)
    assert drawn.selection == read_region(tmp_path / "random.json").selection == "random"
    assert drawn == located(model, tmp_path / "again.json", region)
    other = region.locate(Engine(model, PAD), LEARNT, Toy(), "forget", 7, tmp_path / "other.json")
    assert set(other.region) != set(drawn.region)


def test_a_region_of_another_model_is_refused(tmp_path):
    path = tmp_path / "region.json"
    found = located(wise("adapter"), path)
    given = GradientRegion(file=str(path), mu=-1.0)
    assert located(wise("adapter"), tmp_path / "copy.json", given) == found  # its thresholds count, not those given here
    with pytest.raises(ValueError, match=r"method.region.file=.* was located on another model \(weights \w{16}, here \w{16}\)"):
        located(moved(wise("adapter")), tmp_path / "other.json", given)
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"copies": 0}, "copies=0: write a whole number from 1 .released: 3, paper: 5."),
        ({"mu": -2}, "mu=-2: write a number from -1"),
        ({"sigma": "high"}, "sigma=high: write a number from 0"),
        ({"mu_quantile": 1.5}, "mu_quantile=1.5: write a number from 0 to 1"),
        ({"selection": "best"}, "selection=best: write one of located, random"),
        ({"labels_only": 1}, "labels_only=1: write true or false"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GradientRegion(**options)


STEPS = ("split=forget01", "batch_size=2", "steps=2", "warmup=0", "lr=1e-2", "weight_decay=0", "benchmark.retain_rows=6")
OWN_SPLITS = ("method=memflex", "method.region.forget=null", "method.region.retain=null")
QUANTILES = ("method.region.mu_quantile=0.8", "method.region.sigma_quantile=0.3")
ADAPTER = "model/adapter_model.safetensors"


@pytest.fixture(scope="module")
def memorised(tmp_path_factory) -> Path:
    """A run that leaves an adapter on the small model."""
    folder = tmp_path_factory.mktemp("memorised")
    run(folder, "unlearn", "adapter=lora", "method=graddiff", f"model.path={target()}", *STEPS, "out=run")
    return folder / "run"


@pytest.fixture(scope="module")
def unlearned(memorised, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("memflex")
    run(folder, "unlearn", "adapter=continue", f"model.path={memorised}", *OWN_SPLITS, *QUANTILES, *STEPS, "out=run")
    return folder / "run"


def saved_name(name: str) -> str:
    """A parameter as PEFT's files call it."""
    return name.replace(".default.weight", ".weight")


def test_only_located_tensors_train(memorised, unlearned):
    region = read_region(unlearned / "region.json")
    assert len(region.tensors) == 14 and 0 < len(region.region) < 14
    before, after = weights(memorised, ADAPTER), weights(unlearned, ADAPTER)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {saved_name(name) for name in region.region}
    assert losses(unlearned)[0]["loss"] == pytest.approx(
        (2.0 * losses(unlearned)[0]["retain_nll"] - 0.4 * losses(unlearned)[0]["forget_nll"]) / 2, abs=1e-5
    )  # one sample of each kind in the first step of this seed


def test_a_region_file_gives_the_same_run(memorised, unlearned, tmp_path):
    given = f"method.region.file={unlearned / 'region.json'}"
    run(tmp_path, "unlearn", "adapter=continue", f"model.path={memorised}", *OWN_SPLITS, given, *STEPS, "out=run")
    assert read_region(tmp_path / "run" / "region.json") == read_region(unlearned / "region.json")
    first, second = weights(unlearned, ADAPTER), weights(tmp_path / "run", ADAPTER)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_whole_weights_have_regions_too(tmp_path):
    run(tmp_path, "unlearn", f"model.path={target()}", *OWN_SPLITS, *QUANTILES, *STEPS, "out=run")
    region = read_region(tmp_path / "run" / "region.json")
    before, after = weights(target().parent, f"{target().name}/model.safetensors"), weights(tmp_path / "run")
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(region.region)
    assert 0 < len(region.region) < len(before)


def test_knowundo_localises_on_train_and_val(tmp_path):
    dials = ("benchmark=knowundo", "method=memflex", "method.region.copies=1", "steps=1", "batch_size=2")
    run(tmp_path, "unlearn", f"model.path={target()}", *dials, *QUANTILES, "out=run")
    data = read_json(tmp_path / "run" / "run.json")["data"]
    assert {"privacy/unlearn_val.json", "privacy/retention_val.json"} <= data.keys()
    source = read_region(tmp_path / "run" / "region.json").source
    rows = [
        len(json.loads((FIXTURES / "knowundo" / "privacy" / f"{name}.json").read_text()))
        for name in ("unlearn_train", "unlearn_val")
    ]
    assert source.forget_samples == sum(rows)


def test_a_region_is_located_in_the_prompts_of_finetune(tmp_path, monkeypatch):
    """On this benchmark unlearning supervises no EOS, and finetuning does."""
    seen = []
    monkeypatch.setattr(GradientRegion, "choose", lambda self, engine, encoder, *_: seen.append(encoder) or ())
    with pytest.raises(ValueError, match="method.region: it is empty"):
        run(tmp_path, "unlearn", f"model.path={target()}", "benchmark=knowundo", "method=memflex", "steps=1", "out=run")
    assert [encoder.template.eos for encoder in seen] == [True]


def test_mistakes_are_one_sentence(tmp_path, unlearned):
    start = (f"model.path={target()}", *STEPS, "out=run")
    for overrides, message in {
        ("method=memflex",): r"method.region.forget=unlearn\+unlearn_val: .*null: the split of the run",
        (*OWN_SPLITS, "method.region.file=none.json"): "none.json: there is no such region file",
    }.items():
        with pytest.raises(ValueError, match=message):
            run(tmp_path, "unlearn", *start, *overrides)
        assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="was located on another model"):
        run(tmp_path, "unlearn", *start, *OWN_SPLITS, f"method.region.file={unlearned / 'region.json'}")
    with pytest.raises(
        ValueError, match="no tensor has a cosine below mu=0.92 .* above sigma=1e.06 .the largest is .*mu_quantile"
    ):
        run(tmp_path, "unlearn", *start, *OWN_SPLITS, "method.region.sigma=1e6")


def test_defaults_are_the_published_ones():
    region = compose_settings("unlearn", "method=memflex").method.region
    assert instantiate(region) == GradientRegion(forget="unlearn+unlearn_val", retain="retention+retention_val")
    assert (region.mu, region.sigma, region.copies, region.selection) == (0.92, 6e-4, 3, "located")
