"""The pixels of a scene: smooth edges, a light ground that is nowhere quite even."""

import io
import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from pipeline.drawing.scene import CANVAS, Scene, Thing

RGB = {
    "red": (205, 20, 35),
    "green": (35, 150, 55),
    "blue": (35, 70, 215),
    "yellow": (245, 215, 30),
    "purple": (135, 45, 165),
    "orange": (250, 125, 10),
    "black": (25, 25, 25),
    "cyan": (70, 210, 230),
}
INK_SHARE = 0.7
"""Of white in stripes and dots; the rest is the thing's colour, so that its outline stays whole."""
FINE = 4
"""Drawn so many times as large, then averaged: that smooths the edges."""
QUALITY = 95
_PITCH = {"striped": 22, "dotted": 17}
"""Units from one stripe or dot to the next: small enough that a small star shows several."""
_GROUND_CELLS = (9, 8)
_GROUND_SPREAD = 4

Draw = Callable[[ImageDraw.ImageDraw, float], None]


def picture(scene: Scene, rng: random.Random, side_px: int) -> Image.Image:
    """The scene, `side_px` to a side; `rng` makes the ground."""
    image = ground(rng, side_px)
    # What is inside another stands before it in a scene, and is drawn over it.
    for thing in sorted(scene.things, key=lambda thing: -thing.extent):
        _paste(image, thing, side_px / CANVAS)
    return image


def ground(rng: random.Random, side_px: int) -> Image.Image:
    """A light grey that varies smoothly.

    The hold-out rule compares the brightness of neighbouring parts of images. Were the ground even, scenes would look alike
    to it.
    """
    level = rng.randint(226, 246)
    cells = bytes(level + rng.randint(-_GROUND_SPREAD, _GROUND_SPREAD) for _ in range(math.prod(_GROUND_CELLS)))
    grey = Image.frombytes("L", _GROUND_CELLS, cells)
    return grey.resize((side_px, side_px), Image.Resampling.BICUBIC).convert("RGB")


def jpeg(image: Image.Image) -> bytes:
    """The same bytes for the same pixels, under one version of Pillow and its JPEG library.

    JPEG, as photographs are, so that the loader does what it does with them; without chroma subsampling, since thin stripes
    of colour would run into each other.
    """
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=QUALITY, subsampling=0)
    return encoded.getvalue()


def box_px(thing: Thing, side_px: int) -> tuple[float, float, float, float]:
    """x y w h of the thing's box in pixels."""
    scale = side_px / CANVAS
    half = thing.extent / 2
    return (thing.x - half) * scale, (thing.y - half) * scale, thing.extent * scale, thing.extent * scale


def _paste(image: Image.Image, thing: Thing, scale: float) -> None:
    half = thing.extent / 2
    left, top = (math.floor((centre - half) * scale) for centre in (thing.x, thing.y))
    size = math.ceil(thing.extent * scale) + 1
    # Corner of the box within its tile, and its extent, both in the tile's fine pixels.
    dx, dy = ((centre - half) * scale - corner for centre, corner in ((thing.x, left), (thing.y, top)))
    extent = thing.extent * scale * FINE
    mask = Image.new("L", (size * FINE, size * FINE))
    _SHAPES[thing.shape](ImageDraw.Draw(mask), dx * FINE, dy * FINE, extent)
    image.paste(_filled(thing, size, scale), (left, top), mask.reduce(FINE))


def _filled(thing: Thing, size: int, scale: float) -> Image.Image:
    """A tile of the thing's colour and texture."""
    colour = RGB[thing.colour]
    if thing.texture == "solid":
        return Image.new("RGB", (size, size), colour)
    red, green, blue = (round(c + (255 - c) * INK_SHARE) for c in colour)
    fine, ink = size * FINE, (red, green, blue)
    tile = Image.new("RGB", (fine, fine), colour)
    draw, pitch = ImageDraw.Draw(tile), _PITCH[thing.texture] * scale * FINE
    if thing.texture == "striped":
        for i in range(-math.ceil(fine / pitch), math.ceil(fine / pitch) + 1):
            draw.line((i * pitch, 0, i * pitch + fine, fine), ink, round(pitch * 0.34))
    else:
        radius = pitch * 0.3
        for row in range(math.ceil(fine / pitch) + 1):
            for column in range(math.ceil(fine / pitch) + 1):
                x, y = (column + row % 2 / 2) * pitch, row * pitch * 0.87
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), ink)
    return tile.reduce(FINE)


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, w: float) -> None:
    draw.ellipse((x, y, x + w - 1, y + w - 1), 255)


def _square(draw: ImageDraw.ImageDraw, x: float, y: float, w: float) -> None:
    draw.rectangle((x, y, x + w - 1, y + w - 1), 255)


def _triangle(draw: ImageDraw.ImageDraw, x: float, y: float, w: float) -> None:
    draw.polygon(((x + w / 2, y), (x, y + w - 1), (x + w - 1, y + w - 1)), 255)


def _star(draw: ImageDraw.ImageDraw, x: float, y: float, w: float) -> None:
    points = [
        (r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5))
        for i in range(10)
        for r in [1 if i % 2 == 0 else 0.42]
    ]
    left, top = (min(p[axis] for p in points) for axis in (0, 1))
    across, down = (max(p[axis] for p in points) - low for axis, low in ((0, left), (1, top)))
    draw.polygon([(x + (px - left) / across * (w - 1), y + (py - top) / down * (w - 1)) for px, py in points], 255)


def _cross(draw: ImageDraw.ImageDraw, x: float, y: float, w: float) -> None:
    a, b = w * 0.33, w * 0.67
    draw.rectangle((x + a, y, x + b, y + w - 1), 255)
    draw.rectangle((x, y + a, x + w - 1, y + b), 255)


def _ring(draw: ImageDraw.ImageDraw, x: float, y: float, w: float) -> None:
    _circle(draw, x, y, w)
    bar = w * 0.18
    draw.ellipse((x + bar, y + bar, x + w - bar - 1, y + w - bar - 1), 0)


_SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, float, float, float], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}
