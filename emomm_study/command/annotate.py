"""``emomm annotate``: an annotation campaign made, labelled in a notebook, watched and exported."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from emomm_study.annotation.campaign import Campaign
from emomm_study.annotation.export import export_annotations, export_votes
from emomm_study.command.outcome import Outcome, Refused, refusing
from emomm_study.corpora.cmu_mosi import unannotated_cmu_mosi
from emomm_study.corpora.manifest import sample_cmu_mosi
from emomm_study.paths import whole

CELL = """\
from emomm_study.corpora.cmu_mosi import unannotated_cmu_mosi
from emomm_study.report.annotating import annotate

clips = unannotated_cmu_mosi({root!r}, check_media=False).clips
annotate({campaign!r}, clips, {root!r}, {annotator!r})"""


def create(options: argparse.Namespace) -> Outcome:
    """A campaign of A1 to A5 over clips that can be opened, balanced over the classes."""
    with refusing(ValueError, OSError):
        table = unannotated_cmu_mosi(options.cmu_mosi)
        chosen = sample_cmu_mosi(table.clips, options.clips, options.seed)
        calibration = None
        if options.calibration:
            calibration = pd.read_csv(options.calibration, dtype={"sample_id": str})
        made = Campaign.create(
            options.campaign, chosen["sample_id"], calibration=calibration, seed=options.seed
        )
    found = {
        "campaign": str(made.path),
        "clips": len(made.items),
        "calibration": len(made.calibration),
        "annotators": list(made.annotators),
        "excluded": table.excluded,
    }
    text = (
        f"{found['clips']:,} clips and {found['calibration']} of calibration for "
        f"{', '.join(made.annotators)} in {made.path}; {table.excluded} rows of the corpus left out"
    )
    return Outcome(found, text)


def notebook(options: argparse.Namespace) -> Outcome:
    """A notebook of one cell, the panel of one annotator."""
    import nbformat

    campaign, out = _opened(options.campaign), Path(options.out)
    if options.annotator not in campaign.annotators:
        known = ", ".join(campaign.annotators)
        raise Refused(f"{options.annotator} is no annotator of {campaign.path}; they are {known}")
    with refusing(ValueError, OSError):
        unannotated_cmu_mosi(options.cmu_mosi, check_media=False)
    cell = CELL.format(
        root=str(Path(options.cmu_mosi).resolve()),
        campaign=str(campaign.path.resolve()),
        annotator=options.annotator,
    )
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    with refusing(OSError), whole(out) as partial:
        partial.write_text(nbformat.writes(made), encoding="utf-8")
    found = {"notebook": str(out), "annotator": options.annotator}
    return Outcome(found, f"{out}: open it in JupyterLab (jupyter lab {out}) and run its cell")


def progress(options: argparse.Namespace) -> Outcome:
    """How many judgements everybody has made, of how many."""
    campaign = _opened(options.campaign)
    with refusing(ValueError):
        table = campaign.progress()
    found = {"campaign": str(campaign.path), "progress": table.to_dict("records")}
    return Outcome(found, table.to_string(index=False))


def export(options: argparse.Namespace) -> Outcome:
    """The mean votes as the file that ``build`` reads."""
    campaign = _opened(options.campaign)
    how = "leave_out" if options.leave_out else "refuse"
    with refusing(ValueError, OSError):
        votes = campaign.votes()
        if votes.empty:
            raise Refused(f"{campaign.path}: it has no votes yet")
        written = export_annotations(votes, options.out, campaign.items["sample_id"], how)
        if options.votes:
            export_votes(votes, options.votes)
    found = {
        "annotations": str(written.path),
        "clips": written.clips,
        "votes": options.votes,
        "left_out": written.left_out.to_dict("records"),
    }
    left = f"; {len(written.left_out):,} incomplete ones left out" if options.leave_out else ""
    return Outcome(found, f"{written.clips:,} clips in {written.path}{left}")


def _opened(name: str) -> Campaign:
    with refusing(ValueError, OSError):
        return Campaign(name)
