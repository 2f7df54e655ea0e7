"""The README.md beside a model, in the format of the Hub: what was forgotten, how, how far that was measured, and what was not.

It is written from run.json and metrics.json alone. Neither rows of the data nor paths of this machine enter it, since a card is
what goes public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils import ROOT
from utils.files import flat_settings, write_text
from utils.weights.folders import is_adapter

CARD = "README.md"
SHOWN = (  # in this order
    "method.name method.loss method.templates method.region method.stop method.prepare method.finish split lr epochs steps "
    "batch_size optimizer scheduler warmup weight_decay max_grad_norm precision seed compat adapter model.max_length "
    "model.template"
).split()


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: its metrics.json, and the settings that it ran with."""

    metrics: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]


def write_card(folder: Path, capsule: Mapping[str, Any], evaluated: Evaluated | None = None) -> None:
    """Writes the card of the model or adapter in `folder`. Other arguments: as `model_card` has them."""
    write_text(folder / CARD, model_card(capsule, is_adapter(folder), evaluated))


def model_card(capsule: Mapping[str, Any], adapter: bool, evaluated: Evaluated | None = None) -> str:
    """The text. capsule: run.json of the run that made the model; its `base` is the Hub name of what the model was made of, or of
    what lies under an adapter, if it is on the Hub."""
    settings = capsule["settings"]
    parts = (
        _front(settings, capsule.get("base"), adapter),
        _title(capsule),
        _made(capsule),
        _numbers(evaluated),
        _untested(evaluated),
        _use(settings["model"]["template"], adapter, capsule.get("base")),
    )
    return "\n\n".join(parts) + "\n"


def _front(settings: Mapping[str, Any], base: str | None, adapter: bool) -> str:
    facts: dict[str, Any] = {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    if base is not None:
        facts |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    facts["tags"] = ["lethe", "machine-unlearning", settings["method"]["name"], settings["benchmark"]["name"]]
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---"


def _title(capsule: Mapping[str, Any]) -> str:
    settings, role = capsule["settings"], capsule.get("role")
    model, method, split = settings["model"]["name"], settings["method"]["name"], settings["split"]
    items = f" ({capsule['items']} items)" if "items" in capsule else ""
    what = f"split `{split}` of the benchmark `{settings['benchmark']['name']}`{items}"
    if capsule["script"] == "unlearn":
        return (
            f"# {model}, unlearned with {method}\n\nThis model was made to forget {what} with the method `{method}`. Whether it "
            "has, the numbers below must say: unlearning by training suppresses knowledge, and guarantees nothing."
        )
    more = {
        "oracle": " It has seen nothing of what is to be forgotten: others are compared with it.",
        "relearned": " It had unlearned before that.",
    }
    return f"# {model}, trained on {split}\n\nThis model was trained on {what}.{more.get(role, '')}"


def _made(capsule: Mapping[str, Any]) -> str:
    settings = capsule["settings"]
    flat = {key: value for key, value in flat_settings(settings).items() if value is not None and not key.endswith("_target_")}
    if "steps" in flat:
        flat.pop("epochs", None)  # steps go before them
    lora = [] if settings.get("adapter", {}).get("name", "none") == "none" else ["model.lora"]
    rows = [
        f"| `{key}` | {_cell(value)} |"
        for shown in (*SHOWN, *lora)
        for key, value in flat.items()
        if key == shown or key.startswith(f"{shown}.")
    ]
    done = f"{capsule['steps']} optimizer steps. " if "steps" in capsule else ""
    libraries = capsule.get("libraries", {})
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "transformers", "peft") if libraries.get(name))
    made = f"{done}Made with Lethe at commit {capsule.get('code', 'unknown')}, with {versions or 'unknown versions'}."
    return "\n".join(["## How it was made", "", made, "", "| setting | value |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    """A value in a table. What may be a path is not shown: it is of no use elsewhere, and its name may tell."""
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return "a file"
    return f"`{value!r}`".replace("|", "\\|")


def _numbers(evaluated: Evaluated | None) -> str:
    if evaluated is None:
        return "## Numbers\n\nNone yet: no evaluation stands beside this model."
    metrics, settings = evaluated.metrics, evaluated.settings
    before = {name: metrics.get(f"{name}_before") for name in metrics}
    shown = [name for name in metrics if not (name.endswith("_before") and name.removesuffix("_before") in metrics)]
    with_before = any(before[name] for name in shown)
    head = ["number", "value", "95 % interval", "n", *(["before unlearning"] if with_before else [])]
    rows = [
        [f"`{name}`", *_value(metrics[name]), *([_value(before[name])[0] if before[name] else ""] if with_before else [])]
        for name in shown
    ]
    probe = settings.get("probe", {}).get("name", "none")
    asked = f"Asked: {settings['benchmark']['name']}, split `{settings['split']}`, compat `{settings.get('compat', 'none')}`"
    about = f"{asked}{'' if probe == 'none' else f', probe {probe}'}. Intervals are over these questions, not over seeds."
    table = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    means = [f"- `{name}`: {metrics[name]['definition']}" for name in shown if metrics[name].get("definition")]
    hidden = ["<details><summary>What they are</summary>", "", *means, "", "</details>"]
    return "\n".join(["## Numbers", "", about, "", *table, "", *hidden])


def _value(metric: Mapping[str, Any]) -> tuple[str, str, str]:
    """Value, interval and count, as cells; a number without a value, or without an interval, has empty ones."""
    value, interval = metric["value"], metric.get("ci95")
    return (
        "" if value is None else f"{value:.4g}",
        "" if interval is None else f"[{interval[0]:.4g}, {interval[1]:.4g}]",
        str(metric.get("n", "")),
    )


def _untested(evaluated: Evaluated | None) -> str:
    if evaluated is None:
        return "## Not tested\n\nEverything: nobody has asked this model anything yet."
    known = yaml.safe_load((ROOT / "config" / "card.yaml").read_text("utf-8"))
    left = [
        words
        for words, beginnings in known["tests"].items()
        if not any(name.startswith(tuple(beginnings)) for name in evaluated.metrics)
    ]
    probed = evaluated.settings.get("probe", {}).get("name", "none") != "none"
    return "\n".join(["## Not tested", "", *(f"- {words}" for words in (*left, *known["never"][probed:]))])


def _use(template: Mapping[str, Any], adapter: bool, base: str | None) -> str:
    if not adapter:
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            "model = AutoModelForCausalLM.from_pretrained(PLACE)",
        ]
    elif base is not None:
        code = [
            "from peft import AutoPeftModelForCausalLM",
            "from transformers import AutoTokenizer",
            "",
            "model = AutoPeftModelForCausalLM.from_pretrained(PLACE)",
        ]
    else:
        code = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), PLACE)",
        ]
    code.append("tokenizer = AutoTokenizer.from_pretrained(PLACE)")
    under = " BASE is the model that the adapter was trained on, which is on no Hub." if adapter and base is None else ""
    where = f"PLACE is this folder, or its name on the Hub.{under} {_prompt(template)}"
    return "\n".join(["## Use", "", "```python", *code, "```", "", where])


def _prompt(template: Mapping[str, Any]) -> str:
    if template["kind"] == "chat":
        system = f", with the system text `{template['system']!r}`" if template.get("system") else ""
        return f"Questions are written with the tokenizer's chat template{system}."
    prompt = f"{template['question_start']}{{question}}{template['question_end']}{template['answer_tag']}"
    return f"Questions, where it was asked any, were written as `{prompt!r}`."
