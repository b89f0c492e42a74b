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
# # 12 · The annotation protocol: votes, agreement, labels
#
# **Question.** How do CMU-MOSI's unimodal labels come about (Section 3.1, Appendix A.2), and how far do
# the five who vote agree?
#
# **What to look at.** The panel in which a person labels one modality of a clip at a time; Fleiss' kappa
# of each modality with its interval, inside the range that Table 3 allows, beside the published 0.54; and
# the reports that show a disputed clip or an annotator who does not look.
#
# **Who votes here.** Under `mini` *simulated annotators*, which are no people. They see and hear nothing:
# notebook 01 drew their votes so that the mean of five has the class that Table 3 needs, with a noise
# chosen to give about the published agreement. The panel, the store, the statistics and the export are
# those that people use; `docs/annotation_campaign.md` tells how to run a campaign with them.
# A benchmark of CH-SIMS v2.0 alone has no clip that was labelled so: simulated votes on its clips then show
# the protocol, and are compared with nothing.

# %% tags=["parameters"]
profile = "mini"
data_note = "Surrogate clips, rendered from labels constructed to satisfy Tables 3 and 4."
ch_sims_root = "cache/surrogate/ch-sims"
cmu_mosi_root = "cache/surrogate/cmu-mosi"
annotations = "cache/surrogate/cmu-mosi/annotations.csv"
campaign = "cache/surrogate/campaign.sqlite"
same_clips = True

# %%
import tempfile
from pathlib import Path
from textwrap import fill

import pandas as pd

from emomm_lib.labels import polarity
from emomm_study import paper
from emomm_study.annotation import agreement
from emomm_study.annotation.campaign import Answer, Campaign, CampaignError
from emomm_study.annotation.export import export_annotations, export_votes
from emomm_study.audit.kappa import band, kappa_ranges
from emomm_study.corpora.clips import corpus_roots
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.annotators import is_simulated, simulated_campaign
from emomm_study.notebook import open_run
from emomm_study.paths import located
from emomm_study.report import tables
from emomm_study.report.annotating import GUIDELINE, NAMES, annotate
from emomm_study.report.figures import annotation as figures
from emomm_study.report.style import CORPUS_NAMES

run = open_run("12_annotation", globals())
scratch = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The protocol in short
#
# Five people judge each clip three times: first the text of *every* clip, then every clip's sound, then
# every clip's film without sound, so that no modality colours another of the same clip. Each judgement is
# -1, 0 or 1. Before the first pass comes a short calibration round whose reference labels are shown. What an
# annotator is told, modality by modality:

# %%
for modality, words in GUIDELINE.items():
    print(fill(words, 100, initial_indent=f"{NAMES[modality]:<6} ", subsequent_indent=" " * 7))

# %% [markdown]
# ## The panel
#
# A campaign is one file. This one is for trying out: three clips, and one for calibration. Open this notebook in
# JupyterLab, run all cells, and label them; keys 1, 2, 3 stand for negative, neutral, positive. Stop
# whenever you like: an answer is on disk before the next clip is shown, and the panel goes on where the file
# says that you stopped.

# %%
roots = corpus_roots(ch_sims_root, cmu_mosi_root)
corpus = Corpus.CMU_MOSI if Corpus.CMU_MOSI in roots else Corpus.CH_SIMS
root, clips = roots[corpus], run.manifest[run.manifest["corpus"] == corpus]
few = clips[[(root / path).is_file() for path in clips["video_path"]]].head(4)
reference = few.head(1).assign(**{f"label_{m}": polarity(few.head(1)[f"label_{m.lower()}"]) for m in NAMES})
demo = Campaign.create(scratch / "demo.sqlite", few["sample_id"].tail(3), calibration=reference)

# %% tags=["nbval-ignore-output"]
annotate(demo, few, root, "A1")

# %% [markdown]
# Where this page shows no widget (GitHub, a printed copy), it looks like this, here in the third pass:
#
# ![The annotation panel: a film alone, three answers with their keys, how far one is](../docs/images/annotation_panel.png)
#
# And in words, what a second annotator is asked, one after another. Within a pass the order of the clips
# is each annotator's own, since neighbours are often cut from one video.

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
while task := demo.task("A2"):
    print(f"{task.phase:<11} {NAMES[task.modality]:<5} seq {task.seq}  ({task.done + 1} of {task.total})")
    demo.record([Answer("A2", task.modality, task.seq, 0, task.phase)])

