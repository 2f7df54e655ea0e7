"""Uploads the model or adapter of a run to the Hugging Face Hub, with a card that holds the numbers of its evaluation.

    python scripts/push.py runs/npo repo=OWNER/NAME                      shows what would go: files, sizes, the card
    python scripts/push.py runs/npo repo=OWNER/NAME push=true            uploads it; the token is HF_TOKEN of the environment

repo=OWNER/NAME      where it goes; it is made if there is none
push=false           true: upload
private=true         false: a repository that is made is open to everybody
evaluation=RUN/eval  folder of the evaluation whose numbers the card shows
base=OWNER/NAME      of an adapter that was trained on a model in a local folder: what that is on the Hub
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _path

from utils.checks import did_you_mean_or_all, first_line
from utils.files import read_json
from utils.runs.cli import errors_in_one_sentence
from utils.runs.lineage import Origin
from utils.secrets import NAMED, struck
from utils.weights.adapters import ADAPTER_FILE, BASE_FILE, NAME
from utils.weights.card import CARD, Evaluated, model_card
from utils.weights.folders import is_adapter

KEYS = ("repo", "push", "private", "evaluation", "base")
ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Upload:
    """What goes where. files: name in the repository -> a file, or its content where that is not as it lies in the run."""

    repo: str
    private: bool
    files: Mapping[str, Path | bytes]

    def __str__(self) -> str:
        sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in self.files.items()}
        width = max(map(len, sizes))
        lines = [f"  {name:<{width}}  {size:>15,} bytes" for name, size in sizes.items()]
        kind = "private" if self.private else "public"
        return "\n".join([f"to {self.repo} ({kind}, if it is new): {len(lines)} files", *lines])


def words_of(arguments: Sequence[str]) -> dict[str, str]:
    """The KEY=VALUE words. Raises ValueError for another key, and for one that would hold a secret."""
    found = {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if re.fullmatch(NAMED, key, re.IGNORECASE):
            raise ValueError(f"{key}=***: the token comes from the environment alone; set HF_TOKEN, and leave {key} out")
        if key not in KEYS or not equals:
            raise ValueError(f"{struck(word)}: there is no such key{did_you_mean_or_all(key, KEYS)}")
        if key in ("push", "private") and value not in ("true", "false"):
            raise ValueError(f"{word}: write true or false")
        if key in ("repo", "base") and not ON_HUB.fullmatch(value):
            raise ValueError(f"{word}: write it as OWNER/NAME, as on the Hub")
        found[key] = value
    return found


def prepare(run: Path, words: Mapping[str, str]) -> Upload:
    """Raises ValueError for a folder without a finished run, for weights that it did not write, for an adapter on a model that
    is on no Hub, and for an evaluation of something else."""
    if "repo" not in words:
        raise ValueError("repo: is missing; say where it goes: repo=OWNER/NAME")
    origin = Origin.of(run)
    if origin is None or not origin.finished or origin.part != "model":
        raise ValueError(f"{run}: holds no finished run of finetune.py or unlearn.py; name the folder with run.json and model/")
    model = origin.folder / "model"
    origin.check_weights(str(model))
    adapter = is_adapter(model)
    base = words.get("base", origin.capsule.get("base"))
    if adapter and base is None:
        under = (read_json(model / ADAPTER_FILE) or {}).get(NAME)
        raise ValueError(
            f"{model}: its adapter belongs on {under}, which is on no Hub; upload that first, then say base=OWNER/NAME"
        )
    files: dict[str, Path | bytes] = {
        str(path.relative_to(model)): path for path in sorted(model.rglob("*")) if path.is_file() and path.name != BASE_FILE
    }
    if adapter:
        settings = {**(read_json(model / ADAPTER_FILE) or {}), NAME: base}
        files[ADAPTER_FILE] = f"{json.dumps(settings, indent=2)}\n".encode()
    card = model_card({**origin.capsule, "base": base}, adapter, evaluation(origin, words.get("evaluation")))
    files[CARD] = struck(card).encode()
    return Upload(words["repo"], words.get("private") != "false", files)


def evaluation(origin: Origin, named: str | None) -> Evaluated | None:
    """The evaluation in folder `named`, else in eval/ of the run, if there is one. Raises ValueError as `prepare`."""
    folder = origin.folder / "eval" if named is None else Path(named)
    capsule, metrics = read_json(folder / "run.json"), read_json(folder / "metrics.json")
    if capsule is None or metrics is None or capsule.get("status") != "finished" or capsule.get("script") != "evaluate":
        if named is not None:
            raise ValueError(f"evaluation={named}: holds no finished evaluation; name the out of an evaluate.py")
        return None
    of = Origin.of(capsule["settings"]["model"]["path"])
    if named is not None and (of is None or of.folder.resolve() != origin.folder.resolve()):
        raise ValueError(f"evaluation={named}: is of {capsule['settings']['model']['path']}, not of {origin.folder}")
    if capsule["started"] < origin.capsule["started"]:
        raise ValueError(f"{folder}: is older than the model, which was made again since; evaluate it again")
    return Evaluated(metrics, capsule["settings"])


def upload(what: Upload, message: str) -> str:
    """Sends it in one commit; its address. Raises ValueError without a token, and for what the Hub refuses."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    token = os.environ.get("HF_TOKEN")
    if not token:
        raise ValueError(
            "push=true: HF_TOKEN is not set; make a token that may write (huggingface.co/settings/tokens) and export it"
        )
    api = HfApi(token=token)
    try:
        api.create_repo(what.repo, private=what.private, exist_ok=True)
        operations = [
            CommitOperationAdd(name, file if isinstance(file, bytes) else str(file)) for name, file in what.files.items()
        ]
        made: Any = api.create_commit(what.repo, operations, commit_message=message)
    except (HfHubHTTPError, *HfHubHTTPError.__bases__) as error:  # the last: a network that does not answer
        raise ValueError(
            f"repo={what.repo}: it did not get there ({struck(first_line(error))}); check name, token and rights"
        ) from error
    return str(made.commit_url)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of finetune.py or unlearn.py")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="see above")
    options = parser.parse_args(arguments)
    with errors_in_one_sentence():
        words = words_of(options.words)
        what = prepare(options.run, words)
        card = what.files[CARD]
        print(what, f"\n--- {CARD}\n{card.decode() if isinstance(card, bytes) else ''}---")
        if words.get("push") == "true":
            print(f"uploaded: {upload(what, f'{options.run.name}, by Lethe')}")
        else:
            print("nothing was uploaded; to do it, set HF_TOKEN in the environment and add push=true")


if __name__ == "__main__":
    main()
