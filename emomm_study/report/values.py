"""Estimated numbers: kept as data, and compared after a rerun with a tolerance of their own.

Whatever comes after a model's inference or a router's training differs in the last bits between
makes of processor, and an arg-max or a rounding can make more of that. So such numbers are not
compared as printed text. A notebook hands its tables to :func:`record_values`; with ``--refresh``
they are committed beside the notebooks; after every rerun :func:`compare_values` sets the new ones
beside them. Exact numbers (counts, labels, what an integer program solves) stay in checked cells.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from emomm_study.paths import CHOICES, ROOT, RUNS, whole
from emomm_study.report import manifest
from emomm_study.report.comparison import comparison_path
from emomm_study.report.formats import DEFAULT, FORMATS, figure_formats

COMMITTED = ROOT / "notebooks" / "values"
OF_HALF_WIDTH = 0.25
"""A value with an interval may move by this part of the interval's half-width."""
RELATIVE = 0.02
"""A value without one may move by this part of the largest of its table's quantity."""
ONE_CLIP = 0.1
"""The same for what is said of a single clip, which hangs on one router's training."""
CLIPS = 1.001
"""Clips that a share of them may always move by; a little over one, since files hold digits."""
MORE_AT_ENDS = 2.0
"""Clips more for an interval's ends: one clip of n can move a bootstrap's end by three."""
DIFFER = 0.01
"""Share of the answers steered by a trained router that differ between makes of processor: training
makes last bits large. Measured; each may become right or wrong."""
DEVIATIONS = 3.0
"""Standard deviations that such answers may move a share by."""
CHOOSES = "07_main_results"
"""The notebook that chooses configurations. Before it an earlier run's choices may still lie there."""
COLUMNS = ["name", "value", "low", "high", "tolerance", "ends"]
_NONE = pd.DataFrame({column: pd.Series(dtype=float) for column in COLUMNS}).astype({"name": str})


def recorded(profile: str, runs: Path = RUNS) -> Path:
    """The folder of a profile's values as its notebooks last found them, a file a notebook."""
    return runs / profile / "values"


def committed(profile: str, root: Path = COMMITTED) -> Path:
    """The folder of a profile's values as committed; few profiles have one."""
    return root / profile


def tolerances(
    table: pd.DataFrame,
    *,
    scale: float | pd.Series = 1.0,
    clips: bool = True,
    of: str | None = None,
    relative: float = RELATIVE,
    trained: bool = False,
) -> pd.DataFrame:
    """How far each value of a table may lie from the one committed, and the ends of its interval.

    Columns ``tolerance`` and ``ends``, in the table's unit: a quarter of the half-width of the
    interval, where there is one (``low``, ``high``); for a share of clips (``clips``, which needs
    ``n``), never less than one clip, ``scale / n``, and at the ends than three, by which one clip
    can move a bootstrap's end. Where answers hang on a router's training (``trained``), never less
    than what :data:`DIFFER` of them move: its standard deviation is ``sqrt(DIFFER * n)`` clips.
    Without an interval, or for other numbers with one of no width: the part ``relative`` of the
    largest absolute value in the table, or among rows of equal ``of``.
    """
    value = table["value"].astype(float)
    largest = value.abs().groupby(table[of]).transform("max") if of else value.abs().max()
    allowed = pd.Series(relative * largest, index=table.index, dtype=float)
    counted = clips and "n" in table
    if "low" in table:
        width = (table["high"] - table["low"]).astype(float)
        known = width >= 0 if counted else width > 0
        allowed = allowed.where(~known, OF_HALF_WIDTH * width / 2)
    ends = allowed
    if counted:
        count = table["n"].astype(float).clip(lower=1)
        least = np.maximum(CLIPS, DEVIATIONS * np.sqrt(DIFFER * count) if trained else 0.0)
        allowed = np.maximum(allowed, least * scale / count)
        ends = np.maximum(ends, (least + MORE_AT_ENDS) * scale / count)
    return pd.DataFrame({"tolerance": allowed, "ends": ends}, index=table.index)


