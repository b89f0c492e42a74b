"""``emomm check`` and ``emomm run``: a profile before and while its notebooks run."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from emomm_study.command.outcome import Outcome, refusing
from emomm_study.run.profiles import PipelineError, load_profile, preflight


def parameters_of(name: str, clips: int | None = None) -> dict[str, Any]:
    """A profile's parameters, references filled in and checked, but for the pipeline's own.

    Raises ``PipelineError``.
    """
    from emomm_study.run.pipeline import SETTINGS

    profile = load_profile(name) | ({} if clips is None else {"clips": clips})
    return preflight({k: v for k, v in profile.items() if k not in SETTINGS})


def check(options: argparse.Namespace) -> Outcome:
    """What a run would be; status 1 where it cannot go."""
    from emomm_study.run.check import check_profile
    from emomm_study.run.checked import report

    with refusing(PipelineError):
        parameters = parameters_of(options.profile, options.clips)
    with refusing(ValueError, OSError):
        checked = check_profile(parameters, measure=options.measure)
    return Outcome(asdict(checked) | {"go": checked.go}, report(checked), 0 if checked.go else 1)


def run(options: argparse.Namespace) -> Outcome:
    """Run the notebooks; what they found beside the published values."""
    from emomm_study.run.pairing import PairError
    from emomm_study.run.pipeline import run_asked

    with refusing(PipelineError, PairError):
        table, closing = run_asked(options)
    found = {"profile": options.profile, "comparison": table.to_dict("records")}
    return Outcome(found, f"\n{closing}")
