"""Where the people are in frames: MediaPipe's face detector and selfie segmentation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from numpy.typing import NDArray
from scipy.ndimage import label

from emomm_study.media.models import FACE, PERSON, model_path
from emomm_study.media.regions import PersonRegions, PersonSettings, check_frames, settle

_CANDIDATE = 0.5
"""Least score of a face at first sight."""
_SECOND_LOOK = 4.0
"""Side of the window of the second look, in face heights."""
_SAME_FACE = 0.3
"""Boxes that share more (intersection over union) are one face, seen in two windows."""
_HEADROOM = 0.25
"""Share of the window around a person that lies above the middle of the face."""


@dataclass(frozen=True)
class Faces:
    """Faces found in one frame, the surest first.

    Attributes
    ----------
    boxes
        ``(n, 4)`` float32: left, top, right, bottom in pixels; may reach over the frame's edge.
    scores
        ``(n,)`` float32 in [0, 1].
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


def _image(frame: NDArray[np.uint8]) -> mediapipe.Image:
    return mediapipe.Image(
        image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame)
    )


class FaceDetector:
    """MediaPipe's short-range face detector; close it, or use it in a ``with`` statement.

    Left open until the interpreter exits, MediaPipe's own clean-up prints a traceback.

    Parameters
    ----------
    min_confidence
        Faces with a lower score are not reported. Pure pixel noise reaches 0.57.

    Raises
    ------
    ModelFileError
        When the model is not in the cache; the message names the command that brings it.
    """

    def __init__(self, min_confidence: float = 0.5) -> None:
        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=str(model_path(FACE))),
            min_detection_confidence=min_confidence,
        )
        with _native_log_muted():
            self._detector = vision.FaceDetector.create_from_options(options)
            # The first call logs too; spending it here keeps the mute out of `detect`.
            self._detect_one(np.zeros((64, 64, 3), np.uint8))

    def __enter__(self) -> FaceDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the native detector."""
        with _native_log_muted():
            self._detector.close()

    def detect(self, frames: NDArray[np.uint8]) -> list[Faces]:
        """Faces of each frame of ``(N, H, W, 3)`` uint8 RGB; ``ValueError`` on another shape."""
        return [self._detect_one(frame) for frame in check_frames(frames)]

    def search(self, frame: NDArray[np.uint8], confidence: float) -> Faces:
        """Faces of one frame ``(H, W, 3)``, also small ones, each with the score of a closer look.

        The model sees 128 x 128 pixels, whatever it is given: in the whole of a wide frame it
        misses faces of less than a seventh of its height. So overlapping squares as high as the
        frame are looked at too, and, where these have no face, squares of half that size. Every
        candidate is then looked at again in a window of four times its height; a real face is
        surer there (0.91 and more, also one that first had 0.58), and what looks like one in
        noise, leaves, crockery or a cartoon is not (0.77 at most).
        """
        height, width = frame.shape[:2]
        side = min(height, width)
        for windows in (
            [(0, 0, width, height), *_squares(width, height, side)],
            _squares(width, height, max(1, side // 2)),
        ):
            faces = self._confirmed(frame, self._look(frame, windows), confidence)
            if len(faces.scores):
                break
        return faces

    def _look(self, frame: NDArray[np.uint8], windows: Iterable[tuple[int, ...]]) -> Faces:
        """Faces of several windows of a frame, each once."""
        parts = []
        for left, top, right, bottom in dict.fromkeys(windows):
            part = self._detect_one(frame[top:bottom, left:right])
            parts.append(Faces(part.boxes + np.float32([left, top, left, top]), part.scores))
        boxes = np.concatenate([part.boxes for part in parts])
        return _distinct(Faces(boxes, np.concatenate([part.scores for part in parts])))

    def _confirmed(self, frame: NDArray[np.uint8], faces: Faces, confidence: float) -> Faces:
        boxes, scores = [], []
        for box in faces.boxes:
            window = _clip(_square(box, _SECOND_LOOK), frame.shape[1], frame.shape[0])
            again = self._look(frame, [window])
            same = [i for i, b in enumerate(again.boxes) if _overlap(box, b) > _SAME_FACE]
            if same and again.scores[same[0]] >= confidence:
                boxes.append(again.boxes[same[0]])
                scores.append(again.scores[same[0]])
        return _distinct(
            Faces(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32))
        )

    def _detect_one(self, frame: NDArray[np.uint8]) -> Faces:
        found = self._detector.detect(_image(frame)).detections
        scores = np.array([face.categories[0].score for face in found], np.float32)
        corners = [(b.origin_x, b.origin_y) for b in (face.bounding_box for face in found)]
        sizes = [(b.width, b.height) for b in (face.bounding_box for face in found)]
        low, size = (np.array(pair, np.float32).reshape(-1, 2) for pair in (corners, sizes))
        surest_first = np.argsort(-scores, kind="stable")
        return Faces(np.hstack([low, low + size])[surest_first], scores[surest_first])


def _distinct(faces: Faces) -> Faces:
    """Each face once, by its surest box, the surest first."""
    kept: list[int] = []
    for i in np.argsort(-faces.scores, kind="stable"):
        if all(_overlap(faces.boxes[i], faces.boxes[k]) <= _SAME_FACE for k in kept):
            kept.append(int(i))
    return Faces(faces.boxes[kept], faces.scores[kept])


def _square(box: NDArray[np.float32], heights: float, above: float = 0.5) -> NDArray[np.float32]:
    """A square around a box, ``heights`` times as high, ``above`` of it above the box's middle."""
    side = heights * (box[3] - box[1])
    corner = (box[:2] + box[2:]) / 2 - side * np.array([0.5, above], np.float32)
    return np.concatenate([corner, corner + side])


