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
# # 06 · Router training: Table 6
#
# **Question (RQ3).** Can a small network read from a frozen model's states that its modalities
# conflict, and which of them to trust?
#
# **What to look at.** The curves; how well the gate's first choice does *by layer*; Table 6 on
# validation and test; and whether the conflict probability means what it says.
#
# The router (Sec. 5.1) sees, in each layer from l_r on, the decision token's state, the mean state of
# each modality and the layer's attention preference, and says p, the probability of a conflict, and g,
# whom to trust. It is trained on the labels (Eq. 9, 10); the model stays as it is. Its inputs were
# recorded while notebook 03 asked its questions, so training never runs the model.

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
router_seeds = 3

# %%
import pandas as pd

from emomm_study import paper
from emomm_study.evaluate.methods import Routed
from emomm_study.evaluate.protocol import EMBEDDED, LINEAR, PUBLISHED, Study
from emomm_study.evaluate.routing import (
    conflict_reliability,
    detection_rates,
    gate_by_layer,
    table6_metrics,
    trust_by_chance,
)
from emomm_study.evaluate.worked import first_steered
from emomm_study.notebook import open_run
from emomm_study.report.figures.by_hand import figure4
from emomm_study.report.figures.chase import (
    gate_by_layer as gate_by_layer_figure,
    reliability_diagram,
    training_curves,
)
from emomm_study.report.tables import collapsed, table6, with_intervals

run = open_run("06_router_training", globals())
NAMES = {PUBLISHED: "published router", LINEAR: "linear router", EMBEDDED: "embedded router"}

# %%
bench = run.bench
study = Study(bench, bench.states(bench.clips))

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print(f"{len(study.states.index):,} prompts with states of {study.layers} layers; l_r is "
      f"{study.base.first_layer} of {study.layers}, as 13 of 28 in the paper")

# %% [markdown]
# ## Training
#
# Three routers, several seeds each. The *published* one has the paper's inputs and hyperparameters (AdamW,
# learning rate 1e-4, weight decay 0.01, batches of 32, 10 epochs, hidden width 128). The *linear* one has no hidden
# layer: Eq. 7 and 8 print linear maps, Sec. 6.1 a hidden width, and the two cannot both be meant. The *embedded* one
# is this companion's extension: it reads the mean state of each modality *as it enters the decoder*,
# standardized, and says the same in every layer. Its inputs, learning rate and batch size (1e-3, 128) were
# settled by hand on the validation split.
#
# The training prompts are the clips of the training split with all modalities and with each one masked
# (TAV, TA, TV, AV); the paper does not say whether masked prompts are trained on.

# %%
trained = {kind: study.routers(kind, router_seeds) for kind in NAMES}
histories = pd.concat([
    history.assign(router=NAMES[kind], seed=seed)
    for kind, found in trained.items()
    for seed, (_, history) in enumerate(found)
])
last = histories[histories["epoch"] == histories["epoch"].max()].melt(["router", "seed", "epoch"], var_name="quantity")
run.record(last, "last epoch", by=["router", "seed", "quantity"], of="quantity")
validation = study.targets(study.split("valid"))
asked_in = histories["router"].map({NAMES[EMBEDDED]: 1}).fillna(study.layers - study.base.first_layer + 1)
run.publish(
    training_curves(histories.assign(layers=asked_in), len(validation[0].index), trust_by_chance(*validation)),
    "router_curves", "Router training",
    "Training of the router: loss of Eq. 10, mean over the layers that it sums, on training clips (dashed) and "
    "on validation clips (solid), and on validation clips the area under the ROC curve of p and the share of "
    "conflicts in which the gate's first modality is right; thin lines are seeds, bold ones their mean, dotted "
    "ones chance",
)

# %%
last.pivot_table(index="router", columns="quantity", values="value", sort=False)[["conflict_auc", "gate_top1"]].round(2)

# %% [markdown]
# ## Whom to trust, by layer
#
# In how many prompts does the gate put a *right* modality first, among those where some are right and
# some wrong? On validation clips, unsteered states, mean over seeds. Dotted: a modality at random. The embedded
# router (dashed, at one level for all layers) sees each modality before any mixing. The two also differ in
# learning rate, batch size and standardization, and the published router's curve hardly changes with depth, so
# this does not show that mixing costs anything.

# %%
routers = {NAMES[kind]: [router for router, _ in found] for kind, found in trained.items()}
by_layer = gate_by_layer(routers, *validation)
run.publish(
    gate_by_layer_figure(by_layer), "gate_by_layer", "Gate by layer",
    "Share of conflicts in which the gate's first modality (Eq. 8) is right, by layer and "
    "coalition, with 95% bootstrap intervals over clips; a level, dashed line is a router that "
    "reads only what enters the first layer and so has one gate for all layers",
)

# %%
named = by_layer["layer"].astype("Int64").astype("string").fillna("all")
by_layer = by_layer.assign(layer=named)
run.record(by_layer, "gate by layer", by=["router", "layer", "coalition"], trained=True)
with_intervals(by_layer, index=["router", "layer"], columns="coalition")

# %% [markdown]
# ## Conflicts found, and false alarms
#
# p* asks for equal *class*, so most prompts are conflicts, many of EmoMM-Align among them (Align asks for equal
# polarity), and a router that always says yes would find all. So beside the recall stand the base rate (`conflicts`),
# the rate of false alarms (p above the same tau in some layer, but no conflict), the area under the curve of the mean p
# (`auc`) and the number of prompts. Unsteered states of test prompts, one router of each kind.