# %% [markdown]
# An answer out of turn is refused, whoever sends it:

# %%
try:
    demo.record([Answer("A3", "V", 1, 1)])
except CampaignError as error:
    print(error)

# %% [markdown]
# ## The campaign behind the benchmark
#
# Where no campaign is named, because the annotations came as a file of means, votes of simulated annotators that fit
# these means' classes stand in, to show what the statistics look like; everything below then says so.

# %%
own = campaign and corpus == Corpus.CMU_MOSI
whole = Campaign(located(campaign)) if own else simulated_campaign(scratch / "votes.sqlite", clips)
votes = whole.votes()
simulated = is_simulated(whole)
who = "simulated annotators: no people" if simulated else f"{len(whole.annotators)} annotators, five a clip"
run.data_note = " ".join(filter(None, [f"Votes of {who}." if simulated else "", data_note]))
run.made_of = votes

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
progress = whole.progress().pivot(index="annotator", columns="modality", values="done")
print(f"{len(votes):,} votes on {len(whole.items):,} clips ({who})\n")
print(progress[list(NAMES)].to_string())

# %% [markdown]
# ## Votes on each item
#
# An *item* is one modality of one clip. Five votes are one of 21 patterns, whose mean is a score on the 0.2 grid;
# CMU-MOSI's mapping turns that into a class (the paper does not say which of its two mappings did). A weak class
# cannot be unanimous: -0.2 and -0.4 are means of votes that differ. Strong and neutral ones can be. (People would
# sooner vote neutral than opposite; of simulated annotators' votes a few are drawn at random, so that opposite ones
# occur, too.)

# %%
run.publish(
    figures.vote_patterns(agreement.patterns(votes), who), "annotation_votes", "Appendix A.2",
    "Items by their five votes (how many -1, 0, +1), from the most negative mean to the most "
    "positive, with the class of the mean; shaded where both -1 and +1 were voted",
)

# %% [markdown]
# ## Fleiss' kappa
#
# kappa sets the share of agreeing pairs of annotators against the share that their votes would give by chance.
# The paper prints one number for three modalities; it can be one kappa over all items together (`all`), or the
# mean of three (`mean`). Intervals are 95% bootstrap intervals over clips; those of the last two columns
# resample whole videos, for clips of one video may be alike.

# %%
kappas = agreement.fleiss(votes)
by_video = agreement.fleiss(votes, by_video=True)
kappas.assign(low_by_video=by_video["low"], high_by_video=by_video["high"]).round(3)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
for row in kappas.itertuples():
    print(f"{row.modality:<4}  {row.kappa:.2f} [{row.low:.2f}, {row.high:.2f}]  {band(row.kappa)}  {row.items} items")

# %% [markdown]
# The grey bars are what any five annotators could reach whose means fall into Table 3's classes
# ([10 · Paper audit](10_paper_audit.ipynb)): a weak class can only come from votes that differ, so a modality with many
# weak labels, as audio, cannot have a high kappa however careful its annotators were. (By CH-SIMS's mapping the ceilings
# would be higher; notebook 10 has both.)

# %%
published = paper.claims().set_index("id").at["kappa", "value"]
ranges = kappa_ranges().query("mapping == @Corpus.CMU_MOSI.value")
run.publish(
    figures.agreement_figure(kappas, ranges, published, who),
    "annotation_agreement", "Appendix A.1",
    "Fleiss' kappa with 95% bootstrap intervals over clips, the range that Table 3's class counts "
    "allow (grey), and the published value (line)", published=published,
)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print("at most, by CMU-MOSI's mapping:", ", ".join(f"{r.modality} {r.high:.2f}" for r in ranges.itertuples()))

# %% [markdown]
# ## Where they disagree
#
# The most disputed items first. A *split* item has both a -1 and a +1: candidates for a second look at the clip
# or at the guideline, not for correcting anybody's vote.

# %%
disputed = agreement.disagreements(votes)
disputed.head(8).round(2)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
split = disputed.groupby("modality")["split"].agg(["sum", "size"]).loc[list(NAMES)]
for modality, row in split.iterrows():
    print(f"{NAMES[modality]:<5}  {row['sum']:3d} of {row['size']:,} items are split")

# %% [markdown]
# ## One annotator beside the others
#
# Somebody who presses one key throughout, or has misread the guideline, shows in low kappas with all others, in votes
# off the others' majority, or in shares of votes unlike everybody else's. *Leaning* is milder: an eye
# that sees everything a little brighter or darker than the others do.

