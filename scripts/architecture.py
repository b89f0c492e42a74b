"""Draws docs/images/architecture.svg from the imports of both packages.

usage: python scripts/architecture.py [--check]

A box is a package or module right below ``emomm_lib`` or ``emomm_study``, a row a floor, a line an
import that no longer way down stands for. ``--check`` writes nothing and fails where the picture is
not that of the imports. Fails, naming the file, where an import leads up or to the same floor.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
FLOORS = (
    {"emomm_study.command": 1},
    {"emomm_study.run": 1, "emomm_study.notebook": 3},
    {"emomm_study.report": 2.5},
    {"emomm_study.mini": 1.5, "emomm_study.exchange": 3},
    {"emomm_study.annotation": 0, "emomm_study.evaluate": 2, "emomm_study.audit": 3.5},
    {"emomm_study.systems": 1.5},
    {"emomm_study.corpora": 2.5},
    {"emomm_study.environment": 0, "emomm_study.media": 1.5, "emomm_study.paper": 3.5},
    {"emomm_study.failures": 1},
    {"emomm_study.paths": 0, "emomm_lib.chase": 3},
    {"emomm_lib.attention": 2, "emomm_lib.metrics": 4},
    {"emomm_lib.labels": 3},
)
"""From the top floor down, each room with its column. Who stands on one floor imports none of those
beside it."""
OUTSIDE = ("emomm_study.__init__", "emomm_study.__main__", "emomm_lib.__init__")
"""Doors: they name a module for others to enter by."""
INSIDE = {"emomm_lib._torchvision": "emomm_lib.attention"}
WIDTH, ROW, BOX, COLUMN = 840, 62, 130, 160


def room(module: str) -> str:
    """``emomm_study.report`` of ``emomm_study.report.figures.chase``."""
    name = ".".join(module.split(".")[:2])
    return INSIDE.get(name, name)


def imports() -> Iterator[tuple[str, str, Path]]:
    """Every import from one room of another: who, whom, in which file."""
    for package in ("emomm_lib", "emomm_study"):
        for path in sorted((ROOT / package).rglob("*.py")):
            own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                else:
                    continue
                for name in names:
                    found = home(name)
                    if found and found != own:
                        yield own, found, path


def home(name: str) -> str | None:
    """The room that an imported name is in; None where it is none of ours."""
    if not name.startswith(("emomm_lib.", "emomm_study.")):
        return None
    package, first = name.split(".")[:2]
    if package == "emomm_lib" and not (ROOT / package / first).is_dir():
        modules = {path.stem for path in (ROOT / package).glob("*.py")}
        if first not in modules:
            return room(exported()[first])
    return room(name)


def exported() -> dict[str, str]:
    """Where each name that ``emomm_lib`` exports is."""
    stub = ast.parse((ROOT / "emomm_lib" / "__init__.pyi").read_text(encoding="utf-8"))
    nodes = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in nodes for alias in node.names}


def edges() -> set[tuple[str, str]]:
    """Who imports whom. Raises ``SystemExit`` for an import that does not lead down."""
    floor = {name: place for place, names in enumerate(FLOORS) for name in names}
    found, wrong = set(), []
    for own, other, path in imports():
        if own in OUTSIDE or other in OUTSIDE:
            continue
        if lost := [name for name in (own, other) if name not in floor]:
            wrong.append(
                f"{path.relative_to(ROOT)}: {lost[0]} stands on no floor; add it to FLOORS"
            )
        elif floor[own] >= floor[other]:
            wrong.append(f"{path.relative_to(ROOT)}: {own} imports {other}, which is not below it")
        else:
            found.add((own, other))
    if wrong:
        raise SystemExit("\n".join(dict.fromkeys(wrong)))
    return found


def needed(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Edges that no longer way stands for."""

    def below(name: str) -> set[str]:
        return {x for a, b in found if a == name for x in (b, *below(b))}

    return {
        (a, b) for a, b in found if not any(c != b and b in below(c) for x, c in found if x == a)
    }


def drawn() -> str:
    """The picture as SVG."""
    centre = {}
    for place, names in enumerate(FLOORS):
        for name, column in names.items():
            centre[name] = 90 + column * COLUMN, 24 + place * ROW
    height = ROW * len(FLOORS) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13" text-anchor="middle">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for a, b in sorted(needed(edges())):
        (x, y), (u, v) = centre[a], centre[b]
        parts.append(
            f'<path d="M{x:g} {y + 16:g} C{x:g} {y + 44:g} {u:g} {v - 44:g} {u:g} {v - 16:g}" '
            'fill="none" stroke="#888888"/>'
        )
    for name, (x, y) in centre.items():
        package, _, own = name.partition(".")
        fill = "#DCE9F5" if package == "emomm_lib" else "#F3EBDD"
        parts.append(
            f'<rect x="{x - BOX / 2:g}" y="{y - 16:g}" width="{BOX}" height="32" rx="5" '
            f'fill="{fill}" stroke="#555555"/>'
            f'<text x="{x:g}" y="{y + 5:g}">{escape(own)}</text>'
        )
    for x, (fill, text) in enumerate((("#F3EBDD", "emomm_study"), ("#DCE9F5", "emomm_lib"))):
        parts.append(
            f'<rect x="700" y="{12 + 24 * x}" width="16" height="16" fill="{fill}" '
            f'stroke="#555555"/><text x="724" y="{25 + 24 * x}" text-anchor="start">{text}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    picture = drawn()
    if "--check" in sys.argv[1:]:
        if PICTURE.read_text(encoding="utf-8") != picture:
            print(f"{PICTURE.relative_to(ROOT)} is out of date: python scripts/architecture.py")
            return 1
        return 0
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
