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
# # 11 · Steering explorer
#
# **Question.** What does each parameter of CHASE do to one clip: to the heads that are steered, to where the
# decision query looks, and to the answer?
#
# **What to look at.** Open this notebook in JupyterLab and run all cells. Choose a clip and which of its
# modalities the model is given; move a slider, and the picture and the numbers follow. The gate is one of the
# trained routers, or is set *by hand*: p, and how far text, audio and video are trusted. *Reset* brings the published
# values back; the box of code at the end of the widget gives the same answer in a cell of your own.
#
# The prompt is computed once; each move of a slider repeats its last token alone, which is why it is quick.
# Where the page shows no widget (GitHub, a printed copy), the same picture and numbers of the first
# state stand below it.

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

# %%
from dataclasses import replace

from emomm_study.evaluate.cases import opening_clip
from emomm_study.evaluate.protocol import EMBEDDED, PUBLISHED, Study, read_choices
from emomm_study.notebook import open_run
from emomm_study.report.explorer import BY_HAND, compared, explore, explorer_figure, numbers
from emomm_study.report.values import ONE_CLIP

run = open_run("11_steering_explorer", globals())

# %% [markdown]
# ## What can be steered
#
# The clips of the test split, the published and the embedded router of notebook 06, and as places to start from the
# configurations that notebook 07 chose on the validation split.

# %%
bench = run.bench
study = Study(bench, bench.states(bench.clips))
test = study.split("test")
routers = {kind: study.router(kind)[0] for kind in (PUBLISHED, EMBEDDED)}
chosen = read_choices(run.profile, study.fingerprint)
presets = {name: (choice.router, choice.config) for name, choice in chosen.items()
           if choice.group in ("the paper's method", "extensions")}
print(f"{bench.name}: {len(test)} clips of the test split, routers {', '.join(routers)}")

# %% [markdown]
# It opens on the first conflict in which video alone has the ground truth's class and the unsteered model answers
# something else, steered by *+ sharpened gate* of notebook 07. In such a clip there is something to repair; how
# often steering does so it cannot show. (Few clips may hold no such conflict: then it opens on the next best.)

# %%
first, kind = opening_clip(test, bench.predictions(test, ("TAV",)))
print(f"{first}: {kind}")

# %% tags=["nbval-ignore-output"]
explorer = explore(bench, test, routers, presets=presets, sample_id=first, start="+ sharpened gate")
explorer

# %% [markdown]
# ## The first state, without a widget
#
# Grey bars and dashed lines are the unsteered model, dark bars and solid lines the steered one.

# %%
shown = explorer.shown
run.publish(
    explorer_figure(shown), "explorer", "Explorer",
    f"One clip before and after steering, {shown.title}", of=[test, bench.fingerprint],
)

# %%
print(numbers(shown, digits=2))

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print(shown.title)

# %%
print(explorer.state.code())

# %% [markdown]
# ## Three experiments to do by hand
#
# **1. From the published values.** Press *Reset*, then drag γ to its end. Under `mini` the ground truth's class, WN,
# rises until it is level with Neu or just ahead. Move K to 8 and l_r to 1 as well: now WN is clearly ahead.
#
# **2. How clearly must the gate speak?** Start from *+ sharpened gate* and move sharpness down to 1 and up to
# 8. Under `mini` the ground truth's class first has *less* than unsteered, and at 8 far more: the gate trusts video
#   most and audio next, and audio is wrong. Then raise τ: once it passes p no layer is steered, and all is as in the
#   unsteered model.
#
# **3. Whom to trust, by hand.** Start from *+ sharpened gate*, choose the gate *by hand*, and give all trust to one
# modality after the other. Under `mini` V, which alone is right, turns the answer of the first clip to the ground
# truth; T and A leave it Neu, as both their labels say. Set the preference to *share*, and V overshoots to N: without
# the softmax the bias is not bounded (notebook 10, section 8).
#
# The first clip's states in numbers:

# %%
state, published = explorer.state, explorer.published
by_hand = {m: replace(state, gate=BY_HAND, trust=tuple(float(m == n) for n in "TAV")) for m in "TAV"}
trials = compared(explorer.explored, {
    "published values": published,
    "1: γ = 12": published.moved("gamma", 12.0),
    "1: γ = 12, K = all, l_r = 1": published.moved("gamma", 12.0).moved("top_k", study.heads).moved("first_layer", 1),
    "+ sharpened gate": state,
    "2: sharpness 1": state.moved("sharpness", 1.0),
    "2: sharpness 8": state.moved("sharpness", 8.0),
    "2: τ = 1": state.moved("tau", 1.0),
    **{f"3: trust {m}": hand for m, hand in by_hand.items()},
    **{f"3: trust {m}, share": hand.moved("preference", "share") for m, hand in by_hand.items()},
})
probabilities = trials.drop(columns="answer").rename_axis("setting").reset_index().melt("setting", var_name="letter")
run.record(probabilities, "trial", by=["setting", "letter"], relative=ONE_CLIP)
trials.round(2)

# %% [markdown]
# ## How long a move takes
#
# Fifty-four moves of all nine sliders to random places, each timed until the new picture and numbers have been
# handed to the browser. Under 150 ms feels immediate.

# %%
times = explorer.measure(54)
by_control = times.groupby("control", sort=False)["milliseconds"].agg(["median", "max"])
print(f"median {times['milliseconds'].median():.0f} ms, worst {times['milliseconds'].max():.0f} ms")
by_control.round(0).astype(int)

# %% [markdown]
# That is Python's part; the browser adds the time to draw one vector picture.
#
# **What came out, under `mini`.** In the first clip the published values leave the answer where it was; at the end of
# γ the ground truth's class comes level with it or just passes it. Those of *+ sharpened gate* turn it, and trust in
# V alone does so clearly. How often steering does such a thing, and how often the opposite, is measured in notebooks
# 07 and 08.
#
# **What not to conclude.** One clip is an anecdote, and a slider moved until an answer comes out right is a fit to
# that clip: what steering gains is measured in notebooks 07 and 08, on clips that chose nothing. Attention that is
# moved to a face does not show that the model has understood it. And nothing here under `mini` is about real people
# or a real model: faces are drawn, voices are synthetic, and the model has two million parameters.
