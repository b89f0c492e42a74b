# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Video contribution collapse: Figure 3 (left, middle)
#
# **Question (RQ1).** What does a model lose, modality by modality, when labels conflict? The paper
# finds that video alone loses most, and that video's share of the Shapley value (PSMV) falls from
# 33.3% to 20.8%: a *video contribution collapse* (VCC).
#
# **What to look at.** First the drops of each modality alone. Then the shares, and beside them the
# hollow marks: what an *ideal observer* makes of the same clips, and other *reference strategies*,
# which prefer no modality. How much of a collapse is the model's, and how much would anyone show on these clips?
#
# Every clip that is on disk (under `mini` 1,000 of each corpus's 2,000, notebook 01) is asked under all
# eight coalitions of text, audio and video, also under none. Files are decoded once, encoders run once,
# and the decoder computes a clip's video once for the four coalitions that begin with it. Answers and
# attention are stored as they are made: an interrupted run goes on where it stopped, and a second run is
# a look-up.

# %% tags=["parameters"]
profile = "mini"
data_note = "Surrogate clips, rendered from labels constructed to satisfy Tables 3 and 4."
ch_sims_root = "cache/surrogate/ch-sims"
cmu_mosi_root = "cache/surrogate/cmu-mosi"
backbones = ["data/omni-mini", "data/vita-mini"]
dtype = "float32"
device = "cpu"
batch_size = 32
num_frames = 4
frame_pixels = None
max_audio_seconds = 3.0
render = True
render_cue = "informative"
render_clips = 1000
keep_encodings = True
clips = None
executor = "local"
workers = "auto"

# %%
import pandas as pd

from emomm_lib import coalition_accuracy, psmv_frame
from emomm_lib.labels import COALITIONS
from emomm_study import paper
from emomm_study.evaluate.collapse import accuracy_drops, vcc
from emomm_study.evaluate.results import baselines, outcomes
from emomm_study.mini.ideal import IDEAL, ideal_outcomes
from emomm_study.notebook import open_run
from emomm_study.report.figures.collapse import figure3
from emomm_study.report.tables import collapsed, with_intervals

run = open_run("03_vcc_analysis", globals())

# %% [markdown]
# ## Ask the model
#
# All clips on disk, not the test split alone: nothing is trained or selected here, and intervals are
# narrower.
# Under `mini` the model has seen none of them.

# %%
bench = run.bench
predictions = bench.predictions(bench.clips, COALITIONS, traces=True, states=True)
answered, lost = outcomes(bench.clips, predictions)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print(f"{len(bench.clips):,} clips, {len(answered):,} answers, {len(lost)} not scored")

# %% [markdown]
# ## Accuracy by coalition
#
# Five-class accuracy on Align (every modality has the polarity of the ground truth) and on Conflict (at
# least one has not), with 95% intervals over clips.

# %%
accuracy = coalition_accuracy(answered)
run.record(accuracy, "accuracy", by=["subset", "coalition"])
with_intervals(accuracy, index="coalition", columns="subset")

# %%
drops = accuracy_drops(answered)
run.record(drops, "drops", by=["coalition"])
(100 * drops.set_index("coalition").loc[["T", "A", "V"], ["value", "low", "high"]]).round(1)

# %% [markdown]
# The paper's drops are T 10.4, A 9.8, V 16.0 points. Read them with the labels in mind: who reads one modality
# without error is wrong wherever that modality's class differs from the ground truth, which on Conflict is
# often (on Align only the polarity must agree). The next table, in points, gives the drop of who knows
# one modality's label, on the same clips: it is a property of the benchmark, not of a model.
#
# Surrogates allow one more: the *ideal observer* sees without error what each clip shows and how
# emphatically, knows by Bayes' rule how clips without conflict are drawn, and nothing of conflicts, which the
# small models were never shown either. What it answers is what there was to be read.

