"""Pictures of the page with what both networks find, read back from its HTML."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from onnx_lowrank.report import to_html
from onnx_lowrank.verify import FoundExample
from tests.report.found import FOUND_BOXES, FOUND_PIXELS, FOUND_TEXTS, classes, found
from tests.report.pages import FIGURES
from tests.report.test_page import Page
from tests.report.test_report import REPORT


def page(examples: tuple[FoundExample, ...]) -> Page:
    return Page(to_html(REPORT, replace(FIGURES, samples=(), found=examples)))


def test_boxes_of_both_networks_side_by_side() -> None:
    shown = page(FOUND_BOXES)
    words = shown.words
    assert "What both networks find 3 of 12 held-out samples, those that differ most first. Dashed boxes" in words
    assert "original 2 boxes" in words
    assert "converted 1 box sample 7 1 the same" in words
    pictures = [each for each in shown.all("svg") if each.get("viewbox", each.get("viewBox")) == "0 0 160 120"]
    assert [each["aria-label"] for each in pictures] == [
        "Held-out sample 7, original: 2 boxes; 1 the same",
        "Held-out sample 7, converted: 1 box; 1 the same",
        "Held-out sample 2, original: 1 box; 1 the same",
        "Held-out sample 2, converted: 1 box; 1 the same",
        "Held-out sample 1, original: 0 boxes; nothing in either",
        "Held-out sample 1, converted: 0 boxes; nothing in either",
    ]
    lines = [each for each in shown.all("rect") if each.get("class") == "line"]
    assert [tuple(float(each[key]) for key in ("x", "y", "width", "height")) for each in lines] == [
        (10, 20, 50, 30),
        (80, 30, 70, 80),
        (11, 20, 50, 30),
        (10, 20, 50, 30),
        (10, 20, 50, 30),
    ]
    assert [each.get("class") for each in shown.all("g") if each.get("class") == "alone"] == ["alone"]
    assert "class 3, score 0.88" in words
    # Every image is in the page once: the second picture uses the first one's.
    assert [each["href"] for each in shown.all("use")][:3] == ["#found-7", "#found-2", "#found-1"]
    assert [each["id"] for each in shown.all("image")] == ["found-7", "found-2", "found-1"]
    assert [each.get("class", "") for each in shown.all("li")].count("differ") == 1


def decoded(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"), float)


def test_classes_of_pixels_are_coloured() -> None:
    shown = page(FOUND_PIXELS)
    first, second = (decoded(each["src"]) for each in shown.all("img"))
    assert [each["alt"] for each in shown.all("img")] == [
        "Held-out sample 3, original: class 5 on 50.0%, class 0 on 25.0%, class 2 on 25.0%; 75.0% of the pixels the "
        "same",
        "Held-out sample 3, converted: class 2 on 50.0%, class 0 on 25.0%, class 5 on 25.0%; 75.0% of the pixels the "
        "same",
    ]
    stripe = [slice(30 * number + 4, 30 * number + 26) for number in range(4)]
    # The third stripe is of class 5 in one and of class 2 in the other, whose colours are those of other stripes.
    hue = [image[part].mean((0, 1)) - image[part].mean() for image in (first, second) for part in stripe]
    np.testing.assert_allclose(hue[2], hue[3], atol=6)
    np.testing.assert_allclose(hue[6], hue[5], atol=6)
    assert np.abs(hue[2] - hue[6]).max() > 40
    assert np.abs(hue[0]).max() < 6


def test_texts_below_the_image() -> None:
    shown = page(FOUND_TEXTS)
    words = shown.words
    assert "original kept <words> converted kept wards sample 5" in words
    assert "original 12 7 converted 12 7 sample 6 the same" in words
    assert "original nothing converted nothing sample 8 the same" in words
    assert [each["alt"] for each in shown.all("img")] == ["Held-out sample 5", "Held-out sample 6", "Held-out sample 8"]


def test_only_what_is_all_the_same_is_said_to_be() -> None:
    almost = classes(0, 1)
    almost[0, 0] = 1
    assert "99.9% of the pixels the same" in page((found(1, classes(0, 1), almost),)).words
    assert "all of the pixels the same" in page((found(1, classes(0, 1), classes(0, 1)),)).words
