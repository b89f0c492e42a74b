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
# # 05 · Person masking: Figure 11
#
# **Question (RQ2, Sec. 4.3 and C.2).** Video has many tokens, and not all of them show the person. Does a model make
# more of video under conflict when only the person is left in it?
#
# **What to look at.** The marginal gain of video, $\Delta V$ = Perf(TAV) - Perf(TA) (Eq. 18), on conflict
# clips: for the original video, with the *pixels* outside the person replaced, and with the *tokens* outside
# dropped. The paper reports that it turns from negative to positive. Beside it a control that the paper lacks: the
# *other* tokens, those that the person does not fill, and another: *another clip's* video. First whether the person
# is found at all; then what masking does to the number of video tokens and to the attention on each, and where in
# the picture attention lies.

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
render_clips = 1000
keep_encodings = True
clips = None
executor = "local"
workers = "auto"
seed = 0
person_clips = 200
least_cover = 0.5

# %%
import pandas as pd

from emomm_lib import nmas_by_layer, score_frame
from emomm_study.evaluate.adoption import attention_by_modality
from emomm_study.evaluate.dispersion import dispersion_frame, video_attention
from emomm_study.evaluate.paired import change_rate, compare_views
from emomm_study.evaluate.results import outcomes
from emomm_study.media.regions import KINDS
from emomm_study.notebook import open_run
from emomm_study.report.figures.person import figure11, overlay_sheet, person_frames, token_figure
from emomm_study.report.figures.places import dispersion_figure
from emomm_study.report.tables import with_intervals
from emomm_study.report.values import side_of_zero

run = open_run("05_person_masking", globals())

# %%
bench = run.bench
conflict = bench.clips[bench.clips["subset"] == "conflict"].sample(frac=1, random_state=seed)
picked = conflict.groupby("corpus").head(person_clips or len(conflict)).sort_values("sample_id")
picked = picked.reset_index(drop=True)
print(f"{len(picked):,} of {len(conflict):,} conflict clips, chosen at random")

# %% [markdown]
# ## The person's region
#
# In each sampled frame MediaPipe looks for faces, then segments the person around each of them; the region is
# the union of people and slightly enlarged face boxes. Without a face the whole frame is segmented. A frame in
# which nothing is found keeps the last region, and a clip without any is left as it is: both are counted.
# Frames by what their region comes from, clips that could not be read, and the mean share of a frame inside:

# %%
regions = bench.regions(picked)
found = regions.groupby("corpus")[["frames", *KINDS]].sum()
found = found.assign(unread=regions["failure"].notna().groupby(regions["corpus"]).sum())
found = found.assign(coverage=regions.groupby("corpus")["coverage"].mean())
coverage = found["coverage"].rename("value").reset_index()
run.record(coverage, "coverage", by=["corpus"])
found.round({"coverage": 3})

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print(found[["frames", "unread"]].to_string())

# %%
views = {
    "original": bench,
    "person only: pixels": bench.person_only(picked),
    "person only: tokens": bench.person_only(picked, pixels=False, tokens=least_cover),
    "control: other tokens": bench.person_only(picked, pixels=False, tokens=least_cover, inverted=True),
    "control: another's video": bench.other_videos(seed),
}
masked = views["person only: tokens"]
readable = picked[regions["failure"].isna()]
frames = person_frames(
    readable, bench.roots, masked.region_store, lambda clip: masked.inspect(clip, "V").grid,
    seen=bench.model.seen, seed=seed,
)
run.made_of = [picked, *(view.fingerprint for view in views.values())]

# %%
run.publish(
    overlay_sheet(frames, least_cover), "person_regions", "Person regions",
    "Middle frames of clips chosen at random, above with the outline of the person's region, below "
    "as the model sees them: with the pixels outside replaced by the processor's mean colour, or "
    "without the tokens of which too little lies inside",
)

# %% [markdown]
# ## Figure 11
#
# Text and audio are the same in all views, so TA is asked once. The last control shows the whole video of another clip
# of the corpus, drawn at random: what remains of the gain then is owed to *a* video, not to this one. Intervals are paired: gain and change
# are computed on the same resampled clips. The change against the original is the gain of one view over the
# other, because Perf(TA) cancels.

# %%
asked = {
    name: view.predictions(picked, ["TAV", "V"], traces=True) for name, view in views.items()
}
scored = {name: outcomes(picked, rows, ["TAV"])[0] for name, rows in asked.items()}
without, lost = outcomes(picked, bench.predictions(picked, ["TA"]), ["TA"])
gains = compare_views(scored, without)
run.record(gains, "gains", by=["view", "quantity", "metric"])
print(f"{int(gains['n'].iloc[0]):,} clips answered in every view, of {len(picked):,}")

# %%
run.publish(
    figure11(gains), "figure11_person", "Figure 11",
    "Marginal gain of video on conflict clips, Perf(TAV) - Perf(TA) (Eq. 18), for the original "
    "video and for video of which only the person is left, and its change against the original, "
    "with 95% paired bootstrap intervals. The paper prints no numbers for it, only that the gain "
    "turns from negative to positive",
    published="negative for the original, positive for the person only; no numbers",
)

