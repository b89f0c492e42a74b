"""Gains of steering by gates that need no training, on any clips."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from emomm_lib import Bootstrap, SteeringConfig, paired_frame
from emomm_lib.metrics.bootstrap import DEFAULT
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.methods import Always, Chance, GateSource, Method, Oracle
from emomm_study.evaluate.results import by_subset, join

GATES: dict[str, GateSource] = {
    "oracle": Oracle(),
    "random": Chance(),
    "even": Always(1.0, (1 / 3, 1 / 3, 1 / 3)),
}
"""By name: what the labels say, what a die says, and no preference at all."""


def untrained_gains(
    bench: Experiment,
    clips: pd.DataFrame,
    settings: Mapping[str, SteeringConfig],
    gates: Mapping[str, GateSource] = GATES,
    *,
    bootstrap: Bootstrap = DEFAULT,
) -> pd.DataFrame:
    """Gains in Acc-5 on whole clips over the unsteered model, by setting and gate.

    Visual importance is taken from attention. Returns ``setting, gate, subset, value, low, high, n``
    with 95% intervals over clips. Raises like :meth:`Experiment.steered`.
    """
    names = [(setting, gate) for setting in settings for gate in gates]
    methods = [
        Method(f"{setting}, {gate} gate", gates[gate], settings[setting], "attention",
               protocol="untrained", variant=place)
        for place, (setting, gate) in enumerate(names)
    ]  # fmt: skip
    rows = clips.assign(coalition="TAV")
    plain = by_subset(join(rows, bench.predictions(clips, ["TAV"]))[0])
    frames = []
    for place, own in bench.steered(clips, ["TAV"], methods).groupby("variant", sort=True):
        scored = by_subset(join(rows, own)[0])
        gain = paired_frame(plain, scored, metrics=("acc5",), bootstrap=bootstrap)
        setting, gate = names[int(place)]
        frames.append(gain.assign(setting=setting, gate=gate))
    columns = ["setting", "gate", "subset", "value", "low", "high", "n"]
    return pd.concat(frames, ignore_index=True)[columns]
