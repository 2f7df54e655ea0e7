"""The page of a located region: every tensor in its place, those chosen framed."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from utils.report.region_page import Place, heat_map, page
from utils.training.region_file import LocatedRegion, Source, Tensorwise

LORA = "base_model.model.model.layers.{}.{}.lora_{}.default.weight"


def made_up(**magnitudes: float) -> LocatedRegion:
    """Two layers of one module: A and B tensors, those named in `magnitudes` larger than 1e-4 and located."""
    keys = {LORA.format(layer, "self_attn.o_proj", part): f"{part}{layer}" for layer in (0, 1) for part in "AB"}
    tensors = {name: Tensorwise(0.5, magnitudes.get(key, 1e-4), 8) for name, key in keys.items()}
    source = Source("0" * 16, "1" * 16, 3, False, 42, 6, 9)
    return LocatedRegion(source, tensors, 0.9, 1e-3, "located", tuple(n for n, t in tensors.items() if t.magnitude > 1e-3))


class Tags(HTMLParser):
    """Elements of a page by tag, with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.mark.parametrize(
    "name, place",
    [
        (LORA.format(31, "mlp.up_proj", "B"), ("B", 31, "up_proj")),
        (LORA.format(0, "self_attn.q_proj", "A"), ("A", 0, "q_proj")),
        ("model.layers.7.input_layernorm.weight", ("", 7, "input_layernorm")),
        ("model.decoder.layers.2.self_attn.k_proj.bias", ("", 2, "k_proj.bias")),
        ("gpt_neox.layers.5.attention.query_key_value.weight", ("", 5, "query_key_value")),
        ("model.embed_tokens.weight", ("", None, "embed_tokens")),
        ("base_model.model.model.embed_tokens.lora_embedding_A.default", ("A", None, "embed_tokens")),
    ],
)
def test_where_a_tensor_stands(name, place):
    assert Place.of(name) == place


def test_heat_map_by_hand():
    """Of two B tensors the larger is framed and opaque, the smaller faint; layers are rows."""
    drawn = Tags(heat_map(made_up(B1=1e-2), "B"))
    cells = {cell["y"]: cell for cell in drawn.of("rect")}
    assert [cell["class"] for cell in cells.values()] == ["cell", "cell located"]
    assert [cell["fill-opacity"] for cell in cells.values()] == ["0.05", "1"]
    assert float(list(cells)[1]) - float(list(cells)[0]) == 16
    assert heat_map(made_up(), "C") is None


def test_page_tells_what_was_located():
    shown = page(made_up(A0=2e-3, B1=1e-2), "knowundo <unlearn>")
    tags = Tags(shown)
    assert len(tags.of("svg")) == 2 and len(tags.of("rect")) == 4 and not tags.of("script")
    assert [cell["class"] for cell in tags.of("rect")].count("cell located") == 2
    assert "2 of 4 tensors, 50.0% of 32 parameters" in shown and "knowundo &lt;unlearn&gt;" in shown
    assert shown.count("<td>yes</td>") == 2
    assert "6 forget and 9 retain answers, each corrupted 3 times" in " ".join(shown.split())
