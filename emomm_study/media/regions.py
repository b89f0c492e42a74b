"""The part of a clip's frames that people fill, and what is left without the rest.

Sec. 4.3 and Appendix C.2: background outside the person/face region is suppressed, so that fewer
video tokens carry more evidence. Regions come from :mod:`emomm_study.media.person`; here they are
used on pixels (:func:`suppress`) or on tokens (:func:`token_cover`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

KINDS = ("person+face", "person", "face", "kept", "none")
FILLS = {"mean": (123, 117, 104), "black": (0, 0, 0)}
"""RGB of suppressed pixels. ``mean`` is the image_mean of CLIP's and Qwen's processors."""


@dataclass(frozen=True)
class PersonSettings:
    """How a person is found.

    Parameters
    ----------
    face_confidence
        Least score of a face at the second look, in [0, 1] (:meth:`FaceDetector.search`). A face
        that is missed costs little: its person is then looked for in the whole frame.
    face_margin
        What a face's box, which ends at brows and chin, grows by on each side, as a share of its
        width and height: hair, ears and jaw.
    person_threshold
        Least probability of a person's pixel, in (0, 1).
    person_window
        Side of the square around a face in which its person is segmented, in face heights.
    least_share
        Least share of the frame, in [0, 1), of a connected region without a face that counts as a
        person.
    longest_gap
        Frames for which a pixel may fall out of the region before it comes back; shorter gaps are
        closed. 0 leaves every frame by itself.
    part
        ``face`` for enlarged boxes of faces alone: there is no region where none is seen.
    """

    face_confidence: float = 0.8
    face_margin: float = 0.2
    person_threshold: float = 0.5
    person_window: float = 6.0
    least_share: float = 0.02
    longest_gap: int = 1
    part: Literal["person", "face"] = "person"

    def __post_init__(self) -> None:
        if not (
            0 <= self.face_confidence <= 1
            and self.face_margin >= 0
            and 0 < self.person_threshold < 1
            and self.person_window >= 2
            and 0 <= self.least_share < 1
            and self.longest_gap >= 0
        ):
            raise ValueError(
                "face_confidence lies in [0, 1], person_threshold in (0, 1), least_share in "
                "[0, 1), face_margin and longest_gap are not negative, person_window at least 2; "
                f"got {self}"
            )
        if self.part not in ("person", "face"):
            raise ValueError(f"part is 'person' or 'face'; got {self.part!r}")

    def settings(self) -> dict:
        """All that can change a region, for fingerprints."""
        own = asdict(self)
        # What was found before faces could be asked for is still the person's.
        return own if self.part != "person" else {k: v for k, v in own.items() if k != "part"}


@dataclass(frozen=True, eq=False)
class PersonRegions:
    """Where the people are in each frame of a clip.

    Attributes
    ----------
    mask
        ``(N, H, W)`` bool.
    found
        ``(N,)`` str, what the region of each frame comes from: ``person+face``, ``person`` (no face
        seen), ``face`` (its box alone), ``kept`` (nothing found: the last region, at the start of a
        clip the first later one) or ``none`` (nothing in any frame: the whole frame, so that
        nothing is hidden).
    """

    mask: NDArray[np.bool_]
    found: NDArray[np.str_]

    @property
    def coverage(self) -> float:
        """Mean share in [0, 1] of a frame that is inside the region."""
        return float(self.mask.mean())

    def counts(self) -> dict[str, int]:
        """Frames of each kind."""
        return {kind: int((self.found == kind).sum()) for kind in KINDS}


def check_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames; ``ValueError`` unless they are ``(N, H, W, 3)`` uint8 and not empty."""
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(
            f"frames must be uint8 of shape (N, H, W, 3), not empty; got {frames.dtype} "
            f"{frames.shape}"
        )
    return frames


