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
# # 04 · Modality preference: Figures 3 (right), 9 and 10
#
# **Question (RQ2).** When exactly one modality is wrong, does a model follow those that are right, and
# does it follow text more readily than audio, and audio than video? And is the modality it follows the
# one it attends to?
#
# **What to look at.** GTAR by modality against an ideal observer and other reference strategies
# (Figure 9a); who wins where two modalities disagree; attention a token by layer (Figures 9b, 10); and
# whether attention and adoption go together, *between* modalities and, the harder question, *within* one
# (Figure 3, right).
#
# Answers and attention come from the store that notebook 03 filled; nothing is computed twice.

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

from emomm_lib import gtar_frame, nmas_by_layer, pair_frame, target_conflict
from emomm_lib.labels import COALITIONS
from emomm_study import paper
from emomm_study.evaluate.adoption import (
    attention_by_modality,
    nmas_gtar_correlation,
    preference_points,
)
from emomm_study.evaluate.results import baselines, outcomes, own_answers
from emomm_study.mini.ideal import IDEAL, ideal_outcomes
from emomm_study.notebook import open_run
from emomm_study.report.figures.preference import figure3_right, figure9, figure10
from emomm_study.report.tables import collapsed, with_intervals

run = open_run("04_modality_preference", globals())

# %%
bench = run.bench
predictions = bench.predictions(bench.clips, COALITIONS, traces=True)
answered, lost = outcomes(bench.clips, predictions)
traces = bench.traces()

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print(f"{len(answered):,} answers, {len(lost)} not scored, {len(traces):,} traces")

# %% [markdown]
# ## GTAR
#
# Of the cases in which exactly one available modality has another polarity than the ground truth (the
# target-conflict set), GTAR of a modality is the share answered with the right polarity among those in
# which that modality is right (Eq. 4). *Conflict* has all three modalities, *Missing-Conflict* two of
# them, of which one is right and the other wrong.

# %%
gtar = gtar_frame(answered)
run.record(gtar, "gtar", by=["setting", "modality"])
with_intervals(gtar, index="modality", columns="setting", factor=1, digits=3)

# %% [markdown]
# Pooling hides who meets whom. By coalition:

# %%
pairwise = gtar_frame(answered, by=("coalition",))
run.record(pairwise, "gtar by coalition", by=["coalition", "modality"])
with_intervals(pairwise, index="modality", columns="coalition", factor=1, digits=3)

# %% [markdown]
# Where does zero preference lie? With two modalities, one right and one wrong, following either at random is
# right half of the time; with three, two of them right, more often. But a strategy that follows whatever is
# read *most surely* has no preference either, and need not be at one half: two of them average, or multiply, the
# probabilities that the model itself gives to each modality alone. And the *ideal observer* (notebook 03) reads
# the very clips without error, all modalities alike.

# %%
strategies = ({IDEAL: ideal_outcomes(answered, render_cue)} if render else {}) | baselines(answered)
everyone = pd.concat([frame.assign(strategy=name) for name, frame in strategies.items()])
strategy_gtar = gtar_frame(everyone, by=("strategy", "setting"))
run.record(strategy_gtar, "gtar of reference strategies", by=["strategy", "setting", "modality"])
with_intervals(strategy_gtar, index=["strategy", "setting"], columns="modality", factor=1, digits=3)

# %% [markdown]
# ## Who wins
#
# GTAR asks for right answers. A preference shows more directly where two modalities disagree, whoever is right:
# of the conflicts in which the model, shown one modality alone, answers one class for the first and another for
# the second, and then, shown both or all three, gives one of the two answers, the share that are the first's. One half is no
# preference, and what each modality says is the model's own reading, not a label.

# %%
duels = answered.merge(own_answers(answered).reset_index(), on="sample_id")
pairs = pair_frame(duels[duels["subset"] == "conflict"], "answer")
pairs = pairs.assign(pair=pairs["first"] + " over " + pairs["second"])
run.record(pairs, "pairs", by=["pair", "coalition"])
with_intervals(pairs, index="pair", columns="coalition", factor=1, digits=3)

# %% [markdown]
# ## Attention by layer
#
# nMAS (Eq. 5) is the attention of the decision query on a modality divided by its number of tokens, here
# averaged over heads and normalised over the present modalities, so that shares add up to one, on the
# target-conflict cases. First what each modality has: tokens, total attention (`mass`), attention a token
# (`nmas`) and its normalised `share`, averaged over clips and layers. Note that nMAS divides video's
# attention by the most tokens: video's total attention is above text's wherever the two meet, and its nMAS
# below. A low density alone is not disregard.

