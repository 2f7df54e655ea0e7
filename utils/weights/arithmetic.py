"""Arithmetic on checkpoints, slice by slice from disk to disk: task vectors, and adapters with the opposite sign.

    theta_out = theta_base + sum_i coefficient_i * (theta_finetuned_i - theta_origin_i)

SKU, stage 2 (arXiv 2402.10058): theta_0 - lambda * (theta_bad - theta_0). Task vector as MUSE has it (arXiv 2407.06460):
theta_target - alpha * (theta_reinforced - theta_target). Both are `negate`.

Computed in float32 (float64 where a tensor is stored in it), whatever the checkpoints are stored in. Each stored tensor is
computed once, from files that stay as they are, so tied weights cannot be moved twice.
Differs from released code (SKU, MUSE): that computes in the type of the checkpoint, with all models in memory.

Paths are model folders, run folders (which stand for the model in them) or Hub names. Nothing here waits for other processes:
call it on one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from utils.checks import choose, is_number, positive, require
from utils.files import read_json, whole_folder, write_json
from utils.weights.adapters import ADAPTER_FILE, NAME, base_of, keep_base
from utils.weights.checkpoints import Checkpoint, check_target, counterparts, local_folder
from utils.weights.folders import ModelError, is_adapter, model_folder
from utils.weights.safetensors_stream import FLOATS, NAMES, StoredTensor, TensorSpec, WeightsError, write_tensors

# Config, generation config, tokenizer, chat template, code of the model.
KEPT = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".py")
NOT_KEPT = (".index.json", "trainer_state.json")

FACTORS = {".lora_A.weight": "A", ".lora_embedding_A": "A", ".lora_B.weight": "B", ".lora_embedding_B": "B"}
# Starts of LoRA that leave the weights of the base model as they are.
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class TaskVector:
    """coefficient * (theta_finetuned - theta_origin), arXiv 2212.04089.

    Raises ValueError for a coefficient that is 0, infinite or NaN.
    """

    coefficient: float
    finetuned: Path
    origin: Path

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)


def combine(base: Path, terms: Sequence[TaskVector], out: Path, dtype: torch.dtype | None = None) -> None:
    """Writes theta_base + the sum of `terms` to the folder `out`: a Hugging Face model with config and tokenizer of `base`.

    dtype: of the result; default: that of each tensor of `base`. Tensors that are not floating point are copied from `base`.
    `out` appears only when it is whole, and replaces a model of that name.

    Raises WeightsError if a checkpoint cannot be read or does not fit (keys, shapes), a term is zero, the result is not finite
    or equals `base`, the disk is too full, or `out` holds an input or no model. `out` then stays as it was.
    """
    if not terms:
        raise WeightsError("there is no task vector to add")
    _check_dtype(dtype)
    start = Checkpoint.open(base)
    sides = [(Checkpoint.open(term.finetuned), Checkpoint.open(term.origin)) for term in terms]
    check_target(out, [start.folder, *(side.folder for pair in sides for side in pair)])
    pairs = [(counterparts(start, finetuned), counterparts(start, origin)) for finetuned, origin in sides]
    _write(_Sum(start, dtype, terms, pairs), out)


def negate(base: Path, finetuned: Path, out: Path, coefficient: float = 1.0, dtype: torch.dtype | None = None) -> None:
    """Writes theta_base - coefficient * (theta_finetuned - theta_base); of an adapter on `base`, its opposite (`negate_adapter`).

    coefficient: lambda of SKU (1.0: 2 theta_0 - theta_bad), alpha of MUSE. Raises WeightsError as `combine` does, ValueError for
    a coefficient that is not above 0: that would strengthen what is to be forgotten.
    """
    positive("coefficient", coefficient)
    folder = local_folder(finetuned)
    if not is_adapter(folder):
        combine(base, [TaskVector(-coefficient, folder, base)], out, dtype)
        return
    named = str(base_of(folder))
    if not _same_model(named, base):
        raise WeightsError(
            f"{folder} is an adapter of {named}, not of {base}; give that as base, or correct {NAME} in {folder / ADAPTER_FILE}"
        )
    negate_adapter(folder, out, coefficient, dtype)


def negate_adapter(adapter: Path, out: Path, coefficient: float = 1.0, dtype: torch.dtype | None = None) -> None:
    """Writes the LoRA adapter whose update is -coefficient times that of `adapter`: a PEFT folder on the same base.

    W + s B A becomes W - coefficient s B A: of the two factors, B is scaled. Raises WeightsError for what is no plain LoRA
    (DoRA, biases, modules_to_save), a start that changes the base (PiSSA, OLoRA, ...), a zero update, and as `combine` does.
    """
    _check_coefficient(coefficient)
    _check_dtype(dtype)
    source = Checkpoint.open(adapter, adapter=True)
    _check_lora(source)
    check_target(out, [source.folder])
    _write(_Scaled(source, dtype, -coefficient), out)


@dataclass
class _Result:
    """Weights that are computed from those of `source` slice by slice. dtype: of floating-point results; None: as in `source`."""

    source: Checkpoint
    dtype: torch.dtype | None

    def __call__(self, name: str, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of a tensor, in the type that it gets."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises WeightsError for what shows only when all slices were computed."""

    def spec(self, name: str) -> TensorSpec:
        """The tensor as it is written: floating point in `dtype`, all else as it is."""
        stored = self.source.tensors[name]
        return TensorSpec(NAMES[self.dtype] if self.dtype is not None and stored.is_float else stored.dtype, stored.shape)

    def finite(self, name: str, values: Tensor, inputs: dict[StoredTensor, Tensor]) -> Tensor:
        """The values in the type that the tensor gets. Raises WeightsError if one of them is infinite or NaN."""
        result = values.to(FLOATS[self.spec(name).dtype])
        if result.isfinite().all():
            return result
        for stored, read in inputs.items():
            if not read.isfinite().all():
                raise WeightsError(f"{stored.file}: {name} holds a value that is infinite or NaN; train or copy that model again")
        raise WeightsError(
            f"{name}: the result is too large for {_name(result.dtype)}; give a smaller coefficient, or a type of wider range"
        )


