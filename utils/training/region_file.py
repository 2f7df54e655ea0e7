"""region.json: what localisation measured of every tensor, and which it chose. Written by utils/training/localize.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from utils.draws import permutation
from utils.files import read_json, write_json


@dataclass(frozen=True)
class Tensorwise:
    """What was measured of one tensor: cosine between its two mean gradients, magnitude of the forget one, number of entries."""

    cosine: float
    magnitude: float
    size: int


@dataclass(frozen=True)
class Source:
    """What the measurements depend on.

    weights, data: hashes of the model and of all token ids. forget_samples, retain_samples: corrupted answers of each scope.
    """

    weights: str
    data: str
    copies: int
    labels_only: bool
    seed: int
    forget_samples: int
    retain_samples: int


@dataclass(frozen=True)
class LocatedRegion:
    """A region and where it came from.

    tensors: every candidate, in the model's order. mu, sigma: the thresholds that were applied. selection: located, or random for
    as many tensors drawn from all. region: names of the tensors that train.
    """

    source: Source
    tensors: Mapping[str, Tensorwise]
    mu: float
    sigma: float
    selection: str
    region: tuple[str, ...]

    def summary(self) -> str:
        """One line: how many tensors and parameters were chosen, and how."""
        entries = sum(tensor.size for tensor in self.tensors.values())
        share = sum(self.tensors[name].size for name in self.region) / entries
        how = f"{self.selection}, mu={self.mu:.4g}, sigma={self.sigma:.4g}"
        return f"{len(self.region)} of {len(self.tensors)} tensors, {share:.1%} of {entries} parameters ({how})"

    def why_empty(self) -> str:
        """Which threshold excludes everything, for a region without tensors."""
        below = [tensor.magnitude for tensor in self.tensors.values() if tensor.cosine < self.mu]
        smallest = min(tensor.cosine for tensor in self.tensors.values())
        return (
            f"no tensor has a cosine below mu={self.mu:.4g} (the smallest is {smallest:.4g}) and with it a magnitude above "
            f"sigma={self.sigma:.4g} (the largest is {max(below, default=0.0):.4g}); change mu and sigma, or give "
            "mu_quantile and sigma_quantile"
        )

    def at_random(self, seed: int) -> LocatedRegion:
        """As many tensors, but any of them: a pure function of the seed."""
        names = list(self.tensors)
        chosen = set(permutation(seed, 0, len(names))[: len(self.region)])
        region = tuple(name for place, name in enumerate(names) if place in chosen)
        return replace(self, selection="random", region=region)


def write_region(path: Path, region: LocatedRegion) -> None:
    """Writes a region file; never half of it."""
    write_json(path, asdict(region))


def read_region(path: Path) -> LocatedRegion:
    """Reads what `write_region` wrote. Raises ValueError for a missing or damaged file."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such region file; make one with scripts/localize.py")
    known = read_json(path) or {}
    try:
        tensors = {name: Tensorwise(**found) for name, found in known["tensors"].items()}
        region = LocatedRegion(
            **{**known, "source": Source(**known["source"]), "tensors": tensors, "region": tuple(known["region"])}
        )
        if not set(region.region) <= tensors.keys() or not tensors:
            raise KeyError("region")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is damaged, or no region file; make it again with scripts/localize.py") from error
    return region
