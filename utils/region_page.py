"""region.html: a located region as a page to look at, one map of layers and modules for the A and one for the B of LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from utils.charts import picture, text
from utils.markup import Html, element, join
from utils.region_file import LocatedRegion, Tensorwise
from utils.report_html import POLICY, STYLE

ROW, LETTER, LEFT, TOP = 16.0, 6.8, 44.0, 26.0
MORE_STYLE = """
.map { max-width: 100%; height: auto; }
.cell { fill: var(--method); stroke: var(--rule); stroke-width: .5; }
.cell.located { stroke: var(--target); stroke-width: 2.5; }
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
        f"corrupted {source.copies} times{', in its labels only' if source.labels_only else ''}. "
        "The darker, the larger the mean absolute forget gradient (logarithmic); framed tensors are in the region."
    )
    figures = []
    for part in dict.fromkeys(Place.of(name).part for name in found.tensors):
        drawn = heat_map(found, part)
        if drawn is not None:
            caption = f"LoRA {part}" if part else "Weights"
            figures.append(element("figure", {}, element("figcaption", {}, caption), drawn))
    body = [element("h1", {}, f"Located region: {title}"), element("p", {"class": "lead"}, told), *figures, _table(found)]
    head = [
        element("meta", {"charset": "utf-8"}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("title", {}, f"Located region: {title}"),
        element("style", {}, Html(STYLE.read_text(encoding="utf-8") + MORE_STYLE)),
    ]
    return f"<!DOCTYPE html>\n{element('html', {'lang': 'en'}, element('head', {}, *head), element('body', {}, *body))}\n"


def heat_map(found: LocatedRegion, part: str) -> Html | None:
    """Layers down, modules across; None if no tensor of this part lies in a layer."""
    places = {name: place for name in found.tensors if (place := Place.of(name)).part == part and place.layer is not None}
    if not places:
        return None
    layers = sorted({place.layer for place in places.values()})
    modules = list(dict.fromkeys(place.module for place in places.values()))
    width = max(map(len, modules)) * LETTER + 10
    shade = _shades([found.tensors[name].magnitude for name in places])
    parts = [text(LEFT + (k + 0.5) * width, TOP - 8, module, anchor="middle") for k, module in enumerate(modules)]
    parts += [text(LEFT - 8, TOP + (k + 0.75) * ROW, str(layer), anchor="end") for k, layer in enumerate(layers)]
    # Framed cells come last, so that no neighbour covers their frame.
    for name in sorted(places, key=lambda name: name in found.region):
        layer, module = layers.index(places[name].layer), modules.index(places[name].module)
        box = {"x": LEFT + module * width + 1.5, "y": TOP + layer * ROW + 1.5, "width": width - 3, "height": ROW - 3}
        kind = "cell located" if name in found.region else "cell"
        shown = element("title", {}, f"{name}: {_words(found.tensors[name])}")
        parts.append(element("rect", {**box, "fill-opacity": shade(found.tensors[name].magnitude), "class": kind}, shown))
    size = (LEFT + len(modules) * width + 4, TOP + len(layers) * ROW + 4)
    return picture(*size, f"Located tensors by layer and module {part}".strip(), "map", parts)


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
    head = element("tr", {}, *(element("th", {}, words) for words in ("tensor", "cosine", "magnitude", "located")))
    rows = [
        element("tr", {}, *(element("td", {}, words) for words in (
            name, f"{tensor.cosine:.4g}", f"{tensor.magnitude:.4g}", "yes" if name in found.region else ""
        )))
        for name, tensor in found.tensors.items()
    ]  # fmt: skip
    table = element("table", {}, element("thead", {}, head), element("tbody", {}, join(rows, "\n")))
    return element("details", {"class": "folded"}, element("summary", {}, f"All {len(found.tensors)} tensors"), table)
