"""A figure on a dark ground, out of the one on white: for readers whose screen is dark."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

GROUND, INK = 8.0, 94.0
"""CIELAB lightness of what white and black become, 0 to 100."""
_LIFT = 0.6
"""Below 1: what is light on white, as orange and cyan are, would else be dim on a dark ground."""

Box = tuple[float, float, float, float]
"""Left, bottom, right and top of a part of a figure, as fractions of its width and height."""


def darkened(colours: ArrayLike) -> NDArray[np.float64]:
    """Colours ``(..., 3)`` on white, sRGB in 0..1, as they are on a dark ground.

    The darker of two colours becomes the lighter one, so that whatever stood out, from the ground or
    from one another, still does; hues stay.
    """
    lab = rgb2lab(np.asarray(colours, dtype=float))
    depth = np.clip(1 - lab[..., 0] / 100, 0, 1)
    lab[..., 0] = GROUND + (INK - GROUND) * depth**_LIFT
    with warnings.catch_warnings():
        # What leaves the gamut is brought back into it.
        warnings.filterwarnings("ignore", "Conversion from CIE-LAB")
        return lab2rgb(lab)


def picture_boxes(fig: Figure) -> list[Box]:
    """Where a drawn figure has pictures, with what lies on them, and the colour bars that read them."""
    pictured = [ax for ax in fig.axes if ax.images]
    bars = [ax for ax in fig.axes if hasattr(ax, "_colorbar")] if pictured else []
    width, height = fig.bbox.size
    # In pixels: positions are fractions of what axes stand in, which can be a part of the figure.
    places = (ax.bbox.extents for ax in (*pictured, *bars))
    return [tuple(place / (width, height, width, height)) for place in places]


def dark_picture(png: bytes, boxes: Sequence[Box] = ()) -> bytes:
    """A PNG of a figure on white as a PNG of half its size on a dark ground.

    What lies in ``boxes`` stays as it is. The same picture gives the same bytes.
    """
    with Image.open(io.BytesIO(png)) as image:
        light = np.asarray(image.convert("RGB").reduce(2))
    dark = np.round(255 * darkened(light / 255)).astype(np.uint8)
    height, width = light.shape[:2]
    for left, bottom, right, top in boxes:
        rows = slice(round((1 - top) * height), round((1 - bottom) * height))
        columns = slice(round(left * width), round(right * width))
        dark[rows, columns] = light[rows, columns]
    made = Image.fromarray(dark)
    if not boxes:
        # Lines and letters have few colours, and a palette makes a third of the bytes.
        made = made.quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    made.save(buffer, "png", optimize=True)
    return buffer.getvalue()
