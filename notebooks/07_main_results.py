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
# # 07 · Main results: Table 1
#
# **Question (RQ3).** How well does an omni model name the ground-truth emotion when the modalities agree,
# when they conflict, and when one is missing, and how much of what it gets wrong does CHASE repair?
#
# **What to look at.** The rows by subset with 95% intervals; the *paired* differences to the unsteered
# model; and, since the test split has few clips, the cross-fitted evaluation, in which every clip but the
# validation split's is answered once by a router that never saw its speaker.
#
# Each test clip is decoded from its mp4 and wav files once, encoded once, and asked with the prompt
# of Appendix E under TAV, TA, TV and AV. Predictions are kept as they are made, so a second run is a
# look-up. Every steering method then repeats the decision token alone on the cached prompt.
#
# The paper does not say how a reply becomes a score, how many frames are seen, at what size, or how
# much sound is heard. Here the letter is the arg-max over A-E at the first token (as Eq. 22 has it for
# the importance score), and the score is the most probable one that the letter allows; frames, pixels
# and seconds are parameters below.

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
heldout_clips = 200
render_size = 224
render_seconds = 0
search_budget = 16
earlier_choices = "notebooks/values/mini/choices.json"
systems = ["driver:echo", "pretend:api"]
system_clips = 30

# %%
from dataclasses import replace

import pandas as pd
from IPython.display import display

from emomm_lib.metrics.paired import paired_frame
from emomm_study import paper
from emomm_study.evaluate.asked import asked
from emomm_study.evaluate.methods import Always, Method, Oracle
from emomm_study.evaluate.paired import gain_share
from emomm_study.evaluate.protocol import (
    EMBEDDED,
    PUBLISHED,
    Candidate,
    Study,
    baseline,
    cross_fitted,
    earlier_configs,
    fractions,
    on_test,
    profiled_heads,
    search,
    tuned,
    write_choices,
)
from emomm_study.evaluate.results import declined, instances, join, table1_scores
from emomm_study.evaluate.states import COALITIONS
from emomm_study.mini.reading import beside_card, reading_accuracy
from emomm_study.mini.surrogate.speaker import Film
from emomm_study.notebook import open_run
from emomm_study.report import tables
from emomm_study.report.choices import choices_table, chosen_settings, paired_table
from emomm_study.report.figures.chase import gains_forest
from emomm_study.report.figures.systems import accuracy_by_system
from emomm_study.systems.table import NO_MODEL

run = open_run("07_main_results", globals())

# %% [markdown]
# ## The model

# %%
bench = run.bench
parameters = sum(p.numel() for p in bench.model.model.parameters())
print(f"{bench.name}: {parameters / 1e6:.2f} million parameters, fingerprint {bench.model.fingerprint}")

# %% [markdown]
# ## Can it read at all?
#
# Before asking what a model does with conflicts, see what it reads from each modality when labels do
# not conflict: fresh surrogate clips with speakers, voices and rooms that neither training nor the
# benchmark contains (sentences come from the same small lexicon, so about half of them occur in
# training), decoded from their files. Surrogates show a neighbouring class at a known rate, so no
# reader reaches 100%. Beside it the accuracies of the model card, measured on other clips drawn the
# same way. A row's name says what is shown, `none` that the prompt alone is. (Zero `heldout_clips` leaves this section out.)

# %%
if heldout_clips:
    reading = reading_accuracy(bench, heldout_clips, Film(render_size, render_seconds))
    run.record(reading, "reading", by=["metric", "coalition"])
    display(beside_card(reading, bench.model_folder))

# %% [markdown]
# ## The test split
#
# Whole clips (Align, Conflict) and their three masked instances (Missing), by the split of notebook
# 01. Masking T hides the transcript, not the words in the sound: speech still says them.

# %%
test = bench.clips[bench.clips["split"] == "test"]
predictions = bench.predictions(test, ("TAV", "TA", "TV", "AV"))
scored, failed = join(instances(test), predictions)
print(f"{len(test)} clips, {len(scored)} instances scored, {len(failed)} failed and not scored")

