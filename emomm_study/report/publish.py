"""Writes what the notebooks publish: every file under ``figures/``, and where it comes from."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from emomm_study.paths import FIGURES, cache_dir, whole
from emomm_study.report.drawing import DARK, SHOWN, Picture, drawn
from emomm_study.report.formats import FORMATS, figure_formats
from emomm_study.report.manifest import NAME, Provenance, read, sha256
from emomm_study.report.style import REMARK
from emomm_study.report.tables import NO, YES, formatted

LARGEST_SVG = 150_000
"""Bytes from which on an SVG is not kept."""
WIDE = 10
"""Columns from which on a table in LaTeX is scaled to the line."""
WIDEST = 12
"""Columns that a table in LaTeX has at most: a wider one is cut into parts, one beneath the other."""
_ENDINGS = (*FORMATS, "csv", "tex")


def caption(item: str, profile: str, text: str, note: str = "") -> str:
    """Caption that names the profile: ``caption("Figure 7", "mini", "CMU-MOSI statistics")``.

    ``note`` says what the profile's data are. Raises ``ValueError`` for an empty profile.
    """
    if not profile:
        raise ValueError(f"{item}: a caption names its profile")
    return " ".join(filter(None, [f"{item}: {text}.", f"Profile {profile}.", note]))


def folder(profile: str, root: Path = FIGURES) -> Path:
    """``figures/<profile>``, made if missing; ``ValueError`` for a name unfit as a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", profile):
        raise ValueError(f"a profile is named with letters, digits, '_', '-'; got {profile!r}")
    path = Path(root) / profile
    path.mkdir(parents=True, exist_ok=True)
    return path


def dark_name(name: str) -> str:
    """The name of a figure's PNG for dark screens: ``dark_name("clips.png") == "clips_dark.png"``."""
    return f"{name.removesuffix('.png')}_dark.png"


def stamp(fig: Figure, origin: str) -> None:
    """Put where it is from in front of a figure's remark (``style.titled``), where it has one, once."""
    for text in fig.texts:
        if text.get_gid() == REMARK:
            text.set_text(f"{origin}  |  {text.get_text()}")
            # The mark would stand in an SVG, and ask for a second stamp.
            text.set_gid(None)


def write_figure(
    fig: Figure,
    name: str,
    profile: str,
    provenance: Provenance,
    *,
    formats: Sequence[str] | None = None,
    origin: str | None = None,
    root: Path = FIGURES,
) -> Picture:
    """Write a figure under ``figures/<profile>``, its profile in it, and record where it is from.

    ``formats`` are by default :func:`figure_formats`; an SVG is left out where it is large or holds
    a raster image, which PNG has better. Beside the PNG lies ``<name>_dark.png``, for dark screens.
    ``origin`` stands in the figure in the profile's place, where nothing of that is in it. The same figure gives the same bytes; text stays text in
    SVG and PDF. The figure is closed, and what a notebook shows in its place is returned. Where it
    is as it was when last written under this name, among the run's own figures, nothing is drawn
    (``report.drawing``).
    """
    base, paths = folder(profile, root), []
    stamp(fig, origin or f"profile: {profile}")
    kinds = figure_formats() if formats is None else tuple(formats)
    kept = cache_dir("drawings", profile) / f"{name}.zip" if root == FIGURES else None
    found = drawn(fig, kinds, kept)
    for kind in kinds:
        if kind == "svg" and (len(found[kind]) >= LARGEST_SVG or b"<image" in found[kind]):
            continue
        paths.append(base / f"{name}.{kind}")
        paths[-1].write_bytes(found[kind])
    if DARK in found:
        paths.append(base / dark_name(f"{name}.png"))
        paths[-1].write_bytes(found[DARK])
    plt.close(fig)
    record(paths, provenance, profile, root)
    return Picture(fig, found[SHOWN], tuple(paths), provenance.caption)


