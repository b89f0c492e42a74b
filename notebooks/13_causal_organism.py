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
# # 13 · The causal organism: the paper's story, where its causes can be switched
#
# **Question.** The paper says *why* video loses under conflict: its tokens are redundant, language pretraining
# leaves a preference for text, and steering from mid-depth on repairs part of it. On a finished model these are
# readings of correlations. In a small model each cause can be switched on and off. What follows then?
#
# **What to look at.** Predictions, written down with numbers before the first model was trained, and their
# verdicts, failures included. Between them: what is answered when reading is cut, layer by layer; who wins when
# two modalities disagree; and what an oracle's gate gains as published, deeper, stronger, and with the
# preference as a share.
#
# An *arm* is one way to train the same small decoder on the same frozen encoders. Arms differ in two ways.
# *Text first*: some hundreds of steps see text alone, before anything else. *Reading*: `early` arms are trained
# freely, `late` ones are kept from looking across modalities in the first layers. All modalities are equally
# clear, so any order among them is the model's own. What is measured of every arm and seed stands in
# `data/organism/family.csv`; arms or seeds that it lacks are shown as *open*.

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
organisms = ["data/omni-mini", "data/omni-mini-early"]
causal_clips = 150

# %%
import pandas as pd
from IPython.display import display

from emomm_lib import SteeringConfig
from emomm_study.evaluate.knockout import knockouts
from emomm_study.evaluate.mediation import mediation
from emomm_study.evaluate.untrained_gates import untrained_gains
from emomm_study.mini.organism.arms import ARMS, DOSES, SEEDS
from emomm_study.mini.organism.family import known
from emomm_study.mini.organism.measure import steering_settings
from emomm_study.mini.organism.verdicts import OBSERVER, predictions, verdicts
from emomm_study.notebook import open_run
from emomm_study.report.figures.organism import (
    knockout_figure,
    preference_figure,
    redundancy_figure,
    steering_by_arm,
)
from emomm_study.report.organism import (
    by_arm,
    by_dose,
    by_pair,
    cut_by_layer,
    of_measure,
    parsed,
    steered_by,
    verdict_table,
)
from emomm_study.report.tables import with_intervals

pd.set_option("display.max_colwidth", None)
run = open_run("13_causal_organism", globals())

# %% [markdown]
# ## Predictions
#
# As they were committed before the first arm was trained, and not changed since. A rule speaks of the mean over
# the seeds, or of each of at least so many `seeds`.

# %%
asked = predictions()
asked[["id", "arms", "prediction", "measure", "what", "rule", "low", "high", "seeds"]].astype(object).fillna("")

# %%
family = known()
FOUR = [arm for arm in ARMS if arm not in DOSES]
measured = family[family["arm"] != OBSERVER].groupby("arm")["seed"].nunique()
measured.reindex(list(ARMS), fill_value=0).rename("seeds measured").to_frame()

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print(f"{len(asked)} predictions; {len(ARMS)} arms, of which {len(FOUR)} with up to {len(SEEDS)} seeds")

# %% [markdown]
# ## Two by two
#
# Does every arm read? Accuracy on held-out clips of the kind that arms are trained on (agreeing labels), then on
# conflicts. The *ideal observer* knows how clips are drawn and reads without error: nobody can do better on the first
# kind, but for the luck of the sample. On conflicts it stands for one that was taught agreeing clips alone, as the
# arms were. Percent, 95% intervals over clips.

# %%
PLACES = [OBSERVER, *FOUR]
for name in ("held out", "conflict"):
    display(by_arm(of_measure(family, "accuracy", name), PLACES))

# %% [markdown]
# What video adds on conflicts, in points: `TAV - TA` is Eq. 18's marginal gain, `own - another's` compares the clip's
# own video with that of another clip. The second says what *this* video is worth. The first also counts what a
# prompt with any video in it changes.

# %%
by_arm(of_measure(family, "gain of video"), PLACES)

# %% [markdown]
# Does PSMV show a collapse of video that the ideal observer lacks? Shares on Conflict, in percent:

