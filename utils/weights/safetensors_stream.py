"""Reads and writes safetensors files slice by slice, so that memory depends on neither the model nor its largest tensor.

    8 bytes   length of the header, little-endian
    header    JSON, padded with spaces to a multiple of 8: name -> dtype, shape, [first byte, last byte + 1] after the header
    data      the tensors, one after the other

A slice is a range of elements of the flattened tensor. It is read with plain file calls: pages of a mapped file would count
as memory of the process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

SLICE = 2**18  # elements: 1 MiB in float32, so that what a sum needs stays in the processor's cache
LARGEST_HEADER = 10**8  # bytes; the safetensors library refuses longer ones too
ALIGNMENT = 8  # of the data, so that tensors of any type can be mapped where they lie

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES = {
    **FLOATS,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WeightsError(ValueError):
    """Weights cannot be read or written as asked; the message names file or key and the remedy."""


@dataclass(frozen=True)
class TensorSpec:
    """What a header says about a tensor. dtype: one of DTYPES."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def bytes(self) -> int:
        return self.elements * self.itemsize

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


@dataclass(frozen=True)
class StoredTensor(TensorSpec):
    """A tensor in a file. offset: bytes from the beginning of the file."""

    file: Path
    offset: int

    def read(self, start: int, stop: int) -> Tensor:
        """Elements `start` to `stop` of the flattened tensor, (stop - start,), in the type they are stored in."""
        values = torch.empty(stop - start, dtype=DTYPES[self.dtype])
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.offset + start * self.itemsize)
            wanted = memoryview(values.view(torch.uint8).numpy())
            while wanted:  # one call reads 2 GiB at most
                count = file.readinto(wanted)
                if not count:
                    raise WeightsError(f"{self.file} became shorter while it was read; do not write to it meanwhile")
                wanted = wanted[count:]
        return values


def slices(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """(start, stop) of SLICE elements each, the last one shorter; none for a tensor without elements."""
    for start in range(0, spec.elements, SLICE):
        yield start, min(start + SLICE, spec.elements)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Name -> where the tensor lies. Raises WeightsError for a file that is damaged, or holds a type that is not in DTYPES."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise _damaged(path, "it has no safetensors header")
        text = file.read(length)
    try:
        header = json.loads(text)
        rows = {name: row for name, row in header.items() if name != "__metadata__"}
        parts = {name: (row["dtype"], tuple(row["shape"]), *row["data_offsets"]) for name, row in rows.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise _damaged(path, "its header makes no sense") from None
    tensors = {}
    for name, (dtype, shape, start, stop) in parts.items():
        if dtype not in DTYPES:
            raise WeightsError(f"{path}: {name} is of type {dtype}, which is not computed with; give weights in 16, 32 or 64 bit")
        tensors[name] = StoredTensor(dtype, shape, path, 8 + length + start)
        if stop - start != tensors[name].bytes:
            raise _damaged(path, f"{name} has {stop - start} bytes instead of {tensors[name].bytes}")
        if 8 + length + stop > size:
            raise _damaged(path, f"it is cut short, {name} is not whole")
    return tensors


def write_tensors(path: Path, specs: Mapping[str, TensorSpec], values: Callable[[str, int, int], Tensor]) -> Iterator[int]:
    """Writes a file tensor by tensor, slice by slice; yields the number of bytes after each slice.

    values(name, start, stop) gives the elements of a slice, (stop - start,), in the type of `specs[name]`.
    Wider types come first, then names in order, as the safetensors library has it: every tensor begins at a multiple of its item.
    """
    names = sorted(specs, key=lambda name: (-specs[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + specs[name].bytes
        header[name] = {"dtype": specs[name].dtype, "shape": specs[name].shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for start, stop in slices(specs[name]):
                yield file.write(memoryview(values(name, start, stop).contiguous().view(torch.uint8).numpy()))


def _damaged(path: Path, how: str) -> WeightsError:
    return WeightsError(f"{path} is damaged ({how}); copy or save it again")