# %% [markdown]
# ## Other systems, by letters and in free text
#
# Table 1 has six models, two of them also steered; the paper does not say whether it read letters or replies. Here
# every system of the profile is asked both ways, on the same frames and the same sound, cut by this companion: by
# *letters* (of a system that shows its logits, the arg-max over A-E; of one behind an API, a reply held to those that
# the prompt allows) and in *free text*, parsed. What failed, and what could not be parsed, is counted here and scored
# neither right nor wrong. A system may be a checkpoint, a driver in a process and an environment of its own, or an
# API ([how](../docs/systems.md)). Those whose names end in *(no model)* are stand-ins: a rule about words in a second
# process, and a digest behind a local server. They show that both ways work, and are neither in Table 1 nor in
# RESULTS.md.

# %%
few = test if system_clips is None else test.sample(min(system_clips, len(test)), random_state=0)
parts, remarks = [asked(bench, bench.model, bench.name, few)], []
for name, system in run.systems():
    parts.append(asked(bench, system, name, few))
    remarks += filter(None, [getattr(system, "remark", None)])
everyone = pd.concat(parts, ignore_index=True)
for (name, decoding), bill in everyone.dropna(subset="bill").groupby(["system", "decoding"])["bill"].first().items():
    print(f"{name}, {decoding}: {bill}")
real = everyone[~everyone["system"].str.endswith(NO_MODEL)]
run.record(real[real["metric"].notna()], "systems", by=["system", "decoding", "subset", "metric"])
tables.systems_table(everyone)

# %%
printed = paper.table(1).query("method == 'baseline'").rename(columns={"model": "system", "acc": "value"})
run.publish(
    accuracy_by_system(everyone[everyone["metric"].eq("acc5")], printed), "systems", "Systems of Table 1",
    "Five-class accuracy by subset of every published system (unsteered) and of those that were asked here, by "
    "letters and in free text, with 95% bootstrap intervals over clips",
    note=f"{len(few)} clips of the test split. {data_note} Systems named (no model) are stand-ins.",
    of=(few, bench.fingerprint, *everyone["system"].unique()),
)

# %% [markdown]
# ## What is tried
#
# Routers by name: one of a kind is trained on the training split, once, or cross-fitted, as each section says. Every
# search begins with its default and draws from the grid of the values listed, whole layers and heads whatever the
# model's size.

# %%
study = Study(bench, bench.states(bench.clips))
layers = fractions(study.layers, 1 / 8, 1 / 4, 13 / 28)
heads = fractions(study.heads, 1 / 4, 1 / 2, 1)
attending = profiled_heads(study, 1 / 8, 1 / 4, 1 / 2)

