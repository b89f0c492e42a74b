"""``RESULTS.md``, the README's findings and the page of all figures: what runs found beside the paper.

``python -m emomm_study.report.results`` writes them from the committed values, ``--check`` says whether
they are up to date. A run writes the same page about itself to ``runs/<profile>/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from emomm_study.paths import COMMITTED_FIGURES, FIGURES, ROOT, RUNS, whole
from emomm_study.report.claims import (
    CLAIMS,
    FAILS,
    HOLDS,
    NOT_MEASURED,
    OPEN,
    NotMeasured,
    Values,
    judged,
    markdown_table,
    read_claims,
)
from emomm_study.report.comparison import comparison_path, read_comparisons
from emomm_study.report.numbers import MINUS
from emomm_study.report.values import COMMITTED, read_values, recorded

PAGE, README, GLANCE = ROOT / "RESULTS.md", ROOT / "README.md", ROOT / "docs/images/glance.svg"
VERDICTS, AUDIT = "organism_verdicts.csv", "audit_findings.csv"
_PLACE = re.compile(r"(<!-- findings -->\n).*?(<!-- /findings -->)", re.DOTALL)
_KINDS = {"table": "Table", "claim": "Running text"}


class Outdated(ValueError):
    """A finding that its values no longer bear, or a page that says something else than they do."""


@dataclass(frozen=True)
class Found:
    """All that a run of a profile found.

    Attributes
    ----------
    values
        Estimated values by the notebook's two digits.
    compared
        Published beside reproduced numbers, as of :func:`emomm_study.paper.compare`.
    predictions, audit
        Tables that notebooks 13 and 10 publish; empty where they did not run.
    """

    profile: str
    values: dict[str, pd.DataFrame]
    compared: pd.DataFrame
    predictions: pd.DataFrame
    audit: pd.DataFrame

    @classmethod
    def committed(cls, profile: str, root: Path = COMMITTED) -> Found:
        """From what is committed beside the notebooks."""
        return cls._of(profile, root, root / profile, COMMITTED_FIGURES)

    @classmethod
    def of_run(cls, profile: str, runs: Path = RUNS, figures: Path = FIGURES) -> Found:
        """From what the notebooks of the last run left."""
        return cls._of(profile, runs, recorded(profile, runs), figures)

    def only(self, notebooks: Iterable[str]) -> Found:
        """What some notebooks estimated, by their two digits; tables and exact numbers stay."""
        chosen = set(notebooks)
        return replace(self, values={n: own for n, own in self.values.items() if n in chosen})

    @classmethod
    def _of(cls, profile: str, root: Path, values: Path, figures: Path) -> Found:
        own = {path.name[:2]: read_values(path) for path in sorted(values.glob("[0-9]*.csv"))}
        compared = sorted(comparison_path(profile, "01", root).parent.glob("*.csv"))
        tables = [_table(figures / profile / name) for name in (VERDICTS, AUDIT)]
        return cls(profile, own, read_comparisons(compared), *tables)


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, dtype=str) if path.is_file() else pd.DataFrame()


def profiles(root: Path = COMMITTED) -> list[str]:
    """Profiles of which values are committed, ``mini`` first."""
    found = sorted(p.name for p in root.iterdir() if p.is_dir())
    return sorted(found, key=lambda name: name != "mini")


def exact(compared: pd.DataFrame) -> pd.DataFrame:
    """A row a table of the paper: ``published, numbers, equal, differ`` of what can be compared."""
    known = compared[compared["within"].notna()]
    names = known["item"].str.split("/").str[0]
    titles = names.map(lambda n: re.sub(r"^(table)(\d+)$", r"Table \2", n)).replace(_KINDS)
    rows = []
    for title, part in known.groupby(titles, sort=True):
        apart = part.loc[~part["within"].astype(bool), "item"].tolist()
        rows.append((title, len(part), len(part) - len(apart), ", ".join(apart) or "none"))
    return pd.DataFrame(rows, columns=["published in", "numbers", "as published", "not"])


def claim_table(found: Sequence[Found], notebooks: str) -> pd.DataFrame:
    """The claims with *here* and *verdict* of every profile, and a link to the notebook."""
    claims = read_claims()
    tables = [judged(claims, one.values) for one in found]
    first = tables[0]
    shown = first[["item", "claim", "published"]].copy()
    for one, table in zip(found, tables, strict=True):
        shown[f"here, `{one.profile}` [95%]"] = table["here"].replace("", "–")
        shown[f"verdict, `{one.profile}`"] = table["verdict"]
    return shown.assign(notebook=[_linked(n, notebooks) for n in first["notebook"]])


def _linked(number: str, folder: str) -> str:
    [path] = (ROOT / "notebooks").glob(f"{number}_*.py")
    return f"[{number}]({folder}{path.stem}.ipynb)"


def counted(verdicts: pd.Series) -> str:
    """``5 hold, 9 fail, 20 are open``, and how many were not measured, where any were not."""
    many = verdicts.value_counts()
    said = f"{many.get(HOLDS, 0)} hold, {many.get(FAILS, 0)} fail, {many.get(OPEN, 0)} are open"
    missing = many.get(NOT_MEASURED, 0)
    return f"{said}, {missing} not measured" if missing else said


def page(found: Sequence[Found], notebooks: str = "notebooks/") -> str:
    """``RESULTS.md`` about some profiles; ``notebooks`` leads from the page to executed ones."""
    claims = claim_table(found, notebooks)
    parts = [
        "# Results",
        "Made from the values that the notebooks found; not to be edited. A verdict is the interval's: "
        "*holds* where it leaves no doubt of all that the claim says, *fails* where it contradicts a part, "
        "*open* otherwise.\n\n"
        "**Under `mini` every verdict is about a model of two million parameters on drawn clips.** It says what "
        "the paper's method and metrics do where causes are known, and nothing about a real model.",
    ]
    if len(claims):
        parts += [
            f"**`{one.profile}`**: of {len(claims)} claims "
            f"{counted(claims[f'verdict, `{one.profile}`'])}."
            for one in found
        ]
        parts.append("## What the paper claims, and what it leaves to ask")
    parts += [
        f"### {item}\n\n{markdown_table(part.drop(columns='item'))}"
        for item, part in claims.groupby("item", sort=False)
    ]
    for one in found:
        parts += _of_one(one, notebooks)
    return "\n\n".join(parts) + "\n"


def _of_one(found: Found, notebooks: str) -> list[str]:
    parts = []
    if len(table := exact(found.compared)):
        parts += [f"## Exact numbers, `{found.profile}`", markdown_table(table)]
    if len(beside := found.compared[found.compared["within"].isna()]):
        parts += [
            f"## Numbers side by side, `{found.profile}`",
            "They can't be called equal or not: published for another model, or not at all.",
            f"<details>\n<summary>{len(beside)} numbers</summary>\n\n"
            f"{markdown_table(_side_by_side(beside))}\n\n</details>",
        ]
    if len(found.audit):
        own = found.audit[found.audit["whose"] == "paper"]
        shown = own[["audit", "statement", "says"]].rename(columns={"says": "verdict"})
        parts += [
            f"## What the printed tables say by themselves ({_linked('10', notebooks)})",
            markdown_table(shown),
        ]
    if len(found.predictions):
        shown = found.predictions[["id", "prediction", "arm", "seeds", "outcome", "verdict"]]
        parts += [
            f"## Predictions on the family of small models ({_linked('13', notebooks)})",
            "Committed before any of them was trained, each with a range "
            "(`data/organism/predictions.csv`), so *fails* may mean too much as well as too little. "
            "Outcome: mean over seeds [least, most], as a fraction (0.01 is a point); in 5a how far the "
            "sign of video's gain varies (from 0 to 2; 2 contradicts). No seeds: not measured.",
            markdown_table(shown.replace({"outcome": {"": "–"}})),
        ]
    return parts


def _side_by_side(compared: pd.DataFrame) -> pd.DataFrame:
    def printed(value: float) -> str:
        return "–" if pd.isna(value) else f"{value:.4g}".replace("-", MINUS)

    here = [
        printed(r.reproduced)
        if pd.isna(r.low)
        else f"{printed(r.reproduced)} [{printed(r.low)}, {printed(r.high)}]"
        for r in compared.itertuples()
    ]
    published = [printed(value) for value in compared["published"]]
    shown = {"item": compared["item"], "published": published, "here [95%]": here}
    return pd.DataFrame(shown | {"why": compared["note"]})


def short(found: Found) -> str:
    """A screen about a run: each claim's verdict, and the exact numbers in a line a table."""
    table = judged(read_claims(), found.values)
    table = table[table["verdict"] != NOT_MEASURED]
    lines = []
    if len(table):
        width = max(table["item"].str.len())
        lines = [f"{r.verdict:5}  {r.item:{width}}  {r.claim}" for r in table.itertuples()]
        lines += ["", f"{len(table)} claims: {counted(table['verdict'])}"]
    for row in exact(found.compared).itertuples(index=False):
        title, many, equal, apart = row
        lines.append(f"{title}: {equal} of {many} numbers as published; not: {apart}")
    within, known = found.compared["within"].sum(), found.compared["within"].notna().sum()
    lines.append(
        f"{len(found.compared)} numbers compared: {within} as published, {known - within} not, "
        f"{len(found.compared) - known} not comparable"
    )
    return "\n".join(lines)