def write_table(
    table: pd.DataFrame,
    name: str,
    profile: str,
    provenance: Provenance,
    *,
    decimals: int | Mapping[str, int] = 4,
    root: Path = FIGURES,
) -> tuple[Path, ...]:
    """Write a table as CSV (full precision) and LaTeX under ``figures/<profile>``, and record both.

    Column levels are joined with a space in the CSV. The LaTeX needs the packages booktabs,
    multirow and amssymb, and graphicx for one wider than :data:`WIDE`; it has the caption of the
    provenance, which names the profile. One wider than :data:`WIDEST` is cut between groups of
    columns, and its parts stand one beneath the other.
    """
    base = folder(profile, root)
    csv, tex = base / f"{name}.csv", base / f"{name}.tex"
    flat = table.copy()
    flat.columns = [" ".join(filter(None, c)) if isinstance(c, tuple) else c for c in flat.columns]
    flat.to_csv(csv, lineterminator="\n")
    latex = _latex(formatted(table, decimals), provenance.caption, f"tab:{name}")
    latex = latex.replace(YES, r"\checkmark").replace(NO, r"$\times$")
    tex.write_text(latex, encoding="utf-8", newline="\n")
    record([csv, tex], provenance, profile, root)
    return csv, tex


def _latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """A float with the table's parts, each scaled to the line where it is wide."""
    parts = _parts(table)
    first, *others = (
        part.to_latex(escape=True, caption=caption, label=label, position="t") for part in parts
    )
    body = re.compile(r"\\begin\{tabular\}.*\\end\{tabular\}", re.DOTALL)
    bodies = [body.search(part)[0] for part in (first, *others)]
    if table.index.nlevels + parts[0].shape[1] > WIDE:
        bodies = [f"\\resizebox{{\\linewidth}}{{!}}{{%\n{text}}}" for text in bodies]
    return body.sub(lambda _: "\n\n\\medskip\n".join(bodies), first)


def _parts(table: pd.DataFrame) -> list[pd.DataFrame]:
    """A table cut between the groups of its columns into parts of :data:`WIDEST` columns at most.

    One without groups, or with a group that is wider, is left whole there.
    """
    groups = [*dict.fromkeys(table.columns.get_level_values(0))]
    parts: list[list[object]] = [[]]
    for group in groups:
        if parts[-1] and table.index.nlevels + table[[*parts[-1], group]].shape[1] > WIDEST:
            parts.append([])
        parts[-1].append(group)
    return [table[part] for part in parts] if len(parts) > 1 else [table]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock is on the folder, so no lock file is left."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def record(
    paths: Iterable[Path], provenance: Provenance, profile: str, root: Path = FIGURES
) -> None:
    """Add or replace the entries of files in ``figures/<profile>``, keeping all others.

    Files of the same names in other formats, left by an earlier run, are removed with their
    entries. The manifest is replaced in one step and never seen half-written, also with several
    writers; its bytes depend only on the entries (sorted keys, no dates). Raises ``ValueError`` for
    a file outside the folder, a caption without the profile's name, and a NaN.
    """
    base = folder(profile, root)
    if profile not in provenance.caption:
        raise ValueError(
            f"{provenance.item}: the caption does not name its profile {profile!r}; "
            "make it with emomm_study.report.publish.caption"
        )
    entries, stale = {}, set()
    for path in map(Path, paths):
        if path.resolve().parent != base.resolve():
            raise ValueError(f"{path} is not in {base}; save it there before recording it")
        entries[path.name] = {**asdict(provenance), "sha256": sha256(path)}
        stale |= {f"{path.stem}.{ending}" for ending in _ENDINGS} | {dark_name(f"{path.stem}.png")}
    stale -= set(entries)
    with _locked(base):
        kept = {file: entry for file, entry in read(profile, root).items() if file not in stale}
        content = {"profile": profile, "files": {**kept, **entries}}
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        with whole(base / NAME) as partial:
            partial.write_text(text + "\n", encoding="utf-8", newline="\n")
        for left in stale:
            (base / left).unlink(missing_ok=True)