# %%
by_arm(of_measure(family, "PSMV share"), PLACES)

# %% [markdown]
# ## The dose of redundancy
#
# Redundant tokens say nothing new. Here they come in two kinds: moments of the video's own once more, and moments
# of another clip's room, with nobody in it. Two arms more differ in what they were trained on: videos of *many
# frames*, or of *any number* of them. Does the gain of video fall with the dose, and does it ever turn into a loss?

# %%
run.made_of = [family]
note = "Measured on clips put together from encoded faces and voices (data/organism)."
gain = of_measure(family, "gain of video").query("arm == @OBSERVER")["value"]
run.publish(
    redundancy_figure(by_dose(family), *gain.head(1), arms=list(ARMS)), "organism_redundancy",
    "Gain of video by redundancy",
    "Accuracy with video less that without, on conflicts, by how many moments the video has, at most two of "
    "which are its own: further ones repeat these, or show another's room; 95% intervals over clips", note=note,
)

# %%
follows = of_measure(family, "answers that are the video's")
by_arm(follows, list(ARMS))

# %% [markdown]
# The table is the share of answers that are the video's class: whether video is followed more or less as its
# tokens grow in number. A gain can fall for either reason.
#
# ## Knockout by layer
#
# The decision query is cut off from all tokens of T, A and V in one layer and all after it. Answers that change hang on
# what it reads *there or later*. CHASE begins at the published $l_r$ (dotted): what was read before that, steering
# cannot touch.

# %%
first_layer = SteeringConfig.at_published_depth(8).first_layer
run.publish(
    knockout_figure(cut_by_layer(family), first_layer, FOUR), "organism_knockout",
    "Knockout by layer",
    "Share of answers to conflicts that change when the decision query is cut off from T, A and V from a "
    "layer on; thin lines are seeds with 95% intervals over clips, bold their mean", note=note,
)

# %%
others = of_measure(family, "answers changed by a knockout")
by_arm(others[~others["what"].str.contains("TAV")], FOUR)

# %% [markdown]
# One modality kept from the decision query in all layers, and all three kept from the *instruction*, the prompt's
# words that are no modality's. Where the second changes many answers, evidence travels through the instruction,
# and attention of the decision query does not show it.
#
# ## Preference by pairs
#
# GTAR asks whether the answer is *right* when a modality is. Two modalities that disagree ask more directly: whose
# class does the answer have? Half is no preference. The evidence is the model's own answer to each modality alone.
# Beside it, where the model looks: nMAS against GTAR.

# %%
run.publish(
    preference_figure(
        by_pair(family), *(of_measure(family, m).rename(columns={"what": "modality"})
                           .query("arm in @FOUR") for m in ("nMAS share", "GTAR")), FOUR,
    ), "organism_preference", "Preference by pairs",
    "Left: how often the first of two modalities wins where the model's answers to each alone differ and "
    "one of them is given under TAV. Right: GTAR (Eq. 4) against the share of nMAS (Eq. 5) from l_r on, a point "
    "an arm, seed and modality; 95% intervals over clips", note=note,
)

# %%
for coalition in ("TAV", "T[AV]|AV"):
    pairs = parsed(of_measure(family, "pair preference"), rf"(?P<pair>. over .), (?:{coalition})")
    display(by_arm(pairs, FOUR, "pair"))

# %% [markdown]
# Above with all three modalities, below with the two of the pair alone. *nMAS is not influence.* It is attention a
# token, so a modality of many tokens tends to have little of it, whatever it does to the answer. Where the modality
# that is lowest in nMAS is not lowest in GTAR, the two come apart. Counted over the arms and seeds that are there:

# %%
ranks = [of_measure(family, m).query("arm in @FOUR").pivot(index=["arm", "seed"], columns="what", values="value").idxmin(axis=1)
         for m in ("nMAS share", "GTAR")]
