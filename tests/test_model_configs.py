"""Every config/model/*.yaml has the same keys, sensible values and a template that can be built."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from omegaconf import DictConfig, OmegaConf
from transformers import LlamaConfig

from utils import ROOT
from utils.runs.cli import compose_settings
from utils.runs.inherited_settings import released, settings_of
from utils.tokens.prompts import Template

FOLDER = ROOT / "config" / "model"
FILES = sorted(FOLDER.glob("*.yaml"))
NAMES = """tiny smollm2-135m opt-1.3b opt-2.7b llama2-7b llama2-7b-chat llama2-13b llama3.2-1b llama3.2-3b llama3.1-8b
phi-1.5 phi-3.5-mini pythia-1.4b stablelm-3b zephyr-7b qwen1.5-7b-chat qwen2.5-1.5b qwen2.5-7b gemma-7b-it""".split()
KEYS = """architecture attn batch_size data_root dtype epochs epochs.finetune epochs.unlearn expects expects.model_type
expects.vocab_size lora lora.alpha lora.dropout lora.r lora.target_modules lr lr.finetune
lr.unlearn max_length name path template template.answer_tag template.date template.eos template.kind
template.options template.question_end template.question_start template.system tokenizer trust_remote_code""".split()
each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def keys(node: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of all keys; what `architecture` holds depends on the model type and is left out."""
    found = []
    for name, value in node.items():
        found.append(prefix + name)
        if isinstance(value, DictConfig) and name != "architecture":
            found += keys(value, f"{prefix}{name}.")
    return sorted(found)


def test_every_model_has_its_file():
    assert sorted(file.stem for file in FILES) == sorted(NAMES)


@each
def test_same_keys_and_sensible_values(file):
    model = OmegaConf.load(file)
    assert keys(model) == KEYS
    assert model.name == file.stem
    assert (model.path is None) == (model.architecture is not None)  # random weights, or a checkpoint
    assert model.path is not None or model.tokenizer is not None
    assert model.dtype in ("float32", "bfloat16") and model.attn == "auto" and not model.trust_remote_code
    assert model.data_root in ("fixture", "hub") and model.max_length == 512
    assert 1e-6 < model.lr.unlearn <= model.lr.finetune <= 2e-3
    assert model.lora.r > 0 and model.lora.alpha > 0 and 0 <= model.lora.dropout < 1


@each
def test_template_builds(file):
    template = Template(**OmegaConf.load(file).template)
    assert template.eos
    # a plain prompt must not run into the answer; a chat template brings its own marks
    assert template.kind == "chat" or template.question_end.strip(" ") != ""


@each
def test_header_is_a_launch_line_and_rates_name_their_source(file):
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# python unlearn.py ") and f"model={file.stem}" in lines[0]
    for name in ("finetune", "unlearn"):
        rates = [line for line in lines if line.startswith(f"  {name}:")]  # one under lr, one under epochs
        assert len(rates) == 2 and all(len(rate.split("#")[1].strip()) >= len("ours") for rate in rates)


@pytest.mark.parametrize("name", NAMES)
def test_hydra_puts_the_group_under_model(name):
    cfg = compose_settings(None, [f"+model={name}", "model.path=some/folder", "model.template.eos=false"])
    assert cfg.model.name == name and cfg.model.path == "some/folder" and not cfg.model.template.eos


# Released checkpoint -> its model file.
RELEASED = {
    **{f"open-unlearning/tofu_Llama-3.2-1B-Instruct_{split}": "llama3.2-1b" for split in ("full", "retain90", "retain99")},
    "open-unlearning/tofu_Llama-3.2-3B-Instruct_retain95": "llama3.2-3b",
    "open-unlearning/tofu_Llama-3.1-8B-Instruct_full": "llama3.1-8b",
    "open-unlearning/tofu_Llama-2-7b-chat-hf_full": "llama2-7b-chat",
    "open-unlearning/unlearn_tofu_Llama-3.2-1B-Instruct_forget10_NPO_lr1e-05_beta0.1_alpha1_epoch10": "llama3.2-1b",
    "locuslab/tofu_ft_llama2-7b": "llama2-7b-chat",
    "locuslab/tofu_ft_phi-1.5": "phi-1.5",
    "muse-bench/MUSE-News_target": "llama2-7b",
    "muse-bench/MUSE-news_retrain": "llama2-7b",
    "muse-bench/MUSE-Books_target": "llama2-7b",
    "microsoft/phi-1_5": "phi-1.5",
}


@pytest.mark.parametrize("path, name", RELEASED.items())
def test_a_released_checkpoint_brings_its_model_file(path, name):
    wanted = {"model": name}
    if path.startswith("muse-bench"):
        wanted["model.tokenizer"] = "meta-llama/Llama-2-7b-hf"
    assert released(path) == wanted


@pytest.mark.parametrize("name", sorted(set(RELEASED.values())))
def test_it_is_composed_with_its_template(name):
    path = next(path for path, entry in RELEASED.items() if entry == name)
    cfg = settings_of("evaluate", [f"model.path={path}"])
    assert cfg.model.name == name and cfg.model.path == path and cfg.data_root == "hub"
    assert cfg.model.template == OmegaConf.load(FOLDER / f"{name}.yaml").template


def test_the_command_line_says_otherwise_about_a_released_checkpoint():
    words = ["model.path=muse-bench/MUSE-News_target", "model=llama2-7b-chat", "model.tokenizer=elsewhere"]
    cfg = settings_of("evaluate", words)
    assert (cfg.model.name, cfg.model.tokenizer) == ("llama2-7b-chat", "elsewhere")
    recipe = settings_of("unlearn", ["recipe=open-unlearning/muse_books"])
    assert recipe.model.path == "muse-bench/MUSE-Books_target" and recipe.model.tokenizer == "meta-llama/Llama-2-7b-hf"
    assert (recipe.method.name, recipe.lr) == ("npo_rt", 1e-5)


def test_every_entry_of_a_released_checkpoint_is_known():
    entries = OmegaConf.load(ROOT / "config" / "checkpoints.yaml")
    for pattern, settings in entries.items():
        assert settings.model in NAMES and set(settings) <= {"model", "model.tokenizer"}
        assert any(fnmatchcase(path.lower(), pattern.lower()) for path in RELEASED), f"{pattern} is not tried"


@pytest.mark.parametrize(
    "name, start, end, tag",
    [("llama2-7b-chat", "[INST] ", " [/INST]", "")]
    + [(name, "Question: ", "\n", "Answer: ") for name in "tiny opt-2.7b phi-1.5 pythia-1.4b zephyr-7b".split()],
)
def test_published_tags(name, start, end, tag):
    template = OmegaConf.load(FOLDER / f"{name}.yaml").template
    assert (template.question_start, template.question_end, template.answer_tag) == (start, end, tag)


def test_tiny_fits_its_tokenizer():
    model = OmegaConf.load(FOLDER / "tiny.yaml")
    assert (ROOT / model.tokenizer / "tokenizer.json").is_file()
    settings = OmegaConf.to_container(model.architecture)
    assert settings.pop("model_type") == "llama"
    config = LlamaConfig(**settings)
    assert config.max_position_embeddings >= model.max_length
    assert config.hidden_size % config.num_attention_heads == 0