# %%
conflict = answered[answered["coalition"].isin(["TA", "TV", "AV", "TAV"]) & target_conflict(answered)]
pairs = pd.MultiIndex.from_frame(conflict[["sample_id", "coalition"]])
chosen = traces.select(pd.MultiIndex.from_frame(traces.index).isin(pairs))
budget = attention_by_modality(chosen)
run.record(budget, "budget", by=["coalition", "modality", "quantity"], clips=False, of="quantity")
budget.pivot(index=["coalition", "modality"], columns="quantity", values="value")[
    ["tokens", "mass", "nmas", "share"]
].round({"tokens": 1, "mass": 3, "nmas": 4, "share": 3})

# %% [markdown]
# ## Figure 9

# %%
by_layer = nmas_by_layer(chosen)
told_by = ["coalition", "layer", "modality", "quantity"]
shown = [IDEAL, "random label", "mean own probability", "product of own probabilities"]
run.record(by_layer, "by layer", by=told_by, clips=False, of="quantity")
run.publish(
    figure9(gtar, strategy_gtar[strategy_gtar["strategy"].isin(shown)].rename(columns={"strategy": "reader"}), by_layer), "figure9_preference", "Figure 9",
    "(a) GTAR (Eq. 4) on Missing-Conflict (left) and Conflict (right), n the target-conflict cases "
    "where the modality agrees with the ground truth; hollow, on the ground of its bar: reference "
    "strategies. (b) nMAS (Eq. 5), normalised over the modalities to sum 1, by layer, on "
    "the target-conflict cases (exactly one modality wrong). Black: published values, for which "
    "the paper names no model; intervals are 95% bootstrap",
)

# %% [markdown]
# ## Figure 10

# %%
run.publish(
    figure10(by_layer), "figure10_missing", "Figure 10",
    "nMAS (Eq. 5) of the two present modalities, normalised to sum 1, by layer, where one of the "
    "two is wrong. Black: published values, for which the paper names no model; intervals are 95% "
    "bootstrap",
)

# %% [markdown]
# Video's share of nMAS beside one other modality, or two, by layer:

# %%
video = by_layer[(by_layer["modality"] == "V") & (by_layer["quantity"] == "share")]
video.pivot(index="layer", columns="coalition", values="value").round(2)

# %% [markdown]
# ## Figure 3 (right)
#
# One point for each modality of each coalition. *Between* points, nine of them, a correlation says that
# the modality with more attention a token is the one that is followed. That is the paper's claim; it
# cannot tell attention from anything else that differs between modalities. *Within* points asks, clip by
# clip: does more attention on the modality that is right go with a right answer? *Adjusted* is between
# points, less each coalition's mean. In the table `n` counts the cases in which the modality is right, and
# `share` is its mean nMAS share in them.

# %%
points = preference_points(answered, traces)
correlation = nmas_gtar_correlation(answered, traces)
run.record(correlation, "correlation", by=["quantity"], clips=False)
points[["coalition", "modality", "gtar", "share", "n"]].round({"gtar": 3, "share": 3})

# %%
run.publish(
    figure3_right(points, correlation), "figure3_right", "Figure 3 (right)",
    "GTAR (Eq. 4) against nMAS share (Eq. 5), a point for each modality of each coalition, on "
    "target-conflict cases where the modality agrees with the ground truth; 95% bootstrap intervals over clips",
)

# %%
correlation.set_index("quantity")[["value", "low", "high"]].round(2)

# %% [markdown]
# ## Beside the paper

# %%
mine = gtar.assign(item="claim/gtar_" + gtar["modality"].str.lower() + "_" + gtar["setting"])
mine = mine.rename(columns={"value": "reproduced"}).assign(model=bench.name)
published = paper.claim_items()
published = published[published["item"].str.startswith("claim/gtar_")]
collapsed(run.compare(published, mine, 0.01))

# %% [markdown]
# ## Claims and verdicts
#
# What the paper says, or leaves to ask, beside what this run found. A verdict is the interval's: *open* where it leaves both.

# %%
run.claims()

# %% [markdown]
# **What came out, under `mini`.** This model has no stable preference for text, though it saw nothing else in the
# first third of its training. Shown two modalities, it sides against text with either other one; shown all three,
# with text against video. Audio beats both throughout. GTAR agrees where one modality is missing; there the ideal
# observer, preferring none, follows audio no more than the others.
#
# *Attention a token is not influence.* Averaged over layers, text has most of it wherever it is present; yet beside
# text alone it is video that is followed. So a low share of video, which the paper reports too, need not mean that
# video is disregarded.
#
# **What not to conclude.** That a language model's pretraining leaves no preference: notebook 13 compares
# models with and without a head start of text. Clip by clip, attention on what is right does go with right
# answers, weakly; but a modality that is right is also shown more emphatically here, which may cause both.
# Only intervention tells: notebooks 06 to 08, and 13.
#
# Next: [05 · Person masking](05_person_masking.ipynb), whether video is worth more once only the person is
# seen.