ranks = pd.concat(ranks, axis=1, keys=["lowest in nMAS", "lowest in GTAR"])
print(f"lowest in nMAS and in GTAR alike: {int((ranks.iloc[:, 0] == ranks.iloc[:, 1]).sum())} of {len(ranks)}")
ranks

# %% [markdown]
# ## CHASE: as published, deeper, stronger, and with shares
#
# The gate is an *oracle*: it knows from the labels whom to trust, so nothing is lost to a router. What is left is
# what steering can do. `published` scales $l_r$ to this depth; `share` takes the preference as a share of nMAS where
# Eq. 6 has a softmax, which bounds the bias whatever the attention; `l_r 1, K 8` steers all heads in all layers;
# `gamma 4` does so about three times as strongly.

# %%
gains = steered_by(family).query("arm in @FOUR")
run.publish(
    steering_by_arm(gains[gains["gate"] == "oracle"].drop(columns="gate"), FOUR), "organism_steering",
    "Steering with an oracle gate",
    "Gain in five-class accuracy on conflicts by steering with an oracle's gate, by setting, a point a seed; "
    "95% intervals over clips", note=note,
)

# %% [markdown]
# If a gain is the gate's, a *random* gate and an *even* one must not have it:

# %%
by_arm(gains[gains["gate"] != "oracle"].assign(what=lambda f: f["setting"] + ", " + f["gate"]), FOUR)

# %% [markdown]
# And on Align an oracle, which sees no conflict where all modalities have GT's class, should do no harm:

# %%
aligned = steered_by(family, "align").query("gate == 'oracle' and arm in @FOUR")
by_arm(aligned, FOUR, "setting")

# %% [markdown]
# ## The same on this profile's clips
#
# The family was measured on clips put together from encoded faces and voices. Here whole clips are read from their
# files, as in all other notebooks. Under `mini` the two shipped arms are measured: `omni-mini` is late with
# text first, `omni-mini-early` early with text first. Other profiles measure their own backbone by the same instrument.

# %%
conflict = run.bench.clips[run.bench.clips["subset"] == "conflict"].sample(frac=1, random_state=seed)
picked = conflict.groupby("corpus").head(causal_clips or len(conflict)).sort_values("sample_id")
picked = picked.reset_index(drop=True)
print(f"{len(picked):,} of {len(conflict):,} conflict clips, chosen at random")

# %%
found = {"cut": [], "gain": [], "mediated": []}
for bench in run.organisms():
    found["cut"].append(knockouts(bench, picked).assign(arm=bench.name))
    found["gain"].append(untrained_gains(bench, picked, steering_settings(bench.model.layers)).assign(arm=bench.name))
    found["mediated"].append(mediation(bench, picked).assign(arm=bench.name))
    layers, made_of = bench.model.layers, [picked, bench.fingerprint]
    run.made_of = [*run.made_of, *made_of]

# %%
cut, gain, mediated = (pd.concat(found[name], ignore_index=True) for name in found)
run.record(cut.assign(first_layer=cut["first_layer"].fillna(0)), "knockouts", by=["arm", "cut", "first_layer", "quantity"])
late = cut[(cut["cut"] == "decision, TAV") & (cut["first_layer"] == SteeringConfig.at_published_depth(layers).first_layer)]
run.record(late, "knockout from l_r", by=["arm", "quantity"])
run.record(gain, "gains", by=["arm", "setting", "gate"])
run.record(mediated, "mediation", by=["arm", "answer", "restored", "quantity"])
lost = cut.groupby("arm")["lost"].max()
print("; ".join(f"{arm}: {n} clips left out" for arm, n in lost.items()))

# %%
by_layer = cut[cut["first_layer"].notna() & (cut["quantity"] == "changed")]
run.publish(
    knockout_figure(
        by_layer.rename(columns={"first_layer": "layer"}).astype({"layer": int}).assign(seed=seed),
        SteeringConfig.at_published_depth(layers).first_layer, title="Knockout by layer, clips from their files",
    ), "causal_knockout", "Knockout by layer, whole clips",
    "Share of answers to conflict clips that change when the decision query is cut off from T, A and V from a "
    "layer on, with 95% bootstrap intervals over clips",
)