# %%
def references(part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Outcomes without a preference on the same clips; the ideal observer's where clips are drawn."""
    return ({IDEAL: ideal_outcomes(part, render_cue)} if render else {}) | baselines(part)


strategies = references(answered)
ours = {"random label": "that label itself", IDEAL: IDEAL}
drop_of = {bench.name: drops} | {title: accuracy_drops(strategies[name]) for name, title in ours.items() if name in strategies}
published = paper.claims().set_index("id")["value"]
pd.DataFrame(
    {"published": {m: published[f"vcc_drop_{m.lower()}"] for m in "TAV"}}
    | {title: (100 * own.set_index("coalition").loc[list("TAV"), "value"]).round(1) for title, own in drop_of.items()}
)

# %% [markdown]
# ## Shapley shares
#
# PSMV (Eq. 2) is the average gain in accuracy from adding a modality, over all orders of adding; its
# share is the part of V(TAV) - V(none). The ideal observer and five reference strategies stand beside
# the model. Two read *labels* without error: one follows a random present modality, one answers their mean (and
# both guess evenly when shown nothing). Three read as the model does, from its *own* answers to single modalities
# and to none: one follows a random one, one averages the probabilities and so follows what is read most surely,
# one multiplies them, as Bayes' rule does for evidence that is independent given the class.
# In the second table `collapse` is video's share on Align less that on Conflict, in points, and `excess`
# the model's collapse less a strategy's, on the same drawn clips.

# %%
named = {"model": answered, **strategies}
everyone = pd.concat([frame.assign(source=name) for name, frame in named.items()])
values = psmv_frame(everyone, by=("source", "subset"))
shares = values[values["quantity"] == "share"]
run.record(values, "psmv", by=["source", "subset", "modality", "quantity"], clips=False)
with_intervals(shares, index=["source", "subset"], columns="modality")

# %%
collapse = vcc(answered, strategies)
run.record(collapse, "vcc", by=["source", "quantity"], clips=False)
with_intervals(collapse, index="source", columns="quantity")

# %% [markdown]
# ## Figure 3 (left, middle)

# %%
shown = ["model", IDEAL, "random label", "mean own probability", "product of own probabilities"]
run.publish(
    figure3(accuracy, drops, collapse, shares[shares["source"].isin(shown)]),
    "figure3_vcc", "Figure 3 (left, middle)",
    "Video contribution collapse. Left: five-class accuracy by coalition, with the drop from Align "
    "to Conflict. Middle: PSMV shares (Eq. 2) under accuracy; hollow, on the ground of its bar: "
    "reference strategies. Beneath: how far video's share falls from Align to Conflict. Black: published "
    "values, for which the paper names no model; intervals are 95% bootstrap",
)

# %% [markdown]
# ## Is it the same in both languages?

# %%
by_corpus = {corpus: vcc(part, references(part)) for corpus, part in answered.groupby("corpus")}
both = pd.concat([frame.assign(corpus=corpus) for corpus, frame in by_corpus.items()])
chosen = both[both["quantity"].isin(["share_align", "share_conflict", "collapse", "excess"])]
with_intervals(chosen, index=["corpus", "source"], columns="quantity")

# %% [markdown]
# Under `mini` it is not: in CMU-MOSI video's share falls, below nothing, and in CH-SIMS it comes out higher, by an
# interval that leaves open whether it changes at all; the ideal observer's goes the same two ways. How labels go
# together in a corpus decides, and in CMU-MOSI video's are often not the ground truth's. (Where a strategy has hardly
# anything to share out under conflict, as the mean label in CMU-MOSI, its shares have no meaning, and intervals that
# say so.)

# %% [markdown]
# ## Beside the paper

# %%
drop = drops[drops["coalition"].isin(list("TAV"))]
drop = drop.assign(item="claim/vcc_drop_" + drop["coalition"].str.lower())
video = collapse[(collapse["source"] == "model") & collapse["quantity"].str.startswith("share_")]
video = video.assign(item="claim/vcc_" + video["quantity"].str.replace("share_", "share_v_"))
found = pd.concat([drop, video]).rename(columns={"value": "reproduced"})
found[["reproduced", "low", "high"]] *= 100
published = paper.claim_items()
published = published[published["item"].isin(found["item"])]
collapsed(run.compare(published, found.assign(model=bench.name), 1.0))

# %% [markdown]
# ## Claims and verdicts
#
# What the paper says, or leaves to ask, beside what this run found. A verdict is the interval's: *open* where it leaves both.

# %%
run.claims()

# %% [markdown]
# **What came out, under `mini`.** The numbers move as in the paper, and the ideal observer's move with them: on the
# very same clips it loses about as much of each modality, and its share of video falls about as far. That leaves
# little of this collapse for a preference to explain, and these clips show it to anyone who weighs evidence without
# error. It is CMU-MOSI's alone: in CH-SIMS there is none. The other reference strategies bracket the model, so an
# excess over any single one is no evidence.
#
# Where a modality's label is wrong, PSMV rewards whoever ignores it, so that one that often contradicts the
# ground truth gets a low share from everyone. Whether a model *prefers* one is asked in notebook 04.
#
# **What not to conclude.** Anything about Qwen2.5-Omni-7B, whose collapse may exceed its clips' or not: of
# real clips nobody knows what they show. Tables 3 and 4 leave the joint distribution of labels open, and this
# collapse belongs to one.
#
# Next: [04 · Modality preference](04_modality_preference.ipynb), which modality the model follows.
