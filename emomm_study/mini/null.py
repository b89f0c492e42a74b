"""The null control: the surrogate corpora without the cue that tells whom to trust."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.store import PredictionStore
from emomm_study.mini.surrogate.cue import CUES
from emomm_study.mini.surrogate.plan import SurrogateSettings, corpus_plan
from emomm_study.mini.surrogate.render import fingerprint, write_clips
from emomm_study.mini.surrogate.speaker import Film


def null_control(bench: Experiment, clips: int, film: Film = Film()) -> Experiment:
    """The surrogate corpora again, ``clips`` of each, with an emphasis that says nothing.

    Labels, words, voices' and faces' readability are as before; a modality that has the ground
    truth's class is no longer expressed more clearly than another. Of the bench's own clips, so
    that a part of the benchmark has its control, too. Rendered where they are not yet, and with
    stores of their own.
    """
    settings = SurrogateSettings(cue=CUES["null"], film=film)
    roots, chosen = {}, []
    for corpus, root in bench.roots.items():
        beside = root.parent.with_name(f"{root.parent.name}-null")
        roots[corpus] = beside / f"{root.name}-{fingerprint(corpus, settings)}"
        # In the order in which a surrogate corpus is rendered where not all of it is.
        plan = corpus_plan(corpus, settings).sample(frac=1, random_state=settings.seed)
        own = plan[plan["sample_id"].isin(bench.clips["sample_id"])].head(clips)
        write_clips(
            roots[corpus], own.to_dict("records"), corpus, progress=bench.progress, film=film
        )
        chosen.append(own["sample_id"])
    there = bench.clips[bench.clips["sample_id"].isin(pd.concat(chosen))].reset_index(drop=True)
    store = PredictionStore(bench.store.path.with_name("predictions-null.sqlite"))
    return replace(bench, roots=roots, clips=there, store=store)