# %%
with_intervals(gains, index=["quantity", "view"], columns="metric", factor=100, digits=1)

# %% [markdown]
# How often does the answer to text, audio and video change with the view? A gain of zero can be no effect, or as many
# answers mended as spoilt.

# %%
changed = pd.concat([
    change_rate(scored["original"], rows).assign(view=name) for name, rows in scored.items() if name != "original"
])
run.record(changed, "answers changed", by=["view"])
with_intervals(changed.assign(share="answers changed"), index="view", columns="share")

# %% [markdown]
# Does masking make video easier to read by itself, or does it only shift what the model weighs? Accuracy of
# video alone:

# %%
alone = pd.concat(
    [outcomes(picked, rows, ["V"])[0].assign(view=name) for name, rows in asked.items()]
)
alone = score_frame(alone, ["view"], ("acc5", "acc2", "f1"), cluster="sample_id")
run.record(alone, "video alone", by=["view", "metric"])
with_intervals(alone, index="view", columns="metric", factor=100, digits=1)

# %% [markdown]
# ## Tokens and attention
#
# Replacing pixels leaves every token in place; dropping tokens brings their number towards audio's. nMAS
# (Eq. 5) is attention *a token*: it may rise because fewer tokens share the same attention, without any more of
# it going to video. Total attention on video (`mass`) stands beside it for that reason; `share` is video's part
# of the nMAS of all three.

# %%
keys = pd.MultiIndex.from_product([picked["sample_id"], ["TAV"]])
tables = {name: view.traces() for name, view in views.items()}
traces = {
    name: table.select(pd.MultiIndex.from_frame(table.index).isin(keys))
    for name, table in tables.items()
}
budget = pd.concat([attention_by_modality(t).assign(view=name) for name, t in traces.items()])
told_by = ["view", "coalition", "modality", "quantity"]
run.record(budget, "budget", by=told_by, clips=False, of="quantity")
by_layer = pd.concat([nmas_by_layer(t).assign(view=name) for name, t in traces.items()])

# %%
run.publish(
    token_figure(budget, by_layer), "person_tokens", "Person tokens",
    "Tokens of each modality before and after (left), and video's share of nMAS (Eq. 5) by layer, "
    "normalised over the three modalities (right), on conflict clips with all modalities; 95% "
    "bootstrap intervals over clips",
)

# %%
video = budget[budget["modality"] == "V"]
with_intervals(video[video["quantity"] != "nmas"], index="view", columns="quantity", factor=1, digits=3)

# %% [markdown]
# ## Where attention on video lies
#
# nMAS counts how much attention video gets, not where in the picture. Section 4.3 says that it is scattered over
# the background. Here, by layer: the share of video's attention that lies on the face, and on the person, over
# their share of the picture (1 is blind to place), and how evenly it is spread over the tokens (1 is even).

# %%
seen = video_attention(bench, picked)
dispersion = dispersion_frame(seen)
run.record(dispersion, "dispersion", by=["quantity", "layer"], clips=False)
run.publish(
    dispersion_figure(dispersion), "attention_places", "Attention places",
    "Where the decision query's attention on video lies, by layer: on the face and on the person, over "
    "their share of the picture (left; 1 is blind to place), and its entropy over that of an even spread "
    "(right); 95% bootstrap intervals over clips",
    published="scattered over the background (Sec. 4.3); no numbers",
)

# %%
with_intervals(dispersion, index="quantity", columns="layer", factor=1, digits=2)

# %% [markdown]
# ## Beside the paper
#
# The paper prints no numbers for Figure 11, only the signs: negative for the original, positive for the person
# only. `interval` says on which side of zero the 95% interval lies: *open* when it holds zero, *borderline* when
# an end is so near zero that another machine's last bits could move it across. Where it is open, a sign says little.

# %%
signs = gains[gains["quantity"] == "gain"].drop(columns="quantity")
signs = signs[~signs["view"].str.startswith("control")]
signs = signs.assign(
    published=signs["view"].map(lambda view: "-" if view == "original" else "+"),
    reproduced=signs["value"].map(lambda value: "+" if value > 0 else "-" if value < 0 else "0"),
    interval=side_of_zero(signs),
)
signs.assign(same=signs["published"] == signs["reproduced"]).round(3)

# %% [markdown]
# ## Claims and verdicts
#
# What the paper says, or leaves to ask, beside what this run found. A verdict is the interval's: *open* where it leaves both.

# %%
run.claims()

# %% [markdown]
# **What came out, under `mini`.** The paper's turn of $\Delta V$ from negative to positive is neither
# reproduced nor contradicted: before and after masking it cannot be told from zero. Controls say what that
# zero hides. Video is anything but ignored: another clip's video, or the tokens beside the person, change a
# third of the answers and more; masking all but the person changes few. What decides is in the person's
# tokens; but under conflict video's label is often not the ground truth's, so what it mends in one clip it
# spoils in another. Attention favours the face, in every layer.
#
# **What not to conclude.** That masking does or does not help a real model: this one was trained on this very
# background, and a blank one is new to it. Nor that there is no effect: a change of a point is beyond so few clips.
#
# Next: [06 · Router training](06_router_training.ipynb), whether a router can tell a conflict, and whom to
# trust.
