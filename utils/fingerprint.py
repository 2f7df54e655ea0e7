"""Hashes that tell whether two things are the same: weights, files, settings, code."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import ROOT

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZE = 8


def weights_hash(model: nn.Module, adapters: bool = True) -> str:
    """16 hex digits over every parameter and buffer: name, dtype, shape, bytes. A single changed weight changes it.

    adapters=False leaves LoRA weights out: the model as it is with its adapter off.

    Tied tensors are hashed under each of their names; tensors are hashed in parallel (hashing releases the interpreter lock).
    """
    tensors = [(name, tensor) for name, tensor in sorted(model.state_dict().items()) if adapters or ".lora_" not in name]
    with ThreadPoolExecutor() as pool:
        parts = pool.map(lambda item: f"{item[0]}:{_tensor_hash(item[1])}", tensors)
        return text_hash("\n".join(parts))


def _tensor_hash(tensor: Tensor) -> str:
    import torch  # who has a tensor has imported it; hashes of files need none

    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype}{tuple(plain.shape)}".encode()
    return hashlib.blake2b(head + plain.view(-1).view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()


def file_hash(path: Path | str) -> str:
    """16 hex digits of a file's content (SHA-256, as published next to data sets)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[: 2 * SIZE]


def bytes_hash(content: bytes) -> str:
    """The `file_hash` of a file with this content."""
    return hashlib.sha256(content).hexdigest()[: 2 * SIZE]


def folder_hash(folder: Path) -> str:
    """16 hex digits of the weights in a model or adapter folder: names and contents of its safetensors files."""
    return text_hash(*(f"{path.name}:{file_hash(path)}" for path in sorted(folder.glob("*.safetensors"))))


def text_hash(*texts: str) -> str:
    """16 hex digits of texts, in order."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=SIZE).hexdigest()


def settings_hash(settings: Mapping[str, Any], ignore: Iterable[str] = ()) -> str:
    """16 hex digits of plain settings, independent of key order; top-level keys in `ignore` do not count."""
    kept = {key: value for key, value in settings.items() if key not in set(ignore)}
    return text_hash(json.dumps(kept, sort_keys=True, default=str))


@cache  # the code that runs is what was read when the process began
def code_hash(modules: frozenset[str]) -> str:
    """16 hex digits of the source of these modules and of all that they import of this project (`project_sources`)."""
    return text_hash(*(f"{name}:{file_hash(path)}" for name, path in sorted(project_sources(modules).items())))


def project_sources(modules: Iterable[str]) -> dict[str, Path]:
    """Name -> file of those of the modules that belong to this project and of every module of it that they import, directly or
    not, also within functions. Other names are passed over: versions stand for libraries."""
    found: dict[str, Path] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        folder = ROOT.joinpath(*name.split("."))
        path = next((path for path in (folder / "__init__.py", folder.with_suffix(".py")) if path.is_file()), None)
        if path is None or name in found:
            continue
        found[name] = path
        parent = name.rpartition(".")[0]
        todo.append(parent)  # importing a module runs the packages that it lies in
        todo += _imported(path.read_bytes(), name if path.name == "__init__.py" else parent)
    return found


@cache
def _imported(source: bytes, package: str) -> tuple[str, ...]:
    """Names that a module of `package` may import: of modules, and of what is taken from them, which may be modules too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = resolve_name("." * node.level + (node.module or ""), package)
            names += [whole, *(f"{whole}.{alias.name}" for alias in node.names)]
    return tuple(names)