def _squares(width: int, height: int, side: int) -> list[tuple[int, int, int, int]]:
    """Squares that cover a frame and overlap by half or more, so that no face is only cut."""
    steps = (int(np.ceil(2 * (length - side) / side)) + 1 for length in (width, height))
    columns, rows = (
        np.linspace(0, length - side, n).round().astype(int).tolist()
        for length, n in zip((width, height), steps, strict=True)
    )
    return [(x, y, x + side, y + side) for y in rows for x in columns]


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.maximum(0, high - low))
    areas = sum(np.prod(box[2:] - box[:2]) for box in (one, other))
    return float(shared / (areas - shared))


class PersonLocator:
    """Finds people with MediaPipe's face detector and selfie segmentation; close it after use.

    Selfie segmentation is made for one person who fills the picture. Of a smaller one it marks the
    most striking *object*: of a portrait pasted into a still life at a third of its height, the
    cup. So it is run on a window around each face, and of what it marks there only that stays which
    is connected to the face (intersection over union with the portrait's own region: 0.92 in the
    mean over 36 sizes and places; of the whole frame down to 0.01). The whole frame is segmented
    where no face is seen, as of a person who turns away; there an object may still be taken for
    one. A face is seen from about one sixteenth of the frame's height.

    Raises :class:`~emomm_study.media.models.ModelFileError` when a model is not in the cache; the
    message names the command that brings it.
    """

    def __init__(self, settings: PersonSettings = PersonSettings()) -> None:
        self.settings = settings
        path = model_path(PERSON)
        self._faces = FaceDetector(_CANDIDATE)
        options = vision.ImageSegmenterOptions(
            base_options=BaseOptions(model_asset_path=str(path)),
            output_confidence_masks=True,
            output_category_mask=False,
        )
        with _native_log_muted():
            self._segmenter = vision.ImageSegmenter.create_from_options(options)
            self._segment(np.zeros((64, 64, 3), np.uint8))

    def __enter__(self) -> PersonLocator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the native models."""
        self._faces.close()
        with _native_log_muted():
            self._segmenter.close()

    def locate(self, frames: NDArray[np.uint8]) -> PersonRegions:
        """Regions of the frames ``(N, H, W, 3)`` uint8 RGB of one clip, in order of time.

        Raises ``ValueError`` for another shape.
        """
        found = [self._locate_one(frame) for frame in check_frames(frames)]
        mask = np.stack([region for region, _ in found])
        return settle(mask, [kind for _, kind in found], self.settings.longest_gap)

    def _locate_one(self, frame: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], str]:
        height, width = frame.shape[:2]
        region = np.zeros((height, width), bool)
        boxes = self._faces.search(frame, self.settings.face_confidence).boxes
        if self.settings.part == "face":
            for box in boxes:
                region[_slices(_clip(_grown(box, self.settings.face_margin), width, height))] = True
            return region, "face" if len(boxes) else "none"
        if not len(boxes):
            region = _large(self._segment(frame), self.settings.least_share)
            return region, "person" if region.any() else "none"
        segmented = False
        for box in boxes:
            face = _clip(_grown(box, self.settings.face_margin), width, height)
            window = _clip(_square(box, self.settings.person_window, _HEADROOM), width, height)
            person = np.zeros_like(region)
            person[_slices(window)] = self._segment(frame[_slices(window)])
            touching = np.zeros_like(region)
            touching[_slices(face)] = True
            person = _connected(person, touching)
            segmented |= bool(person.any())
            region |= person | touching
        return region, "person+face" if segmented else "face"

    def _segment(self, frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
        result = self._segmenter.segment(_image(frame))
        probability = result.confidence_masks[0].numpy_view().reshape(frame.shape[:2])
        return probability > self.settings.person_threshold


def _grown(box: NDArray[np.float32], margin: float) -> NDArray[np.float32]:
    more = margin * (box[2:] - box[:2])
    return np.concatenate([box[:2] - more, box[2:] + more])


def _clip(box: NDArray[np.float32], width: int, height: int) -> tuple[int, int, int, int]:
    """A box in whole pixels inside the frame, of at least one pixel."""
    size = np.array([width, height])
    low = np.clip(np.floor(box[:2]), 0, size - 1)
    high = np.clip(np.ceil(box[2:]), low + 1, size)
    left, top, right, bottom = np.concatenate([low, high]).astype(int).tolist()
    return left, top, right, bottom


def _slices(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def _connected(region: NDArray[np.bool_], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected parts of a region that meet the seed."""
    parts, _ = label(region)
    return np.isin(parts, np.setdiff1d(parts[seed], [0]))


def _large(region: NDArray[np.bool_], least_share: float) -> NDArray[np.bool_]:
    """The connected parts of a region that are no smaller than a share of the frame."""
    parts, _ = label(region)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes >= max(1, least_share * region.size))[parts]


@contextmanager
def _native_log_muted() -> Iterator[None]:
    """Keep start-up lines that MediaPipe's C++ writes to stderr out of notebooks.

    No setting of MediaPipe turns them off, so the file descriptor itself is turned away.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