def findings(found: Found, path: Path = CLAIMS) -> str:
    """The README's findings, numbered; :class:`Outdated` where one's values no longer bear it."""
    lines = []
    for place, entry in enumerate(yaml.safe_load(path.read_text("utf-8"))["findings"], 1):
        values = Values(found.values[entry["notebook"]])
        try:
            verdict = values.verdict(entry["holds"])
            text = values.fill(entry["text"], entry.get("scale", 1), entry.get("digits", 2))
        except NotMeasured as error:
            raise Outdated(
                f"{path.name}: finding {place} needs {error}, which has no value"
            ) from None
        if verdict != HOLDS:
            raise Outdated(
                f"{path.name}: finding {place} rests on {entry['holds']}, of which the values say "
                f"{verdict!r}; write it anew"
            )
        lines.append(f"{place}. {text} ({_linked(entry['notebook'], 'notebooks/')})")
    return "\n".join(lines)


def written() -> dict[Path, str]:
    """What the files should hold: the page, the README with its findings, its picture, the gallery."""
    # Imports matplotlib, which a run's own process does without.
    from emomm_study.report import gallery
    from emomm_study.report.drawing import drawn
    from emomm_study.report.figures.glance import glance

    every = [Found.committed(profile) for profile in profiles()]
    readme = README.read_text(encoding="utf-8")
    if not _PLACE.search(readme):
        raise Outdated(f"{README.name}: it lacks the place <!-- findings --> … <!-- /findings -->")
    text = f"\n{findings(every[0])}\n\n"
    put = _PLACE.sub(lambda place: f"{place[1]}{text}{place[2]}", readme)
    picture = drawn(glance(every[0].values), ["svg"])["svg"].decode()
    figures = gallery.page(every[0].profile)
    return {PAGE: page(every), README: put, GLANCE: picture, gallery.PAGE: figures}


def outdated() -> dict[Path, str]:
    """The files that hold something else than they should, and what they should hold."""
    return {
        path: text
        for path, text in written().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }


def rewrite() -> list[Path]:
    """Write what is :func:`outdated`; returns which files those were."""
    new = outdated()
    for path, text in new.items():
        with whole(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return list(new)


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 where ``--check`` finds another text."""
    parser = argparse.ArgumentParser(
        prog="python -m emomm_study.report.results", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where it is old")
    options = parser.parse_args(arguments)
    try:
        apart = list(outdated()) if options.check else rewrite()
    except Outdated as error:
        print(error, file=sys.stderr)
        return 1
    for path in apart:
        print(f"{path.name}: {f'old; run {parser.prog}' if options.check else 'rewritten'}")
    return int(options.check and bool(apart))


if __name__ == "__main__":
    sys.exit(main())