@dataclass
class _Sum(_Result):
    """pairs: finetuned and origin of each term, by the names of the base, which is `source`."""

    terms: Sequence[TaskVector]
    pairs: Sequence[tuple[dict[str, StoredTensor], dict[str, StoredTensor]]]
    moved: set[int] = field(default_factory=set)
    changed: bool = False

    def __call__(self, name: str, start: int, stop: int) -> Tensor:
        stored = self.source.tensors[name]
        if not stored.is_float:
            return stored.read(start, stop)
        needed = [stored, *(side[name] for pair in self.pairs for side in pair)]
        work = torch.float64 if any(tensor.dtype == "F64" for tensor in needed) else torch.float32
        # A dictionary, as the origin is often the base itself: it is read once.
        values = {tensor: tensor.read(start, stop).to(work) for tensor in dict.fromkeys(needed)}
        total = values[stored].clone()
        for number, (term, (finetuned, origin)) in enumerate(zip(self.terms, self.pairs, strict=True)):
            delta = values[finetuned[name]] - values[origin[name]]
            if number not in self.moved and delta.any():
                self.moved.add(number)
            total += delta.mul_(term.coefficient)
        result = self.finite(name, total, values)
        self.changed = self.changed or not torch.equal(result, values[stored].to(result.dtype))
        return result

    def check(self) -> None:
        for number, term in enumerate(self.terms):
            if number not in self.moved:
                raise WeightsError(
                    f"{term.finetuned} and {term.origin} hold the same weights, so their task vector is zero; "
                    "give the folder of a model that was trained"
                )
        if not self.changed:
            raise WeightsError(
                f"the result equals {self.source.folder} in every weight: terms cancel, or the change is below the resolution "
                "of its type; give another coefficient, or dtype=float32"
            )


