"""The explorer's picture as one SVG string.

Written directly: in a fraction of the time that matplotlib takes for the same (notebook 11).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

from emomm_lib.labels import CLASSES, MODALITIES
from emomm_study.report.explorer.shown import Shown
from emomm_study.report.style import COLOURS, INK

WIDTH, HEIGHT = 800, 480
BEFORE, AFTER = "#B9BFC9", "#3F4A5A"
_GRID = "#DADADA"
_TOP, _TALL = 34, 150
_MODALITY = [COLOURS[m.lower()] for m in MODALITIES]


def text(
    x: float, y: float, words: str, *, size: float = 11, anchor: str = "middle", bold: bool = False,
    colour: str = INK,
) -> str:  # fmt: skip
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}"{weight}>{escape(words)}</text>'
    )


def rect(x: float, y: float, w: float, h: float, fill: str, edge: str = "none") -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}" '
        f'stroke="{edge}"/>'
    )


@dataclass(frozen=True)
class Panel:
    """Axes in the picture: values from 0 to 1 upwards, layers 1..n to the right."""

    x: float
    y: float
    wide: float
    tall: float
    layers: int

    def at(self, layer: float, value: float) -> tuple[float, float]:
        """Where a value of a layer stands."""
        right = (layer - 0.5) / self.layers
        return self.x + right * self.wide, self.y + (1 - value) * self.tall

    def frame(self, title: str, *, layered: bool = True) -> str:
        """Title, grid and tick labels."""
        parts = [text(self.x, self.y - 12, title, size=12, anchor="start", bold=True)]
        for value in (0, 0.5, 1):
            y = self.at(1, value)[1]
            parts.append(_line([(self.x, y), (self.x + self.wide, y)], _GRID))
            parts.append(text(self.x - 5, y + 4, f"{value:g}", anchor="end", size=10))
        return "".join(parts) + (self.layer_ticks() if layered else "")

    def layer_ticks(self) -> str:
        """Numbers of layers beneath, as many as there is room for."""
        step = max(1, -(-self.layers // 10))
        found = [
            text(self.at(layer, 0)[0], self.y + self.tall + 14, str(layer), size=10)
            for layer in range(1, self.layers + 1, step)
        ]
        middle = self.x + self.wide / 2
        return "".join(found) + text(middle, self.y + self.tall + 29, "layer", size=10)

    def curve(
        self, values: np.ndarray, colour: str, *, dashed: bool = False, width: float = 2
    ) -> str:
        """``(layers,)`` values as a line, with dots unless it is dashed; NaN is left out."""
        points = [self.at(i + 1, v) for i, v in enumerate(values) if np.isfinite(v)]
        if dashed:
            return _line(points, colour, 1.4, True)
        size = 1 + 0.8 * width
        dots = (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}"/>' for x, y in points
        )
        return _line(points, colour, width) + "".join(dots)


def _line(points: list, colour: str, width: float = 1, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'


def _letters(shown: Shown, panel: Panel) -> str:
    parts = [panel.frame("Answer", layered=False)]
    for k, name in enumerate(CLASSES):
        middle = panel.at(k + 1, 0)[0]
        for left, look, colour in ((-15, shown.before, BEFORE), (1, shown.after, AFTER)):
            tall = panel.tall * float(look.letters[k])
            y = panel.y + panel.tall - tall
            parts.append(rect(middle + left, y, 14, tall, colour))
            if look.label == k:
                value = f"{look.letters[k]:.2f}".lstrip("0")
                parts.append(text(middle + left + 7, y - 3, value, size=9, colour=INK))
        truth = k == shown.truth
        y = panel.y + panel.tall + 14
        parts.append(text(middle, y, name, bold=truth, colour=COLOURS["gt"]))
        if truth:
            parts.append(text(middle, y + 15, "GT ▲", size=10, bold=True, colour=COLOURS["gt"]))
    parts.append(_key(panel, [("before", BEFORE), ("after", AFTER)]))
    return "".join(parts)


def _key(panel: Panel, names: list[tuple[str, str]]) -> str:
    """A legend on the title's line, from the right."""
    found, x = [], panel.x + panel.wide
    for name, colour in reversed(names):
        x -= 6.2 * len(name)
        found.append(text(x, panel.y - 12, name, size=10, anchor="start"))
        x -= 13
        found.append(rect(x, panel.y - 20, 9, 9, colour))
        x -= 8
    return "".join(found)


def _budget(shown: Shown, panel: Panel) -> str:
    parts = [panel.frame("Attention budget")]
    for k in np.flatnonzero(shown.present):
        parts.append(panel.curve(shown.before.share[:, k], _MODALITY[k], dashed=True))
    for k in np.flatnonzero(shown.present):
        parts.append(panel.curve(shown.after.share[:, k], _MODALITY[k]))
    right = panel.x + panel.wide
    parts.append(text(right, panel.y - 12, "dashed: before", size=10, anchor="end"))
    return "".join(parts)