# %%
detection = pd.concat([detection_rates(study, kind).assign(router=NAMES[kind]) for kind in NAMES])
tidy = detection.melt(["router", "coalition", "n"], var_name="quantity")
run.record(tidy, "detection", by=["router", "coalition", "quantity"], trained=True)
detection.set_index(["router", "coalition"]).round(2)

# %% [markdown]
# ## Table 6
#
# On true conflicts with all modalities, at tau = 0.7, while the published configuration steers (so
# that later layers see steered states): how many trigger steering; in how many steered layers the gate
# puts a right modality first; how many conflicts are steered *and* have a right modality first in the mean gate of
# their steered layers. Conflicts in which no modality is right have no target and are left out. The paper's third
# number is not the product of the other two, so its second cannot count clips as the third does; here the second
# counts layers. The paper does not say.

# %%
published = Routed(study.router(PUBLISHED)[0])
measured = table6_metrics(study, published)
run.record(measured, "table 6", by=["split", "metric"], trained=True)

# %% [markdown]
# The same with the preference as a plain share in place of Eq. 6's softmax, which moves attention further and so changes
# what later layers see, and with the linear router:

# %%
ways = {
    f"{bench.name}, share": table6_metrics(study, published, "share"),
    f"{bench.name}, linear router": table6_metrics(study, Routed(study.router(LINEAR)[0])),
}
for name, own in ways.items():
    run.record(own, f"table 6, {name}", by=["split", "metric"], trained=True)

# %% [markdown]
# And for every further backbone of the profile: states of its own, and a published router trained on them.

# %%
others = {}
for other in run.other_benches():
    its = Study(other, other.states(other.clips))
    others[other.name] = table6_metrics(its, Routed(its.router(PUBLISHED)[0]))
    run.record(others[other.name], f"table 6, {other.name}", by=["split", "metric"], trained=True)
whole = pd.concat([own.assign(model=name) for name, own in {bench.name: measured, **ways, **others}.items()])
table = table6(whole, run.profile)
run.publish(table, "table6", "Table 6", "Conflict detection and target-modality identification")
table

# %% [markdown]
# ## Does p mean what it says?
#
# Observed rate of conflicts against the predicted one, prompts of all coalitions, p averaged over layers.
# On the diagonal, a p of 0.8 is right in 80 of 100. (Steering compares each layer's own p with tau.)

# %%
reliable = conflict_reliability(study, PUBLISHED)
run.publish(
    reliability_diagram(reliable), "router_reliability", "Router reliability",
    "Observed share of conflicts against the predicted probability p (Eq. 7), by bins of equal "
    "width; areas of marks and the bars beneath are numbers of prompts. ECE is the mean distance "
    "from the diagonal over prompts",
)

# %% [markdown]
# ## Beside the paper
#
# Table 6 is about a router on Qwen2.5-Omni-7B; the first backbone's published router stands beside it, not compared,
# and every other router has items of its own.

# %%
ours = whole.assign(item=paper.item_names(6, whole), reproduced=whole["value"])
ours["item"] += ("/" + ours["model"]).where(ours["model"] != bench.name, "")
ours["model"] = ours["model"].replace("Qwen2.5-Omni-7B", "CHASE router")
collapsed(run.compare(paper.items(6), ours, 0.02))

# %% [markdown]
# ## CHASE by hand: Figure 4
#
# What does the router set in motion? One prompt, one head, the published strengths, and every number between
# Eq. 5 and Eq. 15: the first conflict of the validation split that the published router finds, in the first layer
# steered, and there the head whose preference is farthest from the gate. (Eq. 9 and 10 are what the router was
# trained on.) Each line is worked out by the paper's formula alone; the last one is what the steered model used.

# %%
pd.set_option("display.max_colwidth", None)
worked, which = first_steered(bench, study.split("valid"), study.router(PUBLISHED)[0], study.base)
run.publish(
    figure4(worked, which), "figure4_by_hand", "Figure 4",
    "One head's attention from the unsteered model to the steered one, step by step, with the numbers",
)

# %%
worked.table().set_index(["equation", "symbol"]).round(4).astype(object).fillna("")

# %% [markdown]
# Eq. 6's softmax takes numbers below one over a modality's tokens, so that every head's π is nearly even, whatever it
# attends to; and a bias of γ b moves a head that looks at one modality alone by little. Both bound what steering
# can do ([10 · Paper audit](10_paper_audit.ipynb), section 8); 08 tries what lifts the bounds.

# %% [markdown]
# ## Claims and verdicts
#
# What the paper says, or leaves to ask, beside what this run found. A verdict is the interval's: *open* where it leaves both.

# %%
run.claims()

# %% [markdown]
# **What came out, under `mini`.** In a model that reads late, the published router is a poor judge. It finds most
# conflicts, and with τ at 0.7 takes most whole prompts without one for conflicts, too. It puts a right modality first
# more often than chance, and less often than published. Linear maps do no better. The *embedded* router, which sees
# each modality as it enters the decoder, raises far fewer false alarms and puts a right modality first far more
# often: so what enters the decoder says whom to trust; whether the layers that the published router reads still do,
# this does not show.
#
# **What not to conclude.** Routers learn from a cue drawn into the surrogates: a modality with the ground
# truth's class usually speaks more clearly. Notebook 08 takes the cue away. Whether real speakers offer
# anything like it, and how deep a real model's states say whom to trust, is what the `paper` profile would
# show.
#
# Next: [07 · Main results](07_main_results.ipynb), what steering by that router repairs.