def settle(mask: NDArray[np.bool_], found: Sequence[str], longest_gap: int) -> PersonRegions:
    """Regions of a clip from those of its frames ``(N, H, W)``: nothing flickers, nothing is lost.

    A frame whose ``found`` is ``none`` takes the last region. Then a pixel that leaves the region
    for at most ``longest_gap`` frames stays in it, a closing in time: it only ever adds, so that a
    person who moves is covered wherever they are, without a trail behind them.
    """
    mask, kinds = mask.copy(), np.array(found, dtype="<U11")
    there = np.flatnonzero(kinds != "none")
    if not len(there):
        return PersonRegions(np.ones_like(mask), kinds)
    for i in np.flatnonzero(kinds == "none"):
        before = there[there < i]
        mask[i] = mask[before[-1] if len(before) else there[0]]
        kinds[i] = "kept"
    closed = mask.copy()
    for gap in range(1, longest_gap + 1):
        bridged = mask[: -gap - 1] & mask[gap + 1 :]
        for inside in range(1, gap + 1):
            closed[inside : inside + len(bridged)] |= bridged
    return PersonRegions(closed, kinds)


def suppress(
    frames: NDArray[np.uint8], mask: NDArray[np.bool_], fill: Literal["mean", "black"] = "mean"
) -> NDArray[np.uint8]:
    """Frames ``(N, H, W, 3)`` whose pixels outside a mask ``(N, H, W)`` have one colour (C.2).

    ``mean``, the mean colour of the processor's normalisation, reaches the vision tower as zero:
    neither dark nor bright, and without the edges that noise or blur would put there. ``black``
    comes out as -1.8 to -1.5, far from an average picture. Raises ``ValueError`` for other shapes
    or an unknown fill.
    """
    frames, mask = check_frames(frames), np.asarray(mask)
    if mask.dtype != bool or mask.shape != frames.shape[:3]:
        raise ValueError(
            f"the mask of frames {frames.shape} is bool of shape {frames.shape[:3]}; got "
            f"{mask.dtype} {mask.shape}: find regions with the same video settings"
        )
    if fill not in FILLS:
        raise ValueError(f"fill is one of {tuple(FILLS)}; got {fill!r}")
    return np.where(mask[..., None], frames, np.array(FILLS[fill], np.uint8))


def token_cover(mask: NDArray[np.bool_], grid: tuple[int, int, int]) -> NDArray[np.float64]:
    """Share in [0, 1] of each video token's area inside the region, ``(t, h, w)``.

    Parameters
    ----------
    mask
        ``(N, H, W)`` bool.
    grid
        Tokens (t, h, w) of the whole clip after merging. A step of t covers ``ceil(N / t)`` frames,
        the last frame repeated where they do not come out even, as the processor does. Borders of
        h x w need not fall on pixels' borders: pixels count by area.

    A step's region is the *union* of its frames': a token shows all of them, so that it is only
    without evidence where none has the person. Raises ``ValueError`` for another shape, or more
    steps than frames.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 3 or not mask.size:
        raise ValueError(f"the mask must be bool of shape (N, H, W); got {mask.dtype} {mask.shape}")
    t, h, w = map(int, grid)
    frames, height, width = mask.shape
    if not 1 <= t <= frames or h < 1 or w < 1:
        raise ValueError(
            f"a grid (t, h, w) has positive sizes and at most one step a frame; got {grid} for "
            f"{frames} frames"
        )
    each = -(-frames // t)
    last = np.repeat(mask[-1:], t * each - frames, axis=0)
    steps = np.concatenate([mask, last]).reshape(t, each, height, width).any(axis=1)
    # Rounded, so that a token all inside has 1 and not a little less.
    return np.round(_areas(h, height) @ steps @ _areas(w, width).T, 9)


def _areas(cells: int, pixels: int) -> NDArray[np.float64]:
    """What share of each of ``cells`` equal spans every pixel fills, ``(cells, pixels)``."""
    borders = np.arange(cells + 1)[:, None] * pixels / cells
    inside = np.clip(borders - np.arange(pixels), 0, 1)
    return np.diff(inside, axis=0) * cells / pixels