# %%
pairs, report = agreement.pairwise(votes), agreement.annotator_report(votes)
run.publish(
    figures.annotators_figure(pairs, report, who), "annotation_annotators", "Appendix A.2",
    "Above: Cohen's kappa of any two annotators. Below: how far each one's votes lie above or "
    "below the others' on the same items, how often they differ from the others' sole majority, "
    "and the shares of the three votes",
)

# %%
report[report["modality"] == agreement.POOLED].drop(columns="modality").set_index("annotator").round(3)

# %% [markdown]
# And in numbers, what each one voted where the other four had a sole majority:

# %%
against = agreement.confusion(votes).groupby(["annotator", "majority", "label"])["items"].sum()
against.unstack("label", fill_value=0)

# %% [markdown]
# ## From votes to the labels of the benchmark
#
# The export writes the mean votes as the file that notebook 01 reads. Clips with other than five votes in a
# modality are refused by name. It is exported again here, to set it beside the one in use; and the classes
# of its means are counted beside Table 3.

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
again = export_annotations(votes, scratch / "annotations.csv", whole.items["sample_id"])
same = annotations and again.path.read_bytes() == located(annotations).read_bytes()
print(f"{again.clips:,} clips exported, {'the same file as' if same else 'another file than'} notebook 01 reads")

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
labels = agreement.mean_labels(votes).reset_index().assign(corpus=corpus.value)
read = clips.set_index("sample_id")[["label_t", "label_a", "label_v"]]
used = read.index.intersection(labels["sample_id"])
equal = read.loc[used].equals(labels.set_index("sample_id").loc[used, list(read)])
print(f"{len(used):,} of {len(read):,} clips of the manifest have votes; their labels are {'' if equal else 'not '}the same")

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
counts = tables.label_counts(clips).query("source != 'gt'")
counts = counts.assign(item=paper.item_names(3, counts), reproduced=counts["count"])
cells = paper.items(3)
cells = cells[cells["item"].isin(counts["item"])]
apart = {} if same_clips else dict.fromkeys(counts["item"], "another draw of clips by the same rules")
table3 = paper.compare(cells, counts, 0, profile=run.profile, not_comparable=apart)
print(f"Table 3, T, A and V of {CORPUS_NAMES[corpus]}: {int(table3['within'].sum())} of {len(table3)} counts equal the published ones")

# %% [markdown]
# ## What may be released
#
# Appendix A.2 stores and releases anonymous identifiers and labels alone. The release holds seq, clip name,
# modality, annotator and vote, and nothing of a clip.

# %%
released = pd.read_csv(export_votes(votes, scratch / "votes.csv"))
released.head(6)

# %% [markdown]
# ## Beside the paper

# %%
pd.set_option("display.max_colwidth", None)
pooled = kappas.set_index("modality").loc[agreement.POOLED]
reproduced = pd.DataFrame(
    [
        ("claim/kappa", pooled["kappa"], pooled["low"], pooled["high"]),
        ("claim/annotators", votes.groupby("sample_id")["annotator"].nunique().min(), None, None),
        ("claim/annotated_cmu_mosi_clips", len(labels) if corpus == Corpus.CMU_MOSI else 0, None, None),
    ],
    columns=["item", "reproduced", "low", "high"],
)
reason = "simulated annotators, whose noise was chosen for it" if simulated else "other annotators"
items = paper.claim_items()
items = items[items["item"].isin(reproduced["item"])]
apart = items["item"] if corpus != Corpus.CMU_MOSI else ["claim/kappa"]
run.compare(items, reproduced, 0, not_comparable=dict.fromkeys(apart, reason))

# %% [markdown]
# **What came out, under `mini`.** The simulated votes pass through the store, the statistics and the export,
# and come out as Table 3's classes, every count. One kappa over all items is about the published one, as
# chosen; by modality it is highest for text and lowest for audio. The ceilings that Table 3 sets stand in the
# same order: audio has most weak labels, which need votes that differ.
#
# **What not to conclude.** Simulated annotators are no people. Their kappa says nothing about how well people
# agree, nor whether the published one is good or poor; only that such votes exist and that this code counts
# them rightly. Of real annotators kappa says that they agree, not that they are right. And a mean of five
# votes measures how *many* see a feeling, not how strong it is, though its classes are named after strength.
#
# Next: [13 · The causal organism](13_causal_organism.ipynb), the paper's story where its causes can be
# switched.