# %%
with_intervals(cut[cut["first_layer"].isna()], index=["arm", "quantity"], columns="cut")

# %% [markdown]
# `changed` is the share of answers that change, `accuracy` the change in accuracy in points. Answers can change without
# any loss, when what is cut was as often wrong as right.

# %%
run.publish(
    steering_by_arm(gain[gain["gate"] == "oracle"].assign(seed=seed), title="Steering with an oracle gate, clips from their files"),
    "causal_steering", "Steering with an oracle gate, whole clips",
    "Gain in five-class accuracy on conflict clips by steering with an oracle's gate, by setting; 95% bootstrap "
    "intervals over clips",
)

# %%
with_intervals(gain, index=["arm", "setting"], columns="gate")

# %% [markdown]
# ## Is the effect carried by attention mass?
#
# Steering (published, preference as a share, oracle gate) moves attention between modalities, and within video to
# tokens that matter. The steered decision token is computed again with the *mass* on a modality put back to what
# it is unsteered, in every layer from $l_r$ on and every head; and the unsteered one is given the mass of the
# steered one. `changed` and `gain` are over all clips, `like steered` and `like unsteered` over those whose answer
# steering changes. If the mass on one modality carried it all, putting it back would undo steering, and giving it
# would do what steering does. All three together carry whatever is no shift within video, by construction: that
# row checks the instrument, and says how little is left to the shift within.

# %%
order = ["changed", "like steered", "like unsteered", "gain"]
shown = mediated.assign(quantity=pd.Categorical(mediated["quantity"], order)).sort_values("quantity", kind="stable")
table = with_intervals(shown, index=["arm", "answer", "restored"], columns="quantity")
table.sort_index(level=["arm", "answer"], sort_remaining=False, kind="stable")

# %% [markdown]
# ## Prediction, outcome, verdict
#
# A row a prediction and an arm that it speaks of. `outcome` is the mean over the seeds so far, in brackets the least
# and the most of them, in the measure's own unit (shares in 0 to 1; of 5a the number of steps between the highest and
# the lowest sign of the gain, loss, neither or gain: 2 is a gain that became a loss). `open` where fewer seeds are
# there than could decide it.

# %%
judged = verdicts(family)
run.publish(
    verdict_table(judged), "organism_verdicts", "Predictions and verdicts",
    "Predictions on the family of organisms as committed before training, outcomes (mean over seeds, least and most), and "
    "verdicts", note=note, of=[family],
)

# %%
counts = judged.groupby("verdict").size()
print(", ".join(f"{counts.get(name, 0)} {name}" for name in ("holds", "fails", "open")) + f", of {len(judged)}")

# %% [markdown]
# ## Claims and verdicts
#
# What the paper says, or leaves to ask, beside what this run found. A verdict is the interval's: *open* where it leaves both.

# %%
run.claims()

# %% [markdown]
# **What came out so far, under `mini`.** Arms that are not measured leave verdicts open.
#
# - *Depth matters, and is not enough.* The late arm hangs on what is read from the published $l_r$ on, the early one
#   less; even an oracle's gate gains little as published, more with all heads from layer 1 on, and far more as a
#   share.
# - *Text first leaves no stable preference for text.*
# - *Redundancy hurts by distraction, if at all.* Repeated moments change the gain little, though video is followed
#   more; another room's tokens turn video's gain into a loss in most seeds of the early arm with text first; in the
#   late one there is no sure gain to turn, though they make a loss.
# - *No collapse beyond the ideal observer's*, in either arm with text first; the others are open.
# - *Attention mass carries the effect*: video's, given alone, brings most of the steered answers.
#
# **What not to conclude.** Depth was designed in: that late reading suffices for steering is no proof that
# Qwen2.5-Omni reads late; the `paper` and `omni` profiles ask it by the knockout above. Some hundreds of
# steps with text are no language pretraining, and tokens never seen in training may hurt for that reason
# alone. An oracle's gate is no method.
