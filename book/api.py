"""Pages on the public names of ``emomm_lib``, by autodoc, and links to them."""

from __future__ import annotations

import inspect
from functools import cache

import emomm_lib

ROOMS = {
    "labels": "Classes, modalities, coalitions",
    "attention": "Recording, changing and replaying attention",
    "chase": "Gates, the router, and steering",
    "metrics": "Scores, PSMV, GTAR, intervals",
}
"""Packages and modules of the library, each a page."""


@cache
def exported() -> dict[str, str]:
    """Where each public name is, in the order of ``emomm_lib/__init__.pyi``."""
    return dict(emomm_lib._HOME)


def pages() -> dict[str, str]:
    """Markdown by the page's file name."""
    found = {f"{room}.md": _page(room, title) for room, title in ROOMS.items()}
    listed = "\n".join(f"{room}" for room in ROOMS)
    found["index.md"] = (
        "# The library\n\nEvery public name of `emomm_lib`, as its docstring has it. How they work "
        "together: [your own model](../docs/your_own_model.md); what they stand for in the paper: "
        f"[equations](../equations.md).\n\n```{{toctree}}\n{listed}\n```\n"
    )
    return found


def _page(room: str, title: str) -> str:
    lines = [f"# {title}", "", "```{eval-rst}"]
    for name, home in exported().items():
        if home.split(".")[1] == room:
            lines += [f".. {_directive(name)}:: {documented(name)}", ""]
    return "\n".join([*lines, "```", ""])


def _directive(name: str) -> str:
    thing = getattr(emomm_lib, name)
    if inspect.isclass(thing):
        return "autoclass"
    return "autofunction" if inspect.isfunction(thing) else "autodata"


def documented(name: str) -> str:
    """The name under which a public name is described.

    Autodoc finds what is said of a constant only where it is set.
    """
    where = exported()[name] if _directive(name) == "autodata" else "emomm_lib"
    return f"{where}.{name}"


def linked(dotted: str) -> str:
    """A dotted name as a link to what is said of it; as it is where nothing is."""
    home, _, name = dotted.rpartition(".")
    if home and (home == "emomm_lib" or exported().get(name) == home) and name in exported():
        return f"{{py:obj}}`{dotted} <{documented(name)}>`"
    return f"`{dotted}`"