def record_values(
    table: pd.DataFrame,
    name: str,
    profile: str,
    notebook: str,
    *,
    by: Sequence[str],
    scale: float | pd.Series = 1.0,
    clips: bool = True,
    of: str | None = None,
    relative: float = RELATIVE,
    trained: bool = False,
) -> None:
    """Keep the estimated numbers of a table for comparison after a rerun.

    Parameters
    ----------
    table
        Tidy: a column ``value``, and where known ``low``, ``high`` and ``n`` (clips or cases).
    name
        What the table is called; each row becomes ``<name>/<its values of by>``.
    notebook
        Stem of the notebook, which has a file of its own.
    by
        Columns that together name a row.
    scale, clips, of, relative, trained
        As in :func:`tolerances`: ``scale`` is 100 for a table in points (or one a row), ``clips``
        whether a row is a share of ``n`` clips (or another mean that one moves by about 1 / n),
        ``trained`` whether a trained router steered its answers.

    Recorded again, a table replaces itself. Raises ``ValueError`` where rows share a name, and for
    a value that is infinite.
    """
    keys = ["/".join(map(str, key)) for key in table[list(by)].itertuples(index=False)]
    rows = pd.DataFrame(
        {"name": [f"{name}/{key}" for key in keys], "value": table["value"].astype(float)},
        index=table.index,
    )
    if np.isinf(rows["value"]).any():
        raise ValueError(f"values of {name!r} are infinite; say why they are not numbers, as NaN")
    for bound in ("low", "high"):
        rows[bound] = table[bound].astype(float) if bound in table else np.nan
    rows[["tolerance", "ends"]] = tolerances(
        table, scale=scale, clips=clips, of=of, relative=relative, trained=trained
    )
    if repeated := rows.loc[rows["name"].duplicated(), "name"].tolist():
        raise ValueError(f"values of {name!r} share names: {repeated[:3]}; name them by more")
    path = recorded(profile) / f"{notebook}.csv"
    before = read_values(path) if path.is_file() else _NONE
    others = before[~before["name"].str.startswith(f"{name}/")]
    kept = pd.concat([others, rows], ignore_index=True) if len(others) else rows
    write_values(kept, path)


def write_values(values: pd.DataFrame, path: Path) -> None:
    """Write a table of values, whole or not at all."""
    with whole(path) as partial:
        values[COLUMNS].to_csv(partial, index=False, float_format="%.9g", lineterminator="\n")


def read_values(path: Path) -> pd.DataFrame:
    """A table of values; ``ValueError`` for a file that is none."""
    table = pd.read_csv(path, dtype={"name": str}, keep_default_na=False, na_values=[""])
    if list(table) != COLUMNS:
        raise ValueError(f"{path}: expected the columns {COLUMNS}; got {list(table)}")
    return table.astype(dict.fromkeys(COLUMNS[1:], float))


