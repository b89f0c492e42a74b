"""CHASE on an experiment: its routers, what is tuned on validation, and what is reported once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from emomm_lib.chase.equations import SteeringConfig
from emomm_lib.chase.router import Router
from emomm_lib.chase.training import RouterStates, RouterTargets, TrainingSettings, routed
from emomm_lib.metrics.paired import paired_frame
from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.fit import (
    cross_fit,
    fit_router,
    rows_of,
    side_by_side,
    speaker_folds,
)
from emomm_study.evaluate.fusion import fit_probe, late_fusion, probe_answers, probe_inputs
from emomm_study.evaluate.methods import Always, Chance, CrossFitted, Method, Oracle, Parts, Routed
from emomm_study.evaluate.parallel import processes_for
from emomm_study.evaluate.remembered import remembered
from emomm_study.evaluate.results import instances, join
from emomm_study.evaluate.states import COALITIONS
from emomm_study.evaluate.tune import (
    Candidate,
    Choice,
    choose,
    fractions,
    search,
    simplest_tied,
    subset_hits,
)
from emomm_study.paths import cache_dir

PUBLISHED, EMBEDDED = "published", "embedded"
"""Routers: the paper's, and one that reads the modalities as they enter the decoder."""
_SYMBOLS = {"top_k": "K", "percentile": "P", "first_layer": "l_r"}
POOLINGS = tuple((pooling, power) for power in (1.0, 2.0, 4.0) for pooling in ("linear", "log"))
PROBES = tuple((kind, s) for s in (100.0, 10.0, 1000.0) for kind in ("layer", "embedded"))
"""Ways to fuse and to probe, the simplest first: the gate as it is, the router's own inputs."""


