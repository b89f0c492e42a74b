"""Procedural speakers: a drawn, talking, moving face whose expression carries the class.

Everything is drawn in head units: the origin is between nose and eyes, y points down, and the
head is 2 high. Only geometry depends on the class; identity, clothes and room do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

FRAME = 224
"""Side of a frame in pixels, in which everything is drawn up; a film of another size scales it."""
LEAST_FRAME = 56
_SHIFT = 4
_RGB = tuple[int, int, int]

_SKIN = ((246, 214, 190), (232, 190, 158), (214, 166, 128), (178, 126, 92), (132, 90, 66))
_HAIR = ((28, 24, 24), (60, 40, 30), (104, 70, 44), (156, 118, 70), (120, 116, 114))
_EYES = ((70, 46, 30), (52, 80, 110), (60, 90, 60), (40, 32, 28))


@dataclass(frozen=True)
class FaceIdentity:
    """What stays the same in all clips of a speaker."""

    skin: _RGB
    hair: _RGB
    eyes: _RGB
    clothes: _RGB
    width: float
    jaw: float
    eye_gap: float
    brow: float
    long_hair: bool
    parting: float
    glasses: bool
    size: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> FaceIdentity:
        tint = rng.integers(-8, 9, 3)
        skin = np.clip(np.array(_SKIN[rng.integers(len(_SKIN))]) + tint, 0, 255)
        return cls(
            skin=tuple(int(c) for c in skin),
            hair=_HAIR[rng.integers(len(_HAIR))],
            eyes=_EYES[rng.integers(len(_EYES))],
            clothes=tuple(int(c) for c in rng.integers(40, 200, 3)),
            width=rng.uniform(0.70, 0.80),
            jaw=rng.uniform(0.10, 0.26),
            eye_gap=rng.uniform(0.30, 0.36),
            brow=rng.uniform(0.045, 0.075),
            long_hair=bool(rng.random() < 0.5),
            parting=rng.uniform(-0.4, 0.4),
            glasses=bool(rng.random() < 0.2),
            size=rng.uniform(60, 68),
        )


@dataclass(frozen=True)
class Performance:
    """One clip's visual delivery: its expression, how clearly it is shown, and how it moves.

    ``valence`` in about [-1, 1] bends mouth, brows and lids; ``blur`` is a Gaussian's sigma in
    pixels, ``noise`` the sensor noise's in grey levels, ``light`` scales the brightness.
    """

    valence: float
    blur: float
    noise: float
    light: float
    lean: float
    phase: np.ndarray

    @classmethod
    def of(cls, shown: int, emphatic: bool, rng: np.random.Generator) -> Performance:
        return cls(
            valence=(shown - 2) / 2 + rng.normal(0, 0.05),
            blur=rng.uniform(0.0, 0.3) if emphatic else rng.uniform(1.0, 1.5),
            noise=rng.uniform(0.5, 1.5) if emphatic else rng.uniform(2.5, 4.5),
            light=rng.uniform(0.98, 1.08) if emphatic else rng.uniform(0.72, 0.84),
            lean=rng.uniform(1.04, 1.12) if emphatic else rng.uniform(0.94, 1.0),
            phase=rng.uniform(0, 2 * np.pi, 8),
        )


@dataclass(frozen=True)
class Film:
    """How clips are filmed: the same scene in frames of another size, or for longer.

    Attributes
    ----------
    size
        Side of a frame in pixels.
    seconds
        Least length of a clip. After a shorter remark the speaker keeps the face, and the room's
        noise goes on.
    """

    size: int = FRAME
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.size < LEAST_FRAME or self.size % 2:
            raise ValueError(
                f"render_size: {self.size}; expected the side of a frame in pixels, "
                f"an even number (H.264 halves it) from {LEAST_FRAME} on"
            )
        if not 0 <= self.seconds < float("inf"):
            raise ValueError(
                f"render_seconds: {self.seconds}; expected the least length of a clip in seconds, "
                "0 for as long as its remark takes"
            )


class Room:
    """A cluttered background, larger than the frame, under a drifting camera."""

    def __init__(self, rng: np.random.Generator, size: int = FRAME) -> None:
        side = FRAME + 64
        self._size, self._scale = size, size / FRAME
        whole = round(side * self._scale)
        top, bottom = rng.integers(60, 200, (2, 3))
        ramp = np.linspace(0, 1, whole)[:, None, None]
        canvas = np.ascontiguousarray(
            np.broadcast_to(top * (1 - ramp) + bottom * ramp, (whole, whole, 3)).astype(np.uint8)
        )
        for _ in range(rng.integers(14, 26)):
            colour = tuple(int(c) for c in rng.integers(20, 235, 3))
            x, y = (round(c * self._scale) for c in rng.integers(0, side, 2).tolist())
            w, h = (round(c * self._scale) for c in rng.integers(8, 60, 2).tolist())
            if rng.random() < 0.6:
                cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, -1)
            else:
                cv2.ellipse(canvas, (x, y), (w // 2, h // 2), 0, 0, 360, colour, -1, cv2.LINE_AA)
        self._canvas = cv2.GaussianBlur(canvas, (0, 0), 1.6 * self._scale)
        self._drift = rng.uniform(4, 14, 2)
        self._phase = rng.uniform(0, 2 * np.pi, 2)
        self._ball = tuple(int(c) for c in rng.integers(20, 235, 3))
        self._path = rng.uniform(0, FRAME, (2, 2))

    def at(self, time: float) -> np.ndarray:
        """The background at a time in seconds: (size, size, 3) uint8."""
        corner = 32 + self._drift * np.sin(1.1 * time + self._phase)
        x, y = (self._scale * corner).astype(int)
        view = self._canvas[y : y + self._size, x : x + self._size].copy()
        start, end = self._path
        along = start + (end - start) * (0.5 + 0.5 * np.sin(0.9 * time + self._phase[0]))
        x, y = (self._scale * along).astype(int).tolist()
        cv2.circle(view, (x, y), round(12 * self._scale), self._ball, -1, cv2.LINE_AA)
        return view


class Grain:
    """Grey sensor noise: one tile a clip, shown at another offset in every frame.

    A grain is as large a part of every frame, so that scaling one down does not clear it.
    """

    def __init__(self, level: float, rng: np.random.Generator, size: int = FRAME) -> None:
        tile = rng.normal(0, level, (FRAME + 32, FRAME + 32)).astype(np.int16)
        self._size, self._scale = size, size / FRAME
        whole = round(len(tile) * self._scale)
        tile = cv2.resize(tile, (whole, whole), interpolation=cv2.INTER_NEAREST)
        self._tile = cv2.merge([tile, tile, tile])

    def at(self, rng: np.random.Generator) -> np.ndarray:
        x, y = (self._scale * rng.integers(0, 32, 2)).astype(int)
        return self._tile[y : y + self._size, x : x + self._size]


def _shade(colour: _RGB, factor: float) -> _RGB:
    return tuple(int(min(max(c * factor, 0), 255)) for c in colour)


@cache
def _circle(lo: float, hi: float) -> np.ndarray:
    t = np.deg2rad(np.linspace(lo, hi, 40))
    return np.stack([np.cos(t), np.sin(t)], 1)


def _arc(cx: float, cy: float, rx: float, ry: float, lo: float = 0, hi: float = 360) -> np.ndarray:
    return _circle(lo, hi) * (rx, ry) + (cx, cy)


class _Head:
    """Maps head units to pixels and draws filled shapes and strokes there."""

    def __init__(self, image: np.ndarray, centre: np.ndarray, size: float, roll: float) -> None:
        self.image = image
        c, s = np.cos(roll) * size, np.sin(roll) * size
        self._matrix = np.array([[c, s], [-s, c]])
        self._centre, self._size = centre, size

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        xy = np.asarray(points) @ self._matrix + self._centre
        return np.round(xy * (1 << _SHIFT)).astype(np.int32)

    def fill(self, points: np.ndarray, colour: _RGB) -> None:
        cv2.fillPoly(self.image, [self._pixels(points)], colour, cv2.LINE_AA, _SHIFT)

    def stroke(self, points: np.ndarray, width: float, colour: _RGB) -> None:
        thickness = max(1, round(width * self._size))
        cv2.polylines(
            self.image, [self._pixels(points)], False, colour, thickness, cv2.LINE_AA, _SHIFT
        )


def _draw_body(head: _Head, who: FaceIdentity) -> None:
    t = np.linspace(0, np.pi, 40)
    shoulders = np.stack([1.75 * np.cos(t), 2.35 - 1.2 * np.sin(t) ** 0.6], 1)
    shoulders = np.vstack([shoulders, [[-1.75, 4.5], [1.75, 4.5]]])
    if who.long_hair:
        head.fill(_arc(0, 0.25, who.width + 0.26, 1.35), _shade(who.hair, 0.85))
    head.fill(shoulders, who.clothes)
    head.fill([[-0.3, 0.6], [0.3, 0.6], [0.36, 1.25], [0, 1.42], [-0.36, 1.25]],
              _shade(who.skin, 0.82))  # fmt: skip


def _outline(who: FaceIdentity, scale: float = 1.0) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 72)
    narrowing = 1 - who.jaw * np.clip(np.sin(t), 0, 1) ** 2
    return scale * np.stack([who.width * np.cos(t) * narrowing, np.sin(t)], 1)


def _draw_skull(head: _Head, who: FaceIdentity) -> None:
    for side in (-1, 1):
        head.fill(_arc(side * (who.width - 0.01), 0.02, 0.11, 0.19), _shade(who.skin, 0.9))
    head.fill(_outline(who), _shade(who.skin, 0.93))
    head.fill(_outline(who, 0.93) + [0, -0.02], who.skin)
    head.fill(_outline(who, 0.72) + [0.02, -0.06], _shade(who.skin, 1.04))
    crown = _arc(0, -0.28, who.width + 0.09, 0.86, 180, 360)
    fringe = _arc(who.parting * 0.4, -0.5, who.width * 0.92, 0.30, 360, 180)
    head.fill(np.vstack([crown, fringe + [0, -0.05]]), who.hair)


def _draw_eyes(head: _Head, who: FaceIdentity, valence: float, lid: float, gaze: float) -> None:
    open_ = (0.10 - 0.028 * max(valence, 0) - 0.018 * max(-valence, 0)) * lid
    for side in (-1, 1):
        x, y = side * who.eye_gap, -0.10
        head.fill(_arc(x, y, 0.20, 0.15), _shade(who.skin, 0.92))
        head.fill(_arc(x, y, 0.155, max(open_, 0.012)), (245, 245, 242))
        if open_ > 0.03:
            head.fill(_arc(x + gaze, y, 0.075, min(0.075, open_)), who.eyes)
            head.fill(_arc(x + gaze, y, 0.035, min(0.035, open_)), (10, 10, 10))
        lid_line = _arc(x, y, 0.165, open_ + 0.012, 180, 360)
        head.stroke(lid_line, 0.035, _shade(who.skin, 0.35))
        if valence > 0:
            head.stroke(_arc(x, y + 0.03, 0.16, 0.12, 30, 150), 0.02 * valence + 0.01,
                        _shade(who.skin, 0.78))  # fmt: skip
        # Brows: the inner end drops in a frown and the whole arc lifts in delight.
        inner = -0.34 + 0.15 * max(-valence, 0) - 0.07 * max(valence, 0)
        outer = -0.32 - 0.06 * max(-valence, 0) - 0.03 * max(valence, 0)
        u = np.linspace(0, 1, 12)
        brow_x = side * (0.13 + 0.40 * u)
        brow_y = inner * (1 - u) + outer * u - (0.05 + 0.05 * max(valence, 0)) * np.sin(np.pi * u)
        head.stroke(np.stack([brow_x, brow_y], 1), who.brow, _shade(who.hair, 0.8))
        if who.glasses:
            head.stroke(_arc(x, y, 0.24, 0.20), 0.025, (40, 40, 44))
    if valence < -0.3:
        for x in (-0.05, 0.05):
            head.stroke([[x, -0.36], [x * 0.8, -0.24]], 0.02, _shade(who.skin, 0.7))
    if who.glasses:
        head.stroke(
            [[-who.eye_gap + 0.24, -0.10], [who.eye_gap - 0.24, -0.10]], 0.025, (40, 40, 44)
        )


def _draw_nose(head: _Head, who: FaceIdentity) -> None:
    dark = _shade(who.skin, 0.72)
    head.stroke([[0.04, -0.05], [0.09, 0.20], [0.0, 0.26]], 0.025, _shade(who.skin, 0.84))
    head.stroke(_arc(0, 0.24, 0.11, 0.05, 10, 170), 0.03, dark)


def _draw_mouth(head: _Head, who: FaceIdentity, valence: float, open_: float) -> None:
    half = 0.27 + 0.09 * valence
    u = np.linspace(-1, 1, 24)
    bend = (0.20 if valence > 0 else 0.16) * valence
    centre = 0.56 + 0.06 * valence
    line = centre + bend * (0.5 - u**2)
    gap = (0.015 + open_) * (1 - u**2)
    upper = np.stack([half * u, line - 0.4 * gap], 1)
    lower = np.stack([half * u, line + gap], 1)
    lips = tuple(int(c) for c in (0.55 * np.array(who.skin) + 0.45 * np.array((170, 60, 70))))
    head.stroke(upper, 0.075, lips)
    head.stroke(lower, 0.085, lips)
    head.fill(np.vstack([upper, lower[::-1]]), (62, 20, 24))
    if open_ > 0.04 or valence > 0.6:
        teeth = np.stack([0.8 * half * u, line - 0.3 * gap], 1)
        head.fill(np.vstack([teeth, teeth[::-1] + [0, 0.4 * gap.max()]]), (240, 238, 232))
    if abs(valence) > 0.25:
        # Naso-labial folds pull up in a smile and down in a frown.
        lift = -0.10 * valence
        for side in (-1, 1):
            fold = [[side * 0.20, 0.26], [side * (0.36 + 0.05 * valence), 0.42 + lift],
                    [side * (0.40 + 0.06 * valence), 0.60 + lift]]  # fmt: skip
            head.stroke(fold, 0.02, _shade(who.skin, 0.80))


def _valence(act: Performance, time: float) -> float:
    """The expression at a time: it sets in over 0.4 s, then wavers a little."""
    onset = 0.75 + 0.25 * min(time / 0.4, 1.0)
    return act.valence * onset * (1 + 0.06 * np.sin(4.2 * time + act.phase[0]))


@dataclass(frozen=True)
class Pose:
    """Where the head is: centre (x, y) and half its height in pixels of FRAME, roll in radians."""

    centre: np.ndarray
    size: float
    roll: float


def head_pose(who: FaceIdentity, act: Performance, time: float) -> Pose:
    """The head's pose at a time in seconds."""
    p = act.phase
    x = FRAME / 2 + 10 * np.sin(p[1]) + 5 * np.sin(1.7 * time + p[2])
    y = FRAME * 0.46 + 4 * np.sin(2.3 * time + p[3]) - 3 * _valence(act, time)
    return Pose(np.array([x, y]), who.size * act.lean, 0.06 * np.sin(1.3 * time + p[4]))


def render_frame(
    who: FaceIdentity,
    act: Performance,
    room: Room,
    grain: Grain,
    time: float,
    rng: np.random.Generator,
    *,
    talks: bool = True,
) -> np.ndarray:
    """One frame at a time in seconds: (size, size, 3) uint8, RGB, of the room's size."""
    p = act.phase
    image = room.at(time)
    scale = len(image) / FRAME
    valence = _valence(act, time)
    pose = head_pose(who, act, time)
    head = _Head(image, pose.centre * scale, pose.size * scale, pose.roll)
    talk = talks * 0.11 * np.clip(np.sin(2 * np.pi * 3.3 * time + p[5]), 0, 1)
    blink = 0.1 if np.sin(2.1 * time + p[6]) > 0.985 else 1.0
    _draw_body(head, who)
    _draw_skull(head, who)
    _draw_eyes(head, who, valence, blink, 0.02 * np.sin(0.8 * time + p[7]))
    _draw_nose(head, who)
    _draw_mouth(head, who, valence, talk)
    if act.blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), act.blur * scale)
    light = cv2.convertScaleAbs(image, alpha=act.light)
    return cv2.add(light, grain.at(rng), dtype=cv2.CV_8U)
