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
# # 09 · Case studies: Tables 7 and 8, Figures 12 and 13
#
# **Question.** What does steering look like in a single clip: which labels conflict, where does the model
# attend before and after, and what does it answer?
#
# **What to look at.** Five cards in the layout of Appendix F: a conflict, one clip for each missing modality,
# and one that steering *harms*. None is picked by hand: a rule names each, and the card prints the rule. Then
# attention over the frames (Figure 12) and the importance of the video's tokens (Figure 13).
#
# The cards are about *CHASE, tuned* of notebook 07: the paper's router and equations, their hyperparameters
# chosen on the validation split. The published ones change next to no answer of this small model, so there
# would hardly be a case to show; each card says what they give. Under `mini` validation took more heads, a lower
# threshold, and no intra-modality bias (beta = 0).
#
# Answers, scores and probabilities are those that notebook 07 stored; attention is computed again for each
# card. (Under the `paper` profile, cards show faces and words of people in the corpora: see your licence
# before you share them.)

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
render_clips = 1000
keep_encodings = True
clips = None
executor = "local"
workers = "auto"
seed = 0

# %%
from textwrap import fill

import pandas as pd

from emomm_study.evaluate.cases import (
    METHODS,
    RULES,
    case_pairs,
    find_cases,
    rule_counts,
)
from emomm_study.evaluate.protocol import Study, read_choices
from emomm_study.notebook import open_run
from emomm_study.paths import run_dir
from emomm_study.report.card_pages import write_card_page
from emomm_study.report.cards import (
    budget_frame,
    case_name,
    case_table,
    case_values,
    first_with_video,
    interpreted,
    make_card,
    usual_cues,
)
from emomm_study.report.figures.cases import attention_figure, importance_figure
from emomm_study.report.values import ONE_CLIP

METHOD = "CHASE, tuned"
run = open_run("09_case_studies", globals())

# %%
bench = run.bench
study = Study(bench, bench.states(bench.clips))
chosen = read_choices(run.profile, study.fingerprint)
configs = {name: chosen[name].config for name in METHODS}
run.made_of = [study.split("test"), bench.fingerprint]

# %% [markdown]
# ## Which cases
#
# The rule stays near the *median* change in the probability of the ground truth's class, since the largest one shows
# what a method can do once, and the median what it does when it works; among those within five points of it the first
# by name is taken, so that every machine shows the same clip (`edge` says where a slightly wider or narrower window
# would show another). First how often it works: on the test split's conflicts, how many wrong polarities become the
# right class (*repaired*), and how many right classes become a wrong polarity (*harmed*): `fitting` of `among` all
# conflicts of that coalition.

# %%
for rule in (RULES[0], RULES[-1]):
    print(fill(rule.sentence(METHOD), 110), end="\n\n")
pairs = case_pairs(study, configs)

# %%
counts = pd.concat({name: rule_counts(pairs[name]) for name in METHODS}, names=["method", ""]).reset_index("method")
run.record(counts, "fitting", by=["method", "case"], trained=True)
counts.set_index("method")[["case", "coalition", "fitting", "among", "edge"]]

# %%
cases = find_cases(study, configs, METHOD)
train = study.split("train")
usual = usual_cues(train, bench.roots, bench.media.audio, seed=seed)
cards = [make_card(case, bench, usual, run.profile) for case in cases]
pictures = []
for card, rule in zip(cards, RULES, strict=True):
    text = f"Case card, {rule.title} ({METHOD}). {interpreted(card)}"
    pictures.append(run.publish(card.figure(), f"case_{rule.name}", "Appendix F", text, formats=["png"]))
page = write_card_page(run_dir(run.profile) / "cards.html", cards, pictures, bench.roots, play=render)
print(f"The same cards with clips that {'play' if render else 'do not play'}: runs/{run.profile}/{page.name}")

# %% [markdown]
# ## A conflict
#
# The layers are those of the paper's cards at the same fractions of the model's depth. The budget is nMAS
# (Eq. 5) normalised over the present modalities, mean over heads; p and the gate are the router's (Eq. 7, 8).
# The router's numbers stand beside the bars of their layer. The interpretation is put together from the numbers.

