"""Configurations that notebook 07 chooses, on disk for those that build on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from emomm_lib.chase.equations import SteeringConfig
from emomm_study.paths import CHOICES, located, plain, run_dir, whole


@dataclass(frozen=True)
class Choice:
    """A configuration chosen on validation.

    Attributes
    ----------
    gain
        In Acc-5 over the unsteered model there, by subset; a share of 1.
    tried
        Configurations that there were to choose from.
    tied
        How many of them could not be told from the best: within one standard error of it.
    edge
        Whether standard errors a tenth larger or smaller would have changed the choice.
    kept
        Whether it is an earlier choice, where this run alone would have made another.
    router
        The kind of router that says p and g; None where no router does.
    group
        What it is shown with in tables and figures.
    """

    config: SteeringConfig
    gain: Mapping[str, float]
    tried: int
    tied: int = 1
    edge: bool = False
    kept: bool = False
    router: str | None = None
    group: str = ""


def choices_path(profile: str) -> Path:
    """``runs/<profile>/choices.json``."""
    return run_dir(profile) / CHOICES


def write_choices(choices: Mapping[str, Choice], profile: str, made_for: str) -> None:
    """Keep choices by name; ``made_for`` is the fingerprint of the study they were made in."""
    content = {
        "made_for": made_for,
        "choices": {name: asdict(choice) for name, choice in choices.items()},
    }
    with whole(choices_path(profile)) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_choices(profile: str, made_for: str) -> dict[str, Choice]:
    """What notebook 07 chose, by name, in its order.

    Raises ``FileNotFoundError`` where it has not run, and ``ValueError`` for a file that holds no
    choices, or those of a study with another fingerprint.
    """
    path = choices_path(profile)
    again = "run notebook 07, which chooses the configurations"
    found, studied = _read(path, again)
    if studied != made_for:
        raise ValueError(
            f"{plain(path)} was made with another model, media settings, clips or labels than "
            f"these; {again}"
        )
    return found


def earlier_configs(file: str | None) -> dict[str, SteeringConfig]:
    """Configurations that an earlier run chose, by name, from its ``choices.json``; none of None.

    Whatever it was made for: a choice by another machine, or on other clips, is one to hold to while
    it cannot be told from the best (``tune.choose``). A relative path is from the project. Raises as
    :func:`read_choices` does for a file that is missing or holds no choices.
    """
    if file is None:
        return {}
    found, _ = _read(located(file), "set earlier_choices to a run's choices.json, or to null")
    return {name: choice.config for name, choice in found.items()}


def _read(path: Path, advice: str) -> tuple[dict[str, Choice], str]:
    if not path.is_file():
        raise FileNotFoundError(f"{plain(path)} is missing; {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {name: _choice(**choice) for name, choice in content["choices"].items()}
        return found, content["made_for"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{plain(path)} holds no choices ({error}); {advice}") from error


def _choice(config: dict, **rest: object) -> Choice:
    heads = config["heads"]
    pairs = None if heads is None else tuple((layer, head) for layer, head in heads)
    return Choice(SteeringConfig(**config | {"heads": pairs}), **rest)