def compare_values(committed: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Each committed value beside the one found: ``name, committed, found, tolerance, deviation``.

    ``deviation`` is the distance in tolerances, of the value or of an end of its interval,
    whichever is farther; above 1 it lies outside. It is infinite where only one side has the value,
    or only one is a number. Tolerances are the committed ones, so that a rerun cannot widen its
    own.
    """
    both = committed.merge(found, on="name", how="outer", suffixes=("", "_found"), indicator=True)
    far = np.zeros(len(both))
    for column, limit in (("value", "tolerance"), ("low", "ends"), ("high", "ends")):
        one, other = both[column].to_numpy(), both[f"{column}_found"].to_numpy()
        apart = np.abs(one - other)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(apart == 0, 0.0, apart / both[limit].to_numpy())
        # Two missing numbers agree; one does not.
        share = np.where(np.isnan(one) & np.isnan(other), 0.0, share)
        far = np.maximum(far, np.where(np.isnan(share), np.inf, share))
    far[(both["_merge"] != "both").to_numpy()] = np.inf
    named = {"value": "committed", "value_found": "found"}
    shown = both.assign(deviation=far).rename(columns=named)
    return shown[["name", "committed", "found", "tolerance", "deviation"]]


@dataclass(frozen=True)
class Compared:
    """The values of some notebooks beside the committed ones: ``notebook`` and the columns of
    :func:`compare_values`."""

    table: pd.DataFrame

    @property
    def outside(self) -> pd.DataFrame:
        """Rows outside their tolerance, the farthest first."""
        far = self.table[self.table["deviation"] > 1]
        return far.sort_values("deviation", ascending=False, kind="stable")

    def by_notebook(self) -> pd.DataFrame:
        """``compared, outside`` and the largest ``deviation`` of each notebook."""
        parts = self.table.groupby("notebook")["deviation"]
        return pd.DataFrame(
            {"compared": parts.size(), "outside": parts.agg(lambda d: int((d > 1).sum())),
             "deviation": parts.max()}
        )  # fmt: skip

    def sentence(self) -> str:
        """How many were compared, how many lie outside, and which came nearest to its limit."""
        if self.table.empty:
            return "No estimated value was compared."
        count, outside = len(self.table), len(self.outside)
        words = f"{count:,} estimated values compared: {outside} outside their tolerance"
        inside = self.table[self.table["deviation"] <= 1]
        if not len(inside):
            return f"{words}."
        nearest = inside.iloc[inside["deviation"].to_numpy().argmax()]
        if nearest["deviation"] == 0:
            return f"{words}, the others equal."
        return f"{words}; nearest to its limit: {_described(nearest)}."

    def report(self, most: int = 20) -> str:
        """The sentence, and up to ``most`` values that lie outside."""
        lines = [self.sentence()]
        lines += [f"  outside: {_described(row)}" for _, row in self.outside.head(most).iterrows()]
        if len(self.outside) > most:
            lines.append(f"  and {len(self.outside) - most} more")
        return "\n".join(lines)


def _described(row: pd.Series) -> str:
    where = f"{row['notebook'][:2]} {row['name']}"
    if not np.isfinite(row["deviation"]):
        side = "not recorded" if np.isnan(row["found"]) else "not a number, or new"
        return f"{where} ({row['committed']:.6g} committed, {row['found']:.6g} found: {side})"
    return (
        f"{where} ({row['committed']:.6g} committed, {row['found']:.6g} found, tolerance "
        f"{row['tolerance']:.2g}; {row['deviation']:.2f} of it)"
    )


def compare_notebooks(kept: Path, new: Path, notebooks: Iterable[str]) -> Compared:
    """Values in the folder ``new`` beside those in the folder ``kept``, for some notebooks.

    A notebook that has values in ``kept`` and none in ``new`` counts as all of them missing. One
    without values in ``kept`` is left out.
    """
    parts = []
    for notebook in notebooks:
        if not (kept / f"{notebook}.csv").is_file():
            continue
        own = new / f"{notebook}.csv"
        found = read_values(own) if own.is_file() else _NONE
        table = compare_values(read_values(kept / f"{notebook}.csv"), found)
        parts.append(table.assign(notebook=notebook))
    columns = ["notebook", "name", "committed", "found", "tolerance", "deviation"]
    if not parts:
        return Compared(pd.DataFrame(columns=columns))
    return Compared(pd.concat(parts, ignore_index=True)[columns])


def commit_notebook(
    profile: str, notebook: str, *, runs: Path = RUNS, root: Path = COMMITTED
) -> None:
    """Put a notebook's values, what it compared, and digests of its figures, where they are committed.

    With those of the notebook that chooses go its choices, which later runs hold to.
    """
    kept = committed(profile, root)
    new = recorded(profile, runs) / f"{notebook}.csv"
    if new.is_file():
        write_values(read_values(new), kept / new.name)
    if (compared := comparison_path(profile, notebook[:2], runs)).is_file():
        place = comparison_path(profile, notebook[:2], root)
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole(place) as partial:
            shutil.copyfile(compared, partial)
    if notebook == CHOOSES and (chosen := runs / profile / CHOICES).is_file():
        with whole(kept / CHOICES) as partial:
            shutil.copyfile(chosen, partial)
    if files := manifest.digests(profile, notebook):
        place = kept / f"{notebook}.sha256"
        manifest.write_digests(files, place, f"figures/{profile}")


def compare_files(profile: str, compared: Compared, kept: Path, notebooks: Iterable[str]) -> str:
    """A line on the figures and tables of some notebooks, beside the committed ones.

    A file is *identical* by its digest. One that is not counts as *equal in value* where all
    estimated values of its notebook lie within their tolerance, else as *different*. Left out are
    formats of figures that are not committed, or that this run was not asked for.
    """
    alien = set(FORMATS) - (set(figure_formats(DEFAULT)) & set(figure_formats()))
    fine = compared.by_notebook()["outside"] == 0
    counts = {"identical": 0, "equal in value but not in bytes": 0, "different": 0}
    different = []
    for notebook in notebooks:
        if not (kept / f"{notebook}.sha256").is_file():
            continue
        before = manifest.read_digests(kept / f"{notebook}.sha256")
        now = manifest.digests(profile, notebook)
        for name in sorted(name for name in before | now if Path(name).suffix[1:] not in alien):
            same = before.get(name) == now.get(name)
            equal = name in before and name in now and fine.get(notebook, False)
            kind = list(counts)[0 if same else 1 if equal else 2]
            counts[kind] += 1
            different += [name] * (kind == "different")
    if not sum(counts.values()):
        return "No committed figure was compared."
    words = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    names = f" ({', '.join(different[:8])}{', …' if len(different) > 8 else ''})"
    return f"Figures and tables beside the committed ones: {words}{names if different else ''}."


def side_of_zero(table: pd.DataFrame, **options: object) -> pd.Series:
    """What an interval says of a sign: ``above zero``, ``below zero``, ``open`` or ``borderline``.

    Borderline where an end lies so near zero that it could cross within its tolerance, so that the
    word is the same on every machine unless it says that it need not be. ``options`` as for
    :func:`tolerances`.
    """
    reach = tolerances(table, **options)["ends"]
    low, high = table["low"].astype(float), table["high"].astype(float)
    words = pd.Series("open", index=table.index)
    words[low > 0], words[high < 0] = "above zero", "below zero"
    words[(low.abs() <= reach) | (high.abs() <= reach)] = "borderline"
    words[low.isna() | high.isna()] = "undefined"
    return words