# %%
pictures[0]

# %% [markdown]
# ## Audio missing
#
# As in Table 8.

# %%
pictures[1]

# %% [markdown]
# ## Video missing

# %%
pictures[2]

# %% [markdown]
# ## Text missing
#
# The transcript is hidden; the speech still says the words.

# %%
pictures[3]

# %% [markdown]
# ## A conflict that steering harms
#
# Cases that a method repairs are half of a picture.

# %%
pictures[4]

# %% [markdown]
# ## The numbers of the cards
#
# Change of the budget, mean over the shown layers, and the probability of the ground truth's class; beside
# each modality whether its label has that class (`=`), its polarity only (`≈`), or conflicts (`≠`).

# %%
budgets = budget_frame(cases)
run.record(case_values(budgets), "case", by=["case", "quantity"], of="quantity", relative=ONE_CLIP)
budgets.round(2)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
# Which clips the rules name is the same on every machine.
print("\n".join(f"{rule.title}: {case_name(case)}" for rule, case in zip(RULES, cases, strict=True)))

# %% [markdown]
# ## Tables 7 and 8
#
# The published cases beside ours. Ours are other clips, answered by another model: nothing here is
# reproduced or could be, so no value enters the comparison of published and reproduced numbers.

# %%
shown = {}
for number, case in ((7, cases[0]), (8, cases[1])):
    shown[number] = run.publish(
        case_table(number, case), f"table{number}", f"Table {number}",
        f"{('Conflict', 'Missing')[number - 7]} case analysis",
        note=f"Our case is another clip and another model than the published one. {data_note}",
    )
shown[7]

# %%
shown[8]

# %% [markdown]
# ## Figure 12
#
# Attention of the decision query on each video token, mean over heads and the card's layers, of the first
# case that shows video. A token covers a square of the picture in several frames at once, as the title says; the
# first of these frames is shown. All rows have one colour scale, so that less attention on video is paler. *Spread
# over* is the exponential of the attention's entropy: over how many tokens it would lie if it were even.

# %%
card = first_with_video(cards)
run.publish(
    attention_figure(card), "figure12_attention", "Figure 12",
    "Attention of the decision query on the tokens of the frames, mean over heads and the layers "
    "shown in the case's card, unsteered and steered, on one colour scale",
)

# %% [markdown]
# ## Figure 13
#
# Importance of the same clip's video tokens (gradient times input, Eq. 24, normalised by Eq. 25) and the set S_v
# that the intra-modality bias of *CHASE* lifts, at the P that was kept on validation (the paper gives none). Under
# `mini` *CHASE, tuned* lifts no token: its beta is 0.

# %%
run.publish(
    importance_figure(card, configs["CHASE"].percentile), "figure13_importance", "Figure 13",
    "Importance of the video's tokens (Eq. 24-25), sorted, with the threshold at the P-th "
    "percentile, and over the frames, with the significant set S_v outlined",
)

# %% [markdown]
# ## Claims and verdicts
#
# What the paper says, or leaves to ask, beside what this run found. A verdict is the interval's: *open* where it leaves both.

# %%
run.claims()

# %% [markdown]
# **What came out, under `mini`.** The rules find a handful of clips that tuned CHASE repairs, and none that it harms.
# In every case the answer moves to the class next to it, and attention by a few hundredths, towards a modality with
# the ground truth's class or, where none has it, its polarity. The published cases move further, since their
# unsteered answers are of the opposite polarity.
#
# **What not to conclude.** A handful of clips is an illustration, not evidence; gains with intervals are in
# notebook 07. Nor does a budget that moves beside an answer that turns explain it: what acts is attention in
# single heads, of which the budget is a mean. And nothing here is about Qwen2.5-Omni-7B, nor about the clips
# of the paper's Tables 7 and 8.
#
# Next: [10 · Paper audit](10_paper_audit.ipynb), what the published tables say by themselves; [11 · Steering
# explorer](11_steering_explorer.ipynb), cases by hand, with sliders.
