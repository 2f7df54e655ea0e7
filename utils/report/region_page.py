"""region.html: a located region as a page to look at, one map of layers and modules for the A and one for the B of LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from utils.report.charts import FONT, LETTER, shape, text
from utils.report.page import render
from utils.training.region_file import LocatedRegion

ROW, WIDE, LEFT = 16.0, 32.0, 30.0
SLANT = 60.0  # degrees: names of modules are long, and many of them stand side by side


class Place(NamedTuple):
    """Where a tensor stands. part: A or B of an adapter, "" for a weight. layer: None for what is outside of layers."""

    part: str
    layer: int | None
    module: str

    @classmethod
    def of(cls, name: str) -> Place:
        """From the name of a parameter: model.layers.3.mlp.up_proj.lora_A.default.weight is (A, 3, up_proj)."""
        path, _, adapter = name.partition(".lora_")
        words = path.removesuffix(".weight").split(".")
        layer = next((int(word) for word in words if word.isdigit()), None)
        module = ".".join(words[-2:]) if words[-1] == "bias" else words[-1]
        return cls(adapter.removeprefix("embedding_").split(".")[0], layer, module)


def page(region: LocatedRegion, title: str) -> str:
    """The whole page: which tensors of which layer, and how large the forget gradient is in each; no script, nothing fetched."""
    parts = dict.fromkeys(Place.of(name).part for name in region.tensors)
    drawn = [(_caption(region, part), picture) for part in parts if (picture := heat_map(region, part)) is not None]
    return render("region.html", title=f"Located region: {title}", region=region, maps=drawn)


def heat_map(region: LocatedRegion, part: str) -> Markup | None:
    """Layers down, modules across; None if no tensor of this part lies in a layer."""
    named = {name: Place.of(name) for name in region.tensors}
    places = {name: (p.layer, p.module) for name, p in named.items() if p.part == part and p.layer is not None}
    if not places:
        return None
    layers = sorted({layer for layer, _ in places.values()})
    modules = list(dict.fromkeys(module for _, module in places.values()))
    longest = max(map(len, modules)) * FONT * LETTER
    top = math.ceil(longest * math.sin(math.radians(SLANT))) + 14
    shade = _shades([region.tensors[name].magnitude for name in places])
    parts = []
    for k, module in enumerate(modules):
        x, y = LEFT + (k + 0.6) * WIDE, top - 5
        parts.append(shape("text", module, x=x, y=y, kind="tick", transform=f"rotate({-SLANT:g} {x:g} {y:g})"))
    parts += [text(LEFT - 8, top + (k + 0.75) * ROW, str(layer), anchor="end") for k, layer in enumerate(layers)]
    # Framed cells come last, so that no neighbour covers their frame.
    for name in sorted(places, key=lambda name: name in region.region):
        tensor, (layer, module) = region.tensors[name], places[name]
        told = shape("title", f"{name}: cosine {tensor.cosine:.4g}, magnitude {tensor.magnitude:.4g}")
        x, y = LEFT + modules.index(module) * WIDE + 1.5, top + layers.index(layer) * ROW + 1.5
        kind = "cell located" if name in region.region else "cell"
        opacity = shade(tensor.magnitude)
        parts.append(shape("rect", told, x=x, y=y, width=WIDE - 3, height=ROW - 3, fill_opacity=opacity, kind=kind))
    # In its own size: a map that is scaled to the page has names too small to read, or huge ones.
    width = math.ceil(LEFT + len(modules) * WIDE + longest * math.cos(math.radians(SLANT)))
    height = math.ceil(top + len(layers) * ROW + 4)
    label = f"Located tensors by layer and module {part}".strip()
    return shape(
        "svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=label, kind="map"
    )


def _caption(region: LocatedRegion, part: str) -> str:
    """Which map it is, and which magnitudes its colours stand for."""
    of_part = [tensor.magnitude for name, tensor in region.tensors.items() if Place.of(name).part == part]
    positive = [value for value in of_part if value > 0]
    colours = f", {min(positive):.1e} to {max(positive):.1e}" if positive else ""
    return (f"LoRA {part}" if part else "Weights") + colours


def _shades(magnitudes: Sequence[float]) -> Callable[[float], float]:
    """magnitude -> opacity from 0.05 (the smallest, and zero) to 1, linear in the logarithm."""
    positive = [math.log(value) for value in magnitudes if value > 0]
    low, high = min(positive, default=0.0), max(positive, default=1.0)

    def shade(value: float) -> float:
        share = (math.log(value) - low) / (high - low) if value > 0 and high > low else float(value > 0)
        return 0.05 + 0.95 * share

    return shade
