"""Figures drawn once: of one that is as it was before, what was drawn then is taken."""

from __future__ import annotations

import copyreg
import hashlib
import io
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType

import matplotlib as mpl
import numpy as np
import PIL
import skimage
from matplotlib.figure import Figure
from matplotlib.transforms import TransformNode

from emomm_study.evaluate.remembered import source_digest
from emomm_study.paths import whole
from emomm_study.report.dark import dark_picture, picture_boxes
from emomm_study.report.style import context

SHOWN = "shown"
"""What a notebook shows of a figure: a PNG at the screen's resolution, cut to what is drawn."""
DARK = "dark"
"""The PNG once more, at the screen's resolution and on a dark ground (``report.dark``)."""
_METADATA = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
_VERSIONS = (
    f"matplotlib {mpl.__version__} numpy {np.__version__} pillow {PIL.__version__} "
    f"scikit-image {skimage.__version__}"
)
_DRAWS = ("emomm_study/report",)
"""Folders whose source can change what is drawn of what is in a figure."""


@dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """A published figure as a notebook shows it, without drawing it again, and its files.

    ``alt`` says in words what is in it, for readers who do not see it; it goes beside the picture as
    its metadata, where pages that are made of notebooks look for it.
    """

    figure: Figure
    png: bytes
    paths: tuple[Path, ...]
    alt: str

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png, {"alt": self.alt}

    def __repr__(self) -> str:
        return repr(self.figure)


def drawn(fig: Figure, kinds: Sequence[str], kept: Path | None = None) -> dict[str, bytes]:
    """A figure in some formats, as it is :data:`SHOWN` and, beside a PNG, :data:`DARK`, in the house
    style.

    In ``kept`` lies what was drawn last, with a digest of all that was in it (:func:`digest`): of
    the same figure nothing is drawn. The same figure gives the same bytes.
    """
    with context():
        key = None if kept is None else digest(fig, kinds)
        if key is not None and (found := _read(kept, key)) is not None:
            return found
        _settle(fig)
        found = {kind: _saved(fig, kind) for kind in (*kinds, SHOWN)}
        if "png" in found:
            found[DARK] = dark_picture(found["png"], picture_boxes(fig))
        if key is not None:
            _write(kept, key, found)
    return found


def digest(fig: Figure, kinds: Sequence[str]) -> str | None:
    """Of all that a figure's pictures come from: what is in it, style, source and versions.

    Equal figures made by two processes have one digest; None where something in it has none.
    """
    stream = io.BytesIO()
    try:
        _Content(stream).dump(fig)
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    style = sorted((name, repr(value)) for name, value in mpl.rcParams.items())
    parts = _VERSIONS, source_digest(_DRAWS), repr(tuple(kinds)), repr(style)
    return hashlib.sha256("\n".join(parts).encode() + stream.getvalue()).hexdigest()


class _Content(pickle.Pickler):
    """Writes what is in a figure, to be digested and never read.

    Without addresses in memory, by which transforms know what hangs on them, and the number that
    pyplot gave; of functions, which format ticks, what they do and what they hold.
    """

    def reducer_override(self, obj: object) -> object:
        if isinstance(obj, Figure):
            return copyreg.__newobj__, (type(obj),), {**obj.__getstate__(), "_number": None}
        if isinstance(obj, TransformNode):
            return copyreg.__newobj__, (type(obj),), {**vars(obj), "_parents": None}
        if isinstance(obj, FunctionType):
            held = [cell.cell_contents for cell in obj.__closure__ or ()]
            return str, (obj.__qualname__, _does(obj.__code__), obj.__defaults__, held)
        return NotImplemented


def _does(code: CodeType) -> tuple:
    inner = [_does(x) if isinstance(x, CodeType) else repr(x) for x in code.co_consts]
    return code.co_code, code.co_names, inner


def _saved(fig: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == SHOWN:
        options = {"format": "png", "dpi": "figure", "bbox_inches": "tight"}
        fig.savefig(buffer, **options, metadata=_METADATA["png"])
    else:
        fig.savefig(buffer, format=kind, dpi=200, metadata=_METADATA[kind])
    return buffer.getvalue()


def _settle(fig: Figure) -> None:
    """Do a figure's layout once and for all.

    Constrained layout leaves the last bits of a position to chance, and an SVG's clip paths are
    named after all bits.
    """
    for _ in range(2):
        # Room for tick labels depends on the ticks, and those on the room.
        fig.draw_without_rendering()
    bounds = [ax.get_position().bounds for ax in fig.axes]
    fig.set_layout_engine("none")
    for ax, place in zip(fig.axes, bounds, strict=True):
        ax.set_position(np.round(place, 6))


def _read(path: Path, key: str) -> dict[str, bytes] | None:
    try:
        with zipfile.ZipFile(path) as file:
            if file.comment.decode() != key:
                return None
            return {name: file.read(name) for name in file.namelist()}
    except (OSError, zipfile.BadZipFile):
        return None


def _write(path: Path, key: str, content: dict[str, bytes]) -> None:
    with whole(path) as partial, zipfile.ZipFile(partial, "w") as file:
        file.comment = key.encode()
        for name, data in content.items():
            file.writestr(name, data)