@dataclass(frozen=True)
class ChaseStudy:
    """Routers and configurations of one experiment; all that is slow is kept on disk.

    Attributes
    ----------
    bench
        The experiment, its clips with ``split``.
    states
        What a router reads of all clips.
    budget
        Configurations that each method may try on the validation split.
    seed
        Of folds, searches and routers (these count upwards from it).
    given
        Configurations chosen elsewhere, on which nothing is searched here.
    """

    bench: Experiment
    states: RouterStates
    budget: int = 24
    seed: int = 0
    given: dict[str, Choice] | None = None

    @property
    def layers(self) -> int:
        return self.bench.model.model.get_decoder().config.num_hidden_layers

    @property
    def heads(self) -> int:
        return self.bench.model.model.get_decoder().config.num_attention_heads

    @property
    def base(self) -> SteeringConfig:
        """The published configuration at this decoder's depth."""
        return SteeringConfig.at_published_depth(self.layers)

    @property
    def folder(self) -> Path:
        return cache_dir() / "routers"

    def split(self, name: str) -> pd.DataFrame:
        """Clips of ``train``, ``valid`` or ``test``."""
        clips = self.bench.clips
        return clips[clips["split"] == name]

    @cached_property
    def crossed_clips(self) -> pd.DataFrame:
        """Every clip on which nothing was chosen: all but the validation split."""
        return self.bench.clips[self.bench.clips["split"] != "valid"]

    def settings(self, kind: str, **changes) -> TrainingSettings:
        """How a kind of router is trained; the published kind with the paper's values."""
        if kind == EMBEDDED:
            embedded = {
                "first_layer": 1, "inputs": "embedded", "standardize": True,
                "learning_rate": 1e-3, "batch_size": 128,
            }  # fmt: skip
            changes = embedded | changes
        given = {"first_layer": self.base.first_layer, "seed": self.seed} | changes
        return TrainingSettings(**given)

    def router(self, kind: str, **changes) -> tuple[Router, pd.DataFrame]:
        """A router trained on the training split, and its history; kept on disk."""
        return fit_router(
            self.bench.model,
            self.states,
            self.split("train"),
            self.settings(kind, **changes),
            self.folder,
            valid=self.split("valid"),
        )

    def routers(self, kind: str, seeds: int) -> list[tuple[Router, pd.DataFrame]]:
        """The same router trained from several seeds, counting upwards from the study's."""
        wanted = range(self.seed, self.seed + seeds)
        processes = processes_for(self.bench.model.device)
        return side_by_side(lambda seed: self.router(kind, seed=seed), wanted, processes)

    @cached_property
    def fold(self) -> pd.Series:
        """Fold of each cross-fitted clip, by sample_id."""
        return speaker_folds(self.crossed_clips, seed=self.seed)

    def crossed(self, kind: str) -> CrossFitted:
        """Routers of which each is asked about speakers that it never saw.

        Each is trained on the other folds and on the validation split.
        """
        routers = cross_fit(
            self.bench.model,
            self.states,
            self.bench.clips,
            self.fold,
            self.settings(kind),
            self.folder,
        )
        return CrossFitted(routers, self.fold.to_dict())

    def targets(self, clips: pd.DataFrame) -> tuple[RouterStates, RouterTargets]:
        """States of some clips' prompts, and what a router should say of them."""
        part = self.states.take(rows_of(self.states, clips))
        return part, RouterTargets.of(part, clips)

    # What is tuned

    def candidates(self) -> list[Candidate]:
        """Methods whose configuration is chosen on validation, each with the same budget.

        The paper's own method keeps its published values and is given only psi-hat and P, which
        are not published. Defaults are the published values, psi-hat 0.3 and P 80; of fixed heads
        a quarter of all at PASTA's strength, of temperatures the mildest.
        """
        published = Routed(self.router(PUBLISHED)[0])
        embedded = Routed(self.router(EMBEDDED)[0])
        layers = fractions(self.layers, 1 / 8, 1 / 4, 13 / 28)
        heads = fractions(self.heads, 1 / 4, 1 / 2, 1)
        free = {
            "first_layer": layers, "top_k": heads, "tau": (0.3, 0.5, 0.7), "eta": (0.6, 1.0),
            "gamma": (1.4, 3.0, 6.0, 10.0), "preference": ("softmax", "share"),
        }  # fmt: skip
        own = free | {"beta": (0.0, 0.5)}
        sharp = free | {"sharpness": (1.0, 2.0, 4.0, 8.0), "beta": (0.0,)}
        still = replace(self.base, beta=0.0)
        sets = self.profiled_heads()
        quarter = sets[len(sets) // 2]
        fixed = replace(still, rule="first", heads=quarter, gamma=4.6, first_layer=1)
        profiled = {
            "heads": sets, "gamma": (1.0, 2.0, 4.6, 8.0), "tau": (0.3, 0.5, 0.7),
        }  # fmt: skip
        warm = {
            "temperature": (0.5, 0.7, 0.85, 1.2, 1.5, 2.0), "first_layer": layers, "top_k": heads,
        }  # fmt: skip
        unpublished = {"psi_hat": (0.1, 0.2, 0.3, 0.5), "percentile": (50.0, 70.0, 80.0, 90.0)}

        def drawn(base: SteeringConfig, space: Mapping[str, Sequence]) -> list[SteeringConfig]:
            return search(base, space, self.budget, self.seed)

        always = replace(still, tau=0.0)
        no_bias = replace(always, gamma=0.0, temperature=0.85)
        video = {name: values for name, values in free.items() if name != "tau"}
        return [
            Candidate("CHASE", published, drawn(self.base, unpublished)),
            Candidate("CHASE, tuned", published, drawn(self.base, own)),
            Candidate("+ embedded gate", embedded, drawn(still, free | {"beta": (0.0,)})),
            Candidate("+ sharpened gate", embedded, drawn(still, sharp)),
            Candidate("oracle", Oracle(), drawn(still, free)),
            Candidate("video boost", Always(1.0, (0.0, 0.0, 1.0)), drawn(always, video)),
            Candidate("fixed heads", published, drawn(fixed, profiled)),
            Candidate("temperature", Always(1.0, (1.0, 1.0, 1.0)), drawn(no_bias, warm)),
        ]

    def profiled_heads(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Sets of heads that attend to the modalities most, on training clips.

        The first eighth, quarter and half of all heads, by mean attention on T, A and V together.
        PASTA ranks heads by what steering each one gains, which costs a run for each.
        """
        rows = rows_of(self.states, self.split("train"))
        mass = self.states.mass[rows].double().sum(-1).mean(0)
        order = mass.flatten().argsort(descending=True, stable=True).tolist()
        pairs = [(i // self.heads + 1, i % self.heads + 1) for i in order]
        return tuple(tuple(sorted(pairs[:n])) for n in fractions(len(pairs), 1 / 8, 1 / 4, 1 / 2))

    @cached_property
    def validation(self) -> pd.DataFrame:
        """What every candidate's configurations and ``baseline`` get right on validation clips.

        By :func:`emomm_study.evaluate.tune.subset_hits`.
        """
        clips = self.split("valid")
        methods = [m for candidate in self.candidates() for m in candidate.methods()]

        def measure() -> pd.DataFrame:
            answers = self.bench.steered(clips, COALITIONS, methods)
            plain = self.bench.predictions(clips, COALITIONS).assign(method="baseline")
            return subset_hits(clips, pd.concat([answers, plain]))

        return self._remembered("validation", clips, methods, measure)

    def _remembered(
        self,
        name: str,
        clips: pd.DataFrame,
        methods: Sequence[Method],
        make: Callable[[], pd.DataFrame],
        *more: str,
    ) -> pd.DataFrame:
        """A table made of these methods' answers on these clips, or as it was made before."""
        runs = [f"{m.name}={self.bench.run_of(m)}" for m in methods]
        labels = clips.to_csv(index=False)
        return remembered(name, [*runs, self.bench.versions(clips), labels, *more], make)

    @cached_property
    def choices(self) -> dict[str, Choice]:
        """What each candidate became, or what was given."""
        if self.given is not None:
            return self.given
        return choose(self.candidates(), self.validation)

    def on(self, bench: Experiment) -> ChaseStudy:
        """Other clips with the configurations that were chosen here."""
        return replace(self, bench=bench, states=bench.states(bench.clips), given=self.choices)

    # What is reported

    def tested(self) -> list[Method]:
        """Methods on the test split, scores included, by routers of the training split."""
        clips = frozenset(self.split("test")["sample_id"])
        published, embedded = (Routed(self.router(kind)[0]) for kind in (PUBLISHED, EMBEDDED))
        sources = {
            "CHASE": published,
            "CHASE, tuned": published,
            "+ embedded gate": embedded,
            "+ sharpened gate": embedded,
        }
        return [
            Method(f"{name} | test", source, self.choices[name].config, scored=True, clips=clips)
            for name, source in sources.items()
        ]

    def _crossed(self, mark: str, chosen: Mapping[str, tuple]) -> list[Method]:
        """Methods on every clip on which nothing was chosen, from (source, configuration)."""
        clips = frozenset(self.crossed_clips["sample_id"])
        return [
            Method(f"{name} | {mark}", source, config, "attention", clips=clips)
            for name, (source, config) in chosen.items()
        ]

    def cross_fitted(self) -> list[Method]:
        """Methods and oracles, cross-fitted."""
        published, embedded = self.crossed(PUBLISHED), self.crossed(EMBEDDED)
        config = {name: choice.config for name, choice in self.choices.items()}
        best = config["+ sharpened gate"]
        chosen = {
            "CHASE": (published, config["CHASE"]),
            "CHASE, tuned": (published, config["CHASE, tuned"]),
            "+ embedded gate": (embedded, config["+ embedded gate"]),
            "+ sharpened gate": (embedded, best),
            "oracle": (Oracle(), config["oracle"]),
            "oracle, same configuration": (Oracle(), best),
        }
        return self._crossed("crossed", chosen)

    def controls(self) -> list[Method]:
        """What the extended method is held against, cross-fitted where it has a router."""
        embedded, oracle = self.crossed(EMBEDDED), Oracle()
        even, video = Always(1.0, (1.0, 1.0, 1.0)), Always(1.0, (0.0, 0.0, 1.0))
        config = {name: choice.config for name, choice in self.choices.items()}
        best = config["+ sharpened gate"]
        chosen = {
            "oracle p, router's gate": (Parts(oracle, embedded), best),
            "router's p, oracle gate": (Parts(embedded, oracle), best),
            "router's p, random gate": (Parts(embedded, Chance(self.seed)), best),
            "router's p, even gate": (Parts(embedded, even), best),
            "video boost": (video, config["video boost"]),
            "fixed heads": (self.crossed(PUBLISHED), config["fixed heads"]),
            "temperature": (even, config["temperature"]),
        }
        return self._crossed("control", chosen)

    def ablations(self) -> list[Method]:
        """Table 2 on the test split: parts of CHASE, and of what it was extended to, left out."""
        clips = frozenset(self.split("test")["sample_id"])
        published, embedded = (Routed(self.router(kind)[0]) for kind in (PUBLISHED, EMBEDDED))
        full = self.choices["CHASE"].config
        best = self.choices["+ sharpened gate"].config

        def method(name: str, source, config: SteeringConfig) -> Method:
            return Method(f"{name} | ablation", source, config, scored=True, clips=clips)

        return [
            method("full", published, full),
            method("no_router", Chance(self.seed), full),
            method("no_inter_bias", published, replace(full, gamma=0.0)),
            method("no_intra_bias", published, replace(full, beta=0.0)),
            method("extended", embedded, best),
            method("extended, random gate", Chance(self.seed), best),
            method("extended, published router", published, best),
            method("extended, not sharpened", embedded, replace(best, sharpness=1.0)),
        ]

    @cached_property
    def reported(self) -> pd.DataFrame:
        """Scored instances of all that notebooks 07 and 08 report of methods.

        On the test split under all coalitions; ablations, and all that is cross-fitted, on whole
        clips, as in Table 2.
        """
        whole = self.evaluate([*self.ablations(), *self.cross_fitted(), *self.controls()], ("TAV",))
        return pd.concat([self.evaluate(self.tested()), whole])

    def report(self, mark: str) -> dict[str, pd.DataFrame]:
        """Instances by method of one kind: ``test``, ``ablation``, ``crossed``, ``control``."""
        scored = self.reported
        own = scored[scored["method"].str.endswith(f" | {mark}")]
        return {
            name.split(" | ")[0]: part.assign(method=name.split(" | ")[0])
            for name, part in own.groupby("method", sort=False)
        }

    def evaluate(
        self, methods: Sequence[Method], coalitions: Sequence[str] = COALITIONS
    ) -> pd.DataFrame:
        """Scored instances of some methods with ``method``, computed where they are not known.

        All methods together cost one prompt each, so ask for them at once.
        """
        names = set().union(*(m.clips for m in methods))
        clips = self.bench.clips[self.bench.clips["sample_id"].isin(names)]
        answers = self.bench.steered(clips, coalitions, methods)
        rows = instances(clips)
        rows = rows[rows["coalition"].isin(coalitions)]
        frames = []
        for name, own in answers.groupby("method", sort=False):
            scored, _ = join(rows[rows["sample_id"].isin(own["sample_id"])], own)
            frames.append(scored.assign(method=name))
        return by_subset(pd.concat(frames, ignore_index=True))

    def baseline(self, clips: pd.DataFrame, coalitions: Sequence[str] = COALITIONS) -> pd.DataFrame:
        """Scored instances of the unsteered model."""
        rows = instances(clips)
        rows = rows[rows["coalition"].isin(coalitions)]
        scored, _ = join(rows, self.bench.predictions(clips, coalitions))
        return by_subset(scored.assign(method="baseline"))

    # One parameter at a time

    def sweeps(self) -> pd.DataFrame:
        """Gains on whole validation clips with one parameter moved, others as in a method.

        From the paper's method and the extended one.

        Columns ``method, parameter, setting, base, subset, value, low, high``; ``base`` marks the
        setting of the method itself.
        """
        sources = {
            "CHASE": Routed(self.router(PUBLISHED)[0]),
            "+ sharpened gate": Routed(self.router(EMBEDDED)[0]),
        }
        planned = []
        for name, source in sources.items():
            base = self.choices[name].config
            values = _sweep_values(self.layers, self.heads)
            if base.sharpness == 1:
                # The paper's method has no such parameter.
                del values["sharpness"]
            if base.beta == 0:
                # Without an intra-modality bias they change nothing.
                del values["psi_hat"], values["percentile"]
            kind = "gradient" if name == "CHASE" else "attention"
            for parameter, settings in values.items():
                own = getattr(base, parameter)
                for setting in sorted({*settings, own}):
                    label = f"{name} | sweep {parameter} {setting}"
                    config = replace(base, **{parameter: setting})
                    method = Method(label, source, config, kind)
                    symbol = _SYMBOLS.get(parameter, parameter)
                    planned.append((method, name, symbol, setting, setting == own))
        frame = self._validated([method for method, *_ in planned])
        rows = pd.DataFrame(
            [(m.name, *rest) for m, *rest in planned],
            columns=["label", "method", "parameter", "setting", "base"],
        )
        return rows.merge(frame, on="label").drop(columns="label")

    def readings(self) -> pd.DataFrame:
        """What the paper leaves open, on whole validation clips: preference, scope, agreement.

        Columns ``method, preference, scope, agreement, subset, value, low, high``.
        """
        planned = []
        for name, kind in (("CHASE", PUBLISHED), ("+ sharpened gate", EMBEDDED)):
            config = self.choices[name].config
            for preference in ("softmax", "share"):
                for scope in ("decision", "all"):
                    for agreement in ("label", "polarity"):
                        if scope == "all" and agreement == "polarity":
                            continue
                        router = self.router(kind, agreement=agreement)[0]
                        label = f"{name} | reading {preference} {scope} {agreement}"
                        changed = replace(config, preference=preference, scope=scope)
                        importance = "gradient" if name == "CHASE" else "attention"
                        method = Method(label, Routed(router), changed, importance)
                        planned.append((method, name, preference, scope, agreement))
        frame = self._validated([method for method, *_ in planned])
        columns = ["label", "method", "preference", "scope", "agreement"]
        rows = pd.DataFrame([(m.name, *rest) for m, *rest in planned], columns=columns)
        return rows.merge(frame, on="label").drop(columns="label")

    def importances(self) -> pd.DataFrame:
        """CHASE with visual importance from gradients and from attention, likewise."""
        source = Routed(self.router(PUBLISHED)[0])
        config = self.choices["CHASE"].config
        strong = replace(config, beta=2.0)
        methods = [
            Method(f"beta = {c.beta:g}, {kind}", source, c, kind)
            for c in (config, strong)
            for kind in ("gradient", "attention")
        ]
        return self._validated(methods).rename(columns={"label": "importance"})

    def _validated(self, methods: Sequence[Method]) -> pd.DataFrame:
        """Paired gains in Acc-5 on whole validation clips: ``label, subset, value, low, ...``."""
        clips = self.split("valid")
        return self._remembered("validated", clips, methods, lambda: self._paired(clips, methods))

    def _paired(self, clips: pd.DataFrame, methods: Sequence[Method]) -> pd.DataFrame:
        answers = self.bench.steered(clips, ("TAV",), methods)
        baseline = self.baseline(clips, ("TAV",))
        rows = clips.assign(coalition="TAV")
        frames = []
        for name, own in answers.groupby("method", sort=False):
            scored = by_subset(join(rows, own)[0])
            gain = paired_frame(baseline, scored, metrics=("acc5",))
            frames.append(gain.assign(label=name))
        columns = ["label", "subset", "value", "low", "high", "n"]
        return pd.concat(frames, ignore_index=True)[columns]

    # What can be had without steering

    def unsteered(self, clips: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Late fusion by the embedded gate, and a probe of the router's states, cross-fitted.

        How to pool and which probe is chosen on validation.
        """
        gates = self.crossed(EMBEDDED)
        asked = json.dumps(clips["sample_id"].tolist())
        made_of = json.dumps(gates.settings()), self.states.digest, asked, str(self.seed)
        answers = self._remembered(
            "unsteered", self.bench.clips, [], lambda: self._unsteered(clips, gates), *made_of
        )
        found = {}
        for name, own in answers.groupby("method", sort=False):
            scored, _ = join(instances(clips), own)
            found[name] = by_subset(scored.assign(method=name))
        return found

    def _unsteered(self, clips: pd.DataFrame, gates: CrossFitted) -> pd.DataFrame:
        single = self.bench.predictions(self.bench.clips, ("T", "A", "V"))
        pooling, power = self._best_pooling(single)
        kind, strength = self._best_probe()
        parts = []
        fold = clips["sample_id"].map(self.fold)
        for number, router in enumerate(gates.routers):
            part = clips[(fold == number).to_numpy()]
            held_out = set(self.fold.index[self.fold == number])
            train = self.bench.clips[~self.bench.clips["sample_id"].isin(held_out)]
            states = self.states.take(rows_of(self.states, part))
            gate = routed(router, states)[1].mean(1).numpy()
            fused = late_fusion(single, states.index, gate, pooling=pooling, sharpness=power)
            probed = self._probe(train, part, kind, strength)
            parts += [fused.assign(method="late fusion"), probed.assign(method="probe")]
        return pd.concat(parts, ignore_index=True).sort_values("method", kind="stable")

    def _best_pooling(self, single: pd.DataFrame) -> tuple[str, float]:
        clips = self.split("valid")
        states = self.states.take(rows_of(self.states, clips))
        gate = routed(self.router(EMBEDDED)[0], states)[1].mean(1).numpy()
        answers = [
            late_fusion(single, states.index, gate, pooling=p, sharpness=s).assign(method=f"{i}")
            for i, (p, s) in enumerate(POOLINGS)
        ]
        return POOLINGS[_best(clips, answers)]

    def _best_probe(self) -> tuple[str, float]:
        clips, train = self.split("valid"), self.split("train")
        answers = [
            self._probe(train, clips, kind, strength).assign(method=f"{i}")
            for i, (kind, strength) in enumerate(PROBES)
        ]
        return PROBES[_best(clips, answers)]

    def _probe(
        self, train: pd.DataFrame, clips: pd.DataFrame, kind: str, strength: float
    ) -> pd.DataFrame:
        first = self.base.first_layer
        seen, asked = (self.states.take(rows_of(self.states, part)) for part in (train, clips))
        truth = train.set_index("sample_id")["label_gt"].loc[seen.index["sample_id"]]
        probe = fit_probe(probe_inputs(seen, kind, first), truth.to_numpy(), strength, self.seed)
        return probe_answers(probe, probe_inputs(asked, kind, first), asked.index)


def _sweep_values(layers: int, heads: int) -> dict[str, list]:
    """Settings to try of each parameter, whatever the model's size."""
    eighths = [i / 8 for i in range(1, 9)]
    return {
        "tau": [0.0, 0.3, 0.5, 0.7, 0.9],
        "eta": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        "gamma": [0.0, 0.7, 1.4, 3.0, 6.0, 10.0, 15.0],
        "beta": [0.0, 0.25, 0.5, 1.0, 2.0],
        "top_k": fractions(heads, *eighths),
        "psi_hat": [0.1, 0.2, 0.3, 0.5, 0.8],
        "percentile": [50.0, 70.0, 80.0, 90.0, 95.0],
        "first_layer": fractions(layers, *eighths),
        "sharpness": [1.0, 2.0, 4.0, 8.0],
    }


def _best(clips: pd.DataFrame, answers: Sequence[pd.DataFrame]) -> int:
    """The first of some ways to answer that cannot be told from the best."""
    ways = [str(i) for i in range(len(answers))]
    return simplest_tied(subset_hits(clips, pd.concat(answers)), ways, range(len(ways)))[0]


def by_subset(scored: pd.DataFrame) -> pd.DataFrame:
    """Instances with Missing's two kinds as one ``subset``: align, conflict, missing."""
    return scored.assign(subset=scored["subset"].str.split("_").str[0])
