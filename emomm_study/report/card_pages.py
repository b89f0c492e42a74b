"""Case cards as a page in a browser, with clips that play where a profile's may be played."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from emomm_study.corpora.scores import Corpus
from emomm_study.paths import resolve_media, whole
from emomm_study.report.cards import Card, NoCard, interpretation
from emomm_study.report.drawing import Picture

_STYLE = (
    "body{max-width:72rem;margin:2rem auto;padding:0 1rem;font:1rem/1.5 sans-serif;color:#222;"
    "background:#fff}img{max-width:100%}video{max-width:22rem;width:100%}figure{margin:1rem 0}"
)
_HIDDEN = {"T": "words", "A": "sound", "V": "picture"}


def write_card_page(
    path: Path,
    cards: Sequence[Card | NoCard],
    pictures: Sequence[Picture],
    roots: Mapping[Corpus, Path],
    *,
    play: bool,
) -> Path:
    """Write the cards as one HTML page and return its path.

    Parameters
    ----------
    path
        Of the page; clips and pictures are linked from there, not copied.
    pictures
        Of the cards, as they were published.
    roots
        Folders of the corpora.
    play
        Whether clips play: as the model was shown them, without the picture or the sound that is
        hidden from it. Else the page has the frames of the cards alone.

    Raises ``ValueError`` where a clip's path leads out of its corpus.
    """
    parts = [_section(path, *pair, roots, play) for pair in zip(cards, pictures, strict=True)]
    body = "\n".join(parts)
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Case cards</title>\n'
        f"<style>{_STYLE}</style>\n<main>\n<h1>Case cards</h1>\n{body}\n</main>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _section(
    page: Path, card: Card | NoCard, picture: Picture, roots: Mapping[Corpus, Path], play: bool
) -> str:
    png = next(path for path in picture.paths if path.suffix == ".png")
    if isinstance(card, NoCard):
        return f"<section><h2>No case</h2>\n<p>{escape(card.sentence)}</p></section>"
    player = _player(page, card, roots) if play else ""
    words = escape(" ".join(interpretation(card.case)))
    return (
        f"<section>\n<h2>{escape(card.heading)}</h2>\n{player}"
        f'<figure><img src="{_link(page, png)}" alt="{words}"></figure>\n</section>'
    )


def _player(page: Path, card: Card, roots: Mapping[Corpus, Path]) -> str:
    clip, shown = card.case.clip, card.case.present
    root = roots[clip["corpus"]]
    missing = [_HIDDEN[m] for m in _HIDDEN if m not in shown]
    note = f"<p>Hidden from the model: {', '.join(missing)}.</p>\n" if missing else ""
    if "V" in shown:
        source = _link(page, resolve_media(root, clip["video_path"]))
        muted = "" if "A" in shown else " muted"
        sound = ""
        if "A" in shown and clip["audio_path"] != clip["video_path"]:
            # Some corpora keep a clip's sound in a file of its own; the film may have it as well.
            heard = _link(page, resolve_media(root, clip["audio_path"]))
            sound = f'<audio controls preload="none" src="{heard}">its sound</audio>\n'
        return f'{note}<video controls preload="metadata"{muted} src="{source}">the clip</video>\n{sound}'
    source = _link(page, resolve_media(root, clip["audio_path"]))
    return f'{note}<audio controls preload="metadata" src="{source}">the sound</audio>\n'


def _link(page: Path, target: Path) -> str:
    return quote(os.path.relpath(target.resolve(), page.parent.resolve()))
