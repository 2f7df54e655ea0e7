"""region.html: a located region as a page to look at, one map of layers and modules for the A and one for the B of LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from utils.report.charts import FONT, LETTER, text
from utils.report.details import folded
from utils.report.markup import Html, element, join
from utils.report.page import whole_page
from utils.training.region_file import LocatedRegion, Tensorwise

ROW, WIDE, LEFT = 16.0, 32.0, 30.0
SLANT = 60.0  # degrees: names of modules are long, and many of them stand side by side
MORE_STYLE = """
.maps { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1rem; margin: 1rem 0; }
.maps figure { max-width: 100%; overflow-x: auto; }
.cell { fill: var(--method); stroke: var(--rule); stroke-width: .5; }
.cell.located { stroke: var(--target); stroke-width: 2.5; }
.tensors th[scope="row"] { min-width: 11rem; max-width: none; font-weight: 400; }
.tensors th, .tensors td { padding-top: .15rem; padding-bottom: .15rem; }
"""


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


def page(found: LocatedRegion, title: str) -> str:
    """The whole page: which tensors of which layer, and how large the forget gradient is in each; no script, nothing fetched."""
    source = found.source
    told = (
        f"{found.summary()}. Mean gradients of {source.forget_samples} forget and {source.retain_samples} retain answers, each "
        f"corrupted {source.copies} times{', in its labels only' if source.labels_only else ''}. The stronger the colour, the "
        "larger the mean absolute forget gradient (logarithmic, each map by itself); framed tensors are in the region."
    )
    figures = []
    for part in dict.fromkeys(Place.of(name).part for name in found.tensors):
        drawn = heat_map(found, part)
        if drawn is not None:
            figures.append(element("figure", {}, element("figcaption", {}, _caption(found, part)), drawn))
    heading = f"Located region: {title}"
    lead = element("p", {"class": "lead"}, told)
    body = [element("h1", {}, heading), lead, element("div", {"class": "maps"}, *figures), _table(found)]
    return whole_page(heading, body, MORE_STYLE)


def heat_map(found: LocatedRegion, part: str) -> Html | None:
    """Layers down, modules across; None if no tensor of this part lies in a layer."""
    places = {name: place for name in found.tensors if (place := Place.of(name)).part == part and place.layer is not None}
    if not places:
        return None
    layers = sorted({place.layer for place in places.values() if place.layer is not None})
    modules = list(dict.fromkeys(place.module for place in places.values()))
    longest = max(map(len, modules)) * FONT * LETTER
    top = math.ceil(longest * math.sin(math.radians(SLANT))) + 14
    shade = _shades([found.tensors[name].magnitude for name in places])
    parts = [_slanted(LEFT + (k + 0.6) * WIDE, top - 5, module) for k, module in enumerate(modules)]
    parts += [text(LEFT - 8, top + (k + 0.75) * ROW, str(layer), anchor="end") for k, layer in enumerate(layers)]
    # Framed cells come last, so that no neighbour covers their frame.
    for name in sorted(places, key=lambda name: name in found.region):
        layer, module = layers.index(places[name].layer), modules.index(places[name].module)
        box = {"x": LEFT + module * WIDE + 1.5, "y": top + layer * ROW + 1.5, "width": WIDE - 3, "height": ROW - 3}
        kind = "cell located" if name in found.region else "cell"
        shown = element("title", {}, f"{name}: {_words(found.tensors[name])}")
        parts.append(element("rect", {**box, "fill-opacity": shade(found.tensors[name].magnitude), "class": kind}, shown))
    # In its own size: a map that is scaled to the page has names too small to read, or huge ones.
    width = math.ceil(LEFT + len(modules) * WIDE + longest * math.cos(math.radians(SLANT)))
    height = math.ceil(top + len(layers) * ROW + 4)
    label = f"Located tensors by layer and module {part}".strip()
    size = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    return element("svg", {**size, "role": "img", "aria-label": label, "class": "map"}, *parts)


def _caption(found: LocatedRegion, part: str) -> str:
    """Which map it is, and which magnitudes its colours stand for."""
    of_part = [tensor.magnitude for name, tensor in found.tensors.items() if Place.of(name).part == part]
    positive = [value for value in of_part if value > 0]
    colours = f", {min(positive):.1e} to {max(positive):.1e}" if positive else ""
    return (f"LoRA {part}" if part else "Weights") + colours


def _slanted(x: float, y: float, words: str) -> Html:
    return element("text", {"x": x, "y": y, "class": "tick", "transform": f"rotate({-SLANT:g} {x:g} {y:g})"}, words)


def _shades(magnitudes: Sequence[float]) -> Callable[[float], float]:
    """magnitude -> opacity from 0.05 (the smallest, and zero) to 1, linear in the logarithm."""
    positive = [math.log(value) for value in magnitudes if value > 0]
    low, high = min(positive, default=0.0), max(positive, default=1.0)

    def shade(value: float) -> float:
        share = (math.log(value) - low) / (high - low) if value > 0 and high > low else float(value > 0)
        return 0.05 + 0.95 * share

    return shade


def _words(tensor: Tensorwise) -> str:
    return f"cosine {tensor.cosine:.4g}, magnitude {tensor.magnitude:.4g}"


def _table(found: LocatedRegion) -> Html:
    """Every tensor with its numbers, folded away."""
    head = element("tr", {}, *(element("th", {"scope": "col"}, words) for words in ("tensor", "cosine", "magnitude", "located")))
    rows = []
    for name, tensor in found.tensors.items():
        cells = (f"{tensor.cosine:.4g}", f"{tensor.magnitude:.4g}", "yes" if name in found.region else "")
        row = (element("td", {}, words) for words in cells)
        rows.append(element("tr", {}, element("th", {"scope": "row"}, name), *row))
    table = element("table", {"class": "tensors"}, element("thead", {}, head), element("tbody", {}, join(rows, "\n")))
    return folded(f"All {len(found.tensors)} tensors", element("div", {"class": "scroll", "tabindex": "0"}, table))
