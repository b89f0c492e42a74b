"""Writes codemeta.json and .zenodo.json from CITATION.cff and pyproject.toml.

usage: python scripts/metadata.py [--check]

``--check`` writes nothing and fails, naming each file, where one is not what these two make it.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROGRAMMING = {"@type": "ComputerLanguage", "name": "Python", "url": "https://www.python.org"}


def codemeta(citation: dict, project: dict, repository: str) -> dict:
    """CodeMeta 3.0 of the software; the paper as its reference publication."""
    paper = citation["preferred-citation"]
    authors = [_person(author) for author in paper["authors"]]
    found = {
        "@context": "https://w3id.org/codemeta/3.0",
        "@type": "SoftwareSourceCode",
        "name": citation["title"],
        "identifier": project["name"],
        "description": _line(citation["abstract"]),
        "version": str(citation["version"]),
        "license": f"https://spdx.org/licenses/{citation['license']}",
        "author": [{"@type": "Organization", "name": a["name"]} for a in citation["authors"]],
        "keywords": citation["keywords"],
        "programmingLanguage": PROGRAMMING,
        "runtimePlatform": f"Python {project['requires-python']}",
        "softwareRequirements": project["dependencies"],
        "readme": "README.md",
        "buildInstructions": "README.md",
        "referencePublication": {
            "@type": "ScholarlyArticle",
            "name": _line(paper["title"]),
            "author": authors,
        },
    }
    if repository:
        found |= {"codeRepository": repository, "issueTracker": f"{repository}/issues"}
    return found


def zenodo(citation: dict, project: dict, repository: str) -> dict:
    """What Zenodo reads of a release on GitHub."""
    paper = citation["preferred-citation"]
    found = {
        "title": citation["title"],
        "description": _line(citation["abstract"]),
        "upload_type": "software",
        "access_right": "open",
        "license": citation["license"],
        "version": str(citation["version"]),
        "creators": [{"name": author["name"]} for author in citation["authors"]],
        "keywords": citation["keywords"],
        "references": [f"{', '.join(_names(paper))}. {_line(paper['title'])}."],
    }
    if repository:
        about = {"identifier": repository, "relation": "isSupplementTo", "scheme": "url"}
        found["related_identifiers"] = [about]
    return found


def _line(text: str) -> str:
    return " ".join(text.split())


def _names(paper: dict) -> list[str]:
    return [f"{a['given-names']} {a['family-names']}" for a in paper["authors"]]


def _person(author: dict) -> dict:
    return {
        "@type": "Person",
        "givenName": author["given-names"],
        "familyName": author["family-names"],
        "affiliation": {"@type": "Organization", "name": author["affiliation"]},
    }


def files(root: Path = ROOT) -> dict[str, str]:
    """Both files' texts by name."""
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    given = citation, settings["project"], settings["tool"]["emomm"]["repository"]
    made = {"codemeta.json": codemeta(*given), ".zenodo.json": zenodo(*given)}
    return {
        name: json.dumps(found, ensure_ascii=False, indent=2) + "\n" for name, found in made.items()
    }


def main() -> int:
    made = files()
    if "--check" not in sys.argv[1:]:
        for name, text in made.items():
            (ROOT / name).write_text(text, encoding="utf-8")
        return 0
    stale = [
        name
        for name, text in made.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text(encoding="utf-8") != text
    ]
    for name in stale:
        print(f"{name} is out of date: python scripts/metadata.py")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