as_published = study.base                            # psi-hat 0.3 and P 80, which the paper does not give
as_share = replace(as_published, preference="share") # pi as plain shares of nMAS, not their softmax
still = replace(as_published, beta=0.0)              # no intra-modality bias
always = replace(still, tau=0.0)                     # whatever p says
fixed = replace(still, rule="first", heads=attending[len(attending) // 2], gamma=4.6, first_layer=1)  # PASTA's strength
flat = replace(always, gamma=0.0, temperature=0.85)  # the mildest temperature, no inter-modality bias

FREE = {"first_layer": layers, "top_k": heads, "tau": (0.3, 0.5, 0.7), "eta": (0.6, 1.0),
        "gamma": (1.4, 3.0, 6.0, 10.0), "preference": ("softmax", "share")}
video, even = Always(1.0, (0.0, 0.0, 1.0)), Always(1.0, (1.0, 1.0, 1.0))
METHODS = [  # name, gate, default, values to draw from, group
    ("CHASE", PUBLISHED, as_published,
     {"psi_hat": (0.1, 0.2, 0.3, 0.5), "percentile": (50.0, 70.0, 80.0, 90.0)}, "the paper's method"),
    ("CHASE, share", PUBLISHED, as_share,
     {"psi_hat": (0.1, 0.2, 0.3, 0.5), "percentile": (50.0, 70.0, 80.0, 90.0)}, "the paper's method"),
    ("CHASE, either", PUBLISHED, as_published, {"preference": ("softmax", "share")}, "which preference"),
    ("CHASE, tuned", PUBLISHED, as_published, FREE | {"beta": (0.0, 0.5)}, "the paper's method"),
    ("+ embedded gate", EMBEDDED, still, FREE, "extensions"),
    ("+ sharpened gate", EMBEDDED, still, FREE | {"sharpness": (1.0, 2.0, 4.0, 8.0)}, "extensions"),
    ("oracle", Oracle(), still, FREE, "oracles"),
    ("video boost", video, always, FREE | {"tau": (0.0,)}, "controls"),
    ("fixed heads", PUBLISHED, fixed,
     {"heads": attending, "gamma": (1.0, 2.0, 4.6, 8.0), "tau": (0.3, 0.5, 0.7)}, "controls"),
    ("temperature", even, flat,
     {"temperature": (0.5, 0.7, 0.85, 1.2, 1.5, 2.0), "first_layer": layers, "top_k": heads}, "controls"),
]
candidates = [Candidate(name, gate, search(default, values, search_budget), group)
              for name, gate, default, values, group in METHODS]

# %% [markdown]
# ## What was chosen, on the validation split
#
# Each method but *CHASE, either* may try the same number of configurations (`tried`): its default, which is the
# published values with psi-hat 0.3 and P 80 where the paper gives none, and others drawn from a grid around it.
#
# - *CHASE* moves psi-hat and P alone (what is the same in all columns is not shown). K is the published 4, which is 4
#   of 28 heads there and 4 of 8 here; l_r is scaled by depth.
# - *CHASE, share* is the same with the preference pi of Eq. 6 as plain shares of nMAS. The softmax as printed takes
#   nMAS itself, at most one over a modality's tokens, is nearly even whatever it is, and so bounds the bias (notebook
#   10, section 8); which of the two the paper ran it does not say. *CHASE, either* asks validation which of them to
#   take, all else as published.
# - *CHASE, tuned* is the same router with the steering's hyperparameters free. Where its l_r is below the published
#   router's (the first column's), that router is asked about layers it was not trained on.
# - *+ embedded gate* replaces the router by the one of notebook 06 that reads modalities before they mix, and
#   *+ sharpened gate* also raises the gate to a power, so that it decides more clearly. These two are this
#   companion's extensions, not the paper's method.
# - The *oracle* is a router that says p* and g* of the labels; the three columns after it are controls of notebook
#   08.
#
# The best has the highest mean probability of the ground truth's class on Conflict and Missing, among those that do
# not lower it on Align by more than a standard error. What lies within one standard error behind it is *tied* with
# it: of these the default is taken, else the one that changes least of it. `edge` marks a choice that standard errors
# a tenth larger or smaller would have changed. What an earlier run chose (the profile's `earlier_choices`) is held to
# while it lies within one and a half standard errors of the best, since a router's training makes the last bits of a
# processor large; `held` marks where this run alone would have taken another. The test split has no part in it. The
# last rows are gains in accuracy on validation, in points: those of one of many on few clips, so they are too good;
# those of the next sections are not. `preference` is how attention becomes pi: Eq. 6's softmax as printed, or the
# plain share. Where `rule`, `heads`, `sharpness` or `temperature` differs from the first column, the method is not
# the paper's.

# %%
chosen = tuned(study, candidates, earlier_configs(earlier_choices))
write_choices(chosen, profile, study.fingerprint)  # notebooks 08, 09 and 11 read them
choices = choices_table(chosen, study.base)
choices.T

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
# What was chosen is the same on every machine, since an earlier choice is held to.
print(chosen_settings(choices).to_string())

# %%
either = chosen["CHASE, either"]
print(f"On validation the {either.config.preference} is taken, all else as published"
      + (", since the two cannot be told apart." if either.tied > 1 else "."))

# %% [markdown]
# ## Table 1
#
# Intervals are percentile bootstraps over clips. A row of another model than the paper's stands in a
# group of its own: `mini` rows describe two model organisms of two million parameters on drawn faces.
# Of the steered rows *CHASE* has the paper's values as printed and *CHASE, share* the other reading of Eq. 6;
# *CHASE, tuned* is the same method with other values.

# %%
methods = [Method(name, choice.router, choice.config) for name, choice in chosen.items()
           if choice.group in ("the paper's method", "extensions")]
tested = on_test(study, methods)
rows = {"baseline": scored, **tested}
scores = pd.concat([table1_scores(part).assign(method=name) for name, part in rows.items()])
run.record(scores, "table 1", by=["method", "subset", "metric"], trained=True)
results = tables.published_units(scores).assign(model=paper.model_name(bench.name))

# %% [markdown]
# Beneath them come the other systems that were asked by letters, where the profile has any. The further backbones of
# the profile take the paper's method alone, in both readings: a router trained on their own states, psi-hat and P chosen
# on their own validation answers by the same budget.

# %%
letters = real[(real["decoding"] == "constrained") & (real["system"] != bench.name) & real["metric"].notna()]
others = [results, tables.published_units(letters).assign(model=letters["system"].map(paper.model_name), method="baseline")]
its_gains = []
run.made_of = [test, bench.fingerprint]
for other in run.other_benches():
    run.made_of.append(other.fingerprint)
    its = Study(other, other.states(other.clips))
    its_choices = tuned(its, [
        Candidate(name, gate, search(replace(its.base, preference=default.preference), values, search_budget), group)
        for name, gate, default, values, group in METHODS[:2]
    ])
    before = baseline(its, test)
    after = on_test(its, [Method(name, PUBLISHED, choice.config) for name, choice in its_choices.items()])
    its_scores = pd.concat([table1_scores(own).assign(method=n) for n, own in {"baseline": before, **after}.items()])
    run.record(its_scores, f"table 1, {other.name}", by=["method", "subset", "metric"], trained=True)
    others.append(tables.published_units(its_scores).assign(model=paper.model_name(other.name)))
    its_gains += [paired_frame(before, own, cluster="speaker_id").assign(method=f"{n} on {other.name}") for n, own in after.items()]
    declines = declined(other.predictions(test, COALITIONS))
    if declines is not None:
        remarks.append(f"{other.name} itself would rather not have answered {declines:.1%} of the instances.")
    for name, choice in its_choices.items():
        print(f"{name} on {other.name}: psi-hat {choice.config.psi_hat:g}, P {choice.config.percentile:g} "
              f"({choice.tied} of {choice.tried} tied)")
results = pd.concat(others, ignore_index=True)

# %%
table1 = run.publish(
    tables.table1(results, run.profile), "table1", "Table 1",
    "Main results beside the published rows", decimals=tables.DECIMALS,
    note=" ".join([data_note, f"{len(test)} clips; {len(failed)} failed instances are not scored.", *remarks]),
)
subsets = [*table1.columns.unique(0)]
for half in (subsets[:2], subsets[2:]):
    display(table1[half])

# %% [markdown]
# ## Gains, paired
#
# Difference to the unsteered model on the same instances: points of accuracy with a 95% bootstrap interval
# over speakers, instances that became right and wrong, and McNemar's exact p. (McNemar takes instances as
# independent; a clip's three masked instances are not quite, so for Missing trust the interval.) Intervals are those of
# one trained router and one choice of configuration.

# %%
unsteered = baseline(study, test)
gains = pd.concat(
    [paired_frame(unsteered, part, cluster="speaker_id").assign(method=name) for name, part in tested.items()]
)
run.record(gains, "gains", by=["method", "subset", "metric"], trained=True)
paired_table(gains)

# %% [markdown]
# And of the further backbones:

# %%
if its_gains:
    its_gains = pd.concat(its_gains)
    run.record(its_gains, "gains of other backbones", by=["method", "subset", "metric"], trained=True)
    display(paired_table(its_gains))

# %%
groups = {name: choice.group for name, choice in chosen.items()}
accuracy = gains[gains["metric"] == "acc5"].assign(group=lambda f: f["method"].map(groups))
run.publish(
    gains_forest(accuracy, title="Gains over the unsteered model, test split"),
    "chase_gains", "CHASE gains",
    "Gains by method: points of five-class accuracy over the unsteered model on the same "
    "instances, with 95% bootstrap intervals", note=f"Test split. {data_note}",
)

# %% [markdown]
# ## Cross-fitted
#
# Five speaker-independent folds over all whole clips but the validation split's, on which configurations were chosen: more
# than four times as many conflicts as the test split has. Visual importance is taken from attention here, not from
# gradients, which would cost three times the prompts. Beside the gain: what share of an *oracle's* it is, a router that says
# p* and g* of the labels, once with a configuration of its own by the same budget of tuning, once with that of
# *+ sharpened gate*. (In about three of ten clips of Conflict no modality has GT's class; g* is then even, and an oracle of this kind
# is no upper bound.) No router saw the speaker it is asked about, but the two extensions were thought out while looking
# at training and validation clips, and the former are among these; of the test split that is not so.

# %%
oracles = [
    Method("oracle", Oracle(), chosen["oracle"].config),
    Method("oracle, same configuration", Oracle(), chosen["+ sharpened gate"].config),
]
frames = cross_fitted(study, [*methods, *oracles])
reference = baseline(study, study.crossed_clips, ("TAV",))
cross_gains = pd.concat([
    paired_frame(reference, part, cluster="speaker_id").assign(method=name) for name, part in frames.items()
])
run.record(cross_gains, "cross-fitted gains", by=["method", "subset", "metric"], trained=True)
paired_table(cross_gains)

# %%
shares = pd.concat([
    gain_share(reference, frames[m.name], frames[oracle.name], cluster="speaker_id").assign(method=m.name, of=oracle.name)
    for m in methods for oracle in oracles
])
whole = cross_gains[cross_gains["metric"] == "acc5"].set_index(["method", "subset"])["value"]
gained = pd.MultiIndex.from_frame(shares[["of", "subset"]]).map(whole)
run.record(shares, "shares of an oracle's gain", by=["method", "of", "subset"],
              scale=pd.Series(1 / gained, shares.index), trained=True)
tables.with_intervals(shares, index=["method", "of"], columns="subset", factor=1, digits=2)

# %% [markdown]
# Does sharpening add to the embedded gate? *+ sharpened gate* against *+ embedded gate*:

# %%
paired_table(paired_frame(frames["+ embedded gate"], frames["+ sharpened gate"], cluster="speaker_id").assign(
    method="sharpened - embedded"))

# %% [markdown]
# ## What is missing matters
#
# Accuracy (%) of the masked instances by what remains visible, unsteered and with *+ sharpened gate*, test split.

# %%
both = pd.concat([unsteered, tested["+ sharpened gate"]])
missing = both[both["coalition"] != "TAV"].assign(right=lambda f: f["label_pred"] == f["label_gt"])
(100 * missing.pivot_table(index="method", columns="coalition", values="right", sort=False)).round(1)

# %% [markdown]
# ## Beside the paper
#
# The published rows to compare with are those of the two steered models, baseline and CHASE. A result of
# another model has an item of its own, without a published value.

# %%
ours = results.assign(item=paper.item_names(1, results), reproduced=results["value"])
published = paper.items(1)
published = published[published["model"].isin(["Qwen2.5-Omni-7B", "VITA-1.5-8B"])]
tolerance = {i: 0.01 if i.endswith("/mae") else 1.0 for i in published["item"]}
tables.collapsed(run.compare(published, ours, tolerance))

# %% [markdown]
# ## Claims and verdicts
#
# What the paper says, or leaves to ask, beside what this run found. A verdict is the interval's: *open* where it leaves both.

# %%
run.claims()

# %% [markdown]
# **What came out, under `mini`.** CHASE as printed changes few answers. With the preference as a *share* it changes
# many more, on whole clips as often to the wrong side as to the right, on Missing more often to the wrong; validation
# takes the printed reading. From the published layer an *oracle* gains little at the published strengths (notebook
# 08), and far more at strengths of its own; the published router gains little at either (*CHASE, tuned*). So strength
# and gate are both wanting. The embedded gate, which sees modalities before they mix, gains at the published layer
# and number of heads, without harm to Align. What of these gains is the clip's own, what needs the cue, and what late
# fusion would give, is in notebook 08.
#
# **What not to conclude.** Anything about Qwen2.5-Omni-7B or VITA-1.5: each small model shares an
# architecture with one of them, neither weights nor data.
#
# Next: [08 · Steering ablations](08_steering_ablations.ipynb), which parts of it do the work.
