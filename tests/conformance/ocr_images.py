"""Rendered text as PP-OCR takes it: pages to find text on, lines to read, lines that may stand upside down."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Array = NDArray[Any]
Colour = tuple[int, ...]

CONSONANTS, VOWELS = list("bcdfghjkmnpqrstvwxyz"), list("aeu")  # without letters that look like others
HEIGHT = 48  # of a line
GREY = (127, 127, 127)  # nothing, once prepared


def pages(seed: int, count: int, height: int = 320, width: int = 320) -> Array:
    """Pages of a few words, of all sizes and colours."""
    generator = np.random.default_rng(seed)
    return _prepared([_page(generator, height, width) for _ in range(count)])


def lines(seed: int, count: int, width: int = 320) -> Array:
    """Single lines of one or two words, as the detector would cut them out."""
    generator = np.random.default_rng(seed)
    return _prepared([_line(generator, width) for _ in range(count)])


def turned_lines(seed: int, count: int, width: int = 192) -> Array:
    """Lines, every second one upside down."""
    turned = lines(seed, count, width)
    turned[1::2] = turned[1::2, :, ::-1, ::-1]
    return turned


def _page(generator: np.random.Generator, height: int, width: int) -> Image.Image:
    image, ink = _paper(generator, height, width)
    draw = ImageDraw.Draw(image)
    top = int(generator.integers(4, 24))
    while top + (size := int(generator.integers(14, 34))) < height:
        left = int(generator.integers(0, width // 3))
        draw.text((left, top), _words(generator, 3), ink, ImageFont.load_default(size))
        top += size + int(generator.integers(8, 40))
    return _grainy(generator, image)


def _line(generator: np.random.Generator, width: int) -> Image.Image:
    """Text as large as the line, grey behind it."""
    text, font = _words(generator, 2), ImageFont.load_default(36)
    left, top, right, bottom = font.getbbox(text)
    margin = int(generator.integers(3, 9))
    image, ink = _paper(generator, round(bottom - top) + 2 * margin, round(right - left) + 2 * margin)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, ink, font)
    fitted = image.resize((min(width, round(image.width * HEIGHT / image.height)), HEIGHT))
    line = Image.new("RGB", (width, HEIGHT), GREY)
    line.paste(_grainy(generator, fitted))
    return line


def _words(generator: np.random.Generator, most: int) -> str:
    return " ".join(_word(generator) for _ in range(generator.integers(1, most + 1)))


def _word(generator: np.random.Generator) -> str:
    """Syllables, with a capital or without, or a number."""
    if generator.random() < 0.2:
        return str(generator.integers(10, 100_000))
    syllables = range(generator.integers(1, 4))
    word = "".join(generator.choice(CONSONANTS) + generator.choice(VOWELS) for _ in syllables)
    return word.title() if generator.random() < 0.5 else word


def _paper(generator: np.random.Generator, height: int, width: int) -> tuple[Image.Image, Colour]:
    """A background that grows brighter or darker to the right, and an ink that stands out from it."""
    light, dark = generator.integers(170, 256, 3), generator.integers(0, 90, 3)
    paper, ink = (light, dark) if generator.random() < 0.7 else (dark, light)
    shade = np.linspace(0, generator.uniform(-40, 40), width)[:, None]
    pixels = np.broadcast_to(paper + shade, (height, width, 3))
    return _image(pixels), tuple(ink.tolist())


def _grainy(generator: np.random.Generator, image: Image.Image) -> Image.Image:
    noise = generator.normal(0, generator.uniform(0, 12), (image.height, image.width, 3))
    return _image(np.asarray(image) + noise)


def _image(pixels: Array) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _prepared(images: list[Image.Image]) -> Array:
    """What the models take: channels blue, green, red; from -1 to 1."""
    pixels = np.stack([np.asarray(image, np.float32)[:, :, ::-1] for image in images])
    return np.ascontiguousarray((pixels / 255 - 0.5).transpose(0, 3, 1, 2) / 0.5)
