"""The null control: the surrogate corpora without the cue that tells whom to trust."""

from __future__ import annotations

from dataclasses import replace

from emomm_study.evaluate.experiment import Experiment
from emomm_study.evaluate.results import with_media
from emomm_study.evaluate.store import PredictionStore
from emomm_study.mini.surrogate.cue import CUES
from emomm_study.mini.surrogate.plan import SurrogateSettings
from emomm_study.mini.surrogate.render import render_corpus
from emomm_study.mini.surrogate.speaker import Film


def null_control(bench: Experiment, clips: int, film: Film = Film()) -> Experiment:
    """The surrogate corpora again, ``clips`` of each, with an emphasis that says nothing.

    Labels, words, voices' and faces' readability are as before; a modality that has the ground
    truth's class is no longer expressed more clearly than another. Rendered where it is not yet,
    and with stores of its own.
    """
    roots = {corpus: root.parent.with_name(root.parent.name + "-null") / root.name
             for corpus, root in bench.roots.items()}  # fmt: skip
    settings = SurrogateSettings(cue=CUES["null"], film=film)
    for corpus, root in roots.items():
        render_corpus(root, corpus, settings, limit=clips)
    there = with_media(bench.clips, roots, partial=True)
    store = PredictionStore(bench.store.path.with_name("predictions-null.sqlite"))
    return replace(bench, roots=roots, clips=there, store=store)