@dataclass
class _Scaled(_Result):
    """A LoRA adapter whose B factors are multiplied by `factor`."""

    factor: float
    nonzero: set[str] = field(default_factory=set)

    def __call__(self, name: str, start: int, stop: int) -> Tensor:
        stored = self.source.tensors[name]
        values = stored.read(start, stop).to(torch.float64 if stored.dtype == "F64" else torch.float32)
        factor = _factor(name)
        if factor is not None and values.any():
            self.nonzero.add(factor)
        return self.finite(name, values * self.factor if factor == "B" else values, {stored: values})

    def check(self) -> None:
        if self.nonzero != {"A", "B"}:
            raise WeightsError(
                f"{self.source.folder} changes nothing: a factor of its updates is zero; give one that was trained"
            )


def _write(result: _Result, out: Path) -> None:
    """Writes `result` in files that are divided as those of its source, and copies what else makes the folder a model."""
    source, specs = result.source, {name: result.spec(name) for name in result.source.tensors}
    total = sum(spec.bytes for spec in specs.values())
    with whole_folder(out, total) as partial, tqdm(total=total, desc="weights", unit="B", unit_scale=True) as bar:
        for file, names in source.files.items():
            for count in write_tensors(partial / file, {name: specs[name] for name in names}, result):
                bar.update(count)
        result.check()
        for path in sorted(source.folder.iterdir()):
            if path.name.endswith(KEPT) and not path.name.endswith(NOT_KEPT):
                shutil.copyfile(path, partial / path.name)
        if is_adapter(source.folder):
            keep_base(partial, out, base_of(source.folder))
        if source.index is not None:
            metadata = {**source.index.get("metadata", {}), "total_size": total}
            write_json(partial / source.index_name, {**source.index, "metadata": metadata})
        config = read_json(partial / "config.json")
        if config is not None and result.dtype is not None:
            key = "torch_dtype" if "torch_dtype" in config else "dtype"
            write_json(partial / "config.json", {**config, key: _name(result.dtype)})


def _same_model(one: str, other: Path) -> bool:
    """Whether two paths or Hub names mean the same folder; nothing is fetched."""
    try:
        return Path(model_folder(one)).resolve() == Path(model_folder(other)).resolve()
    except ModelError:
        return False


def _check_lora(source: Checkpoint) -> None:
    """Raises WeightsError for an adapter whose update is more than s B A on the weights of its base."""
    path = source.folder / ADAPTER_FILE
    config = read_json(path) or {}
    kind, start = config.get("peft_type"), config.get("init_lora_weights", True)
    if kind != "LORA":
        raise WeightsError(f"{path}: peft_type={kind} cannot be negated, only LORA can; train with adapter=lora")
    if config.get("use_dora"):
        raise WeightsError(f"{path}: use_dora=true cannot be negated, its update is no product of two factors; train plain LoRA")
    if start not in PLAIN_STARTS:
        raise WeightsError(f"{path}: init_lora_weights={start} changes the weights under the adapter; start with true")
    for name, stored in source.tensors.items():
        # An adapter of the embedding carries a copy of the frozen embedding.
        if _factor(name) is None and not name.endswith(".base_layer.weight"):
            raise WeightsError(
                f"{stored.file}: {name} is no factor of LoRA, and what it was before training is not known here; train "
                "without biases and modules_to_save"
            )
        if not stored.is_float:
            raise WeightsError(f"{stored.file}: {name} is of type {stored.dtype}; give an adapter in 16, 32 or 64 bit")


def _factor(name: str) -> str | None:
    """A | B for the two factors of a LoRA update, None for all else."""
    return next((factor for ending, factor in FACTORS.items() if name.endswith(ending)), None)


def _check_coefficient(coefficient: float) -> None:
    require(is_number(coefficient) and coefficient != 0, "coefficient", coefficient, "a number other than 0")


def _check_dtype(dtype: torch.dtype | None) -> None:
    choose("dtype", _name(dtype), (None, *map(_name, FLOATS.values())))


def _name(dtype: torch.dtype | None) -> str | None:
    """torch.float32 -> float32, as settings and files write it."""
    return None if dtype is None else str(dtype).removeprefix("torch.")