def _gate(shown: Shown, panel: Panel) -> str:
    parts = [panel.frame("Gate")]
    tau = panel.at(1, shown.state.config.tau)[1]
    parts.append(_line([(panel.x, tau), (panel.x + panel.wide, tau)], INK, 1, True))
    parts.append(text(panel.x + panel.wide + 3, tau + 4, "τ", anchor="start"))
    for k in np.flatnonzero(shown.present):
        parts.append(panel.curve(shown.after.gate[:, k], _MODALITY[k]))
    # Thin, so that a gate that trusts one modality alone is seen beneath a p near 1.
    parts.append(panel.curve(shown.after.conflict, INK, width=1))
    named = [("p", INK), *zip(("g T", "g A", "g V"), _MODALITY, strict=True)]
    parts.append(_key(panel, named))
    return "".join(parts)


def _heads(shown: Shown, panel: Panel) -> str:
    heads = shown.after.heads
    wide, tall = panel.wide / heads.shape[0], panel.tall / heads.shape[1]
    title = f"Steered heads ({heads.sum()} of {heads.size})"
    parts = [text(panel.x, panel.y - 12, title, size=12, anchor="start", bold=True)]
    for layer, row in enumerate(heads):
        early = layer + 1 < shown.state.config.first_layer
        for head, fired in enumerate(row):
            fill = AFTER if fired else "#F7F7F7" if early else "#E6E8EC"
            x, y = panel.x + layer * wide, panel.y + head * tall
            parts.append(rect(x + 0.5, y + 0.5, wide - 1, tall - 1, fill))
    step = max(1, -(-heads.shape[1] // 8))
    for head in range(0, heads.shape[1], step):
        y = panel.y + (head + 0.5) * tall + 3.5
        parts.append(text(panel.x - 5, y, str(head + 1), anchor="end", size=10))
    middle = panel.y + panel.tall / 2
    parts.append(
        f'<g transform="rotate(-90 {panel.x - 22:.1f} {middle:.1f})">'
        f"{text(panel.x - 22, middle, 'head', size=10)}</g>"
    )
    return "".join(parts) + panel.layer_ticks()


def data_url(pixels: np.ndarray, kind: str) -> str:
    """``(h, w, 3 or 4)`` uint8 pixels in RGB or RGBA as ``jpeg`` or ``png``."""
    order = [2, 1, 0, 3][: pixels.shape[-1]]
    _, data = cv2.imencode(f".{kind}", np.ascontiguousarray(pixels[..., order]))
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def tinted(heat: np.ndarray, top: float) -> np.ndarray:
    """``(h, w, 4)`` RGBA of attention: video's green, opaque at ``top``."""
    colour = [int(COLOURS["v"][i : i + 2], 16) for i in (1, 3, 5)]
    pixels = np.empty((*heat.shape, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = np.round(235 * np.clip(heat / max(top, 1e-12), 0, 1))
    return pixels


def _frames(shown: Shown, x: float, y: float, wide: float, tall: float) -> str:
    layer = shown.state.config.first_layer
    words = f"Attention on the frames, layers from {layer} on"
    parts = [text(x, y - 12, words, size=12, anchor="start", bold=True)]
    if shown.opened.tiles is None:
        words = f"no video in {shown.state.coalition}"
        parts.append(rect(x, y, wide, tall, "#F4F4F4"))
        return "".join([*parts, text(x + wide / 2, y + tall / 2, words)])
    heats = shown.heat()
    top = max(h.max() for h in heats)
    tiles = shown.opened.tiles
    # As many frames as leave room to see something in each.
    count = min(len(tiles), 4)
    side = min((wide - 20) / (2 * count), tall)
    high = side * tiles.shape[1] / tiles.shape[2]
    for group, (heat, name) in enumerate(zip(heats, ("before", "after"), strict=True)):
        start = x + group * (count * side + 20)
        for i, t in enumerate(np.linspace(0, len(tiles) - 1, count).astype(int)):
            size = f'y="{y:.1f}" width="{side - 2:.1f}" height="{high - 2:.1f}"'
            place = f'x="{start + i * side:.1f}" {size} preserveAspectRatio="none"'
            parts.append(f'<image {place} href="{data_url(tiles[t], "jpeg")}"/>')
            tint = data_url(tinted(heat[t], top), "png")
            parts.append(f'<image {place} style="image-rendering:pixelated" href="{tint}"/>')
        total = f"{name}: {heat.sum():.3f} on video"
        parts.append(text(start, y + high + 14, total, size=10, anchor="start"))
    remark = "of the decision query, mean of heads and layers; one scale before and after"
    parts.append(text(x, y + high + 34, remark, size=10, anchor="start"))
    return "".join(parts)


def picture(shown: Shown) -> str:
    """A state's picture: answer, attention budget, gate, steered heads, frames."""
    layers = len(shown.after.conflict)
    low = _TOP + _TALL + 80
    parts = [
        _letters(shown, Panel(30, _TOP, 220, _TALL, len(CLASSES))),
        _budget(shown, Panel(300, _TOP, 225, _TALL, layers)),
        _gate(shown, Panel(565, _TOP, 215, _TALL, layers)),
        _heads(shown, Panel(30, low, 220, 175, layers)),
        _frames(shown, 300, low, 490, 175),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'style="display:block;background:white">{"".join(parts)}</svg>'
    )
