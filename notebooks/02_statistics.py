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
# # 02 · Label statistics: Tables 3, 4, 5 and Figures 6, 7, 8
#
# **Question.** How are the five classes distributed in GT, text, audio and video, and how well do
# any two of them agree (Eq. 1)?
#
# **What to look at.** Text agrees best with GT in CMU-MOSI and audio does in CH-SIMS v2.0; text and
# video agree worst in CH-SIMS, GT and video in CMU-MOSI.
#
# **By construction.** Under `mini` the labels were built from Tables 3 and 4: a maximum-entropy
# joint distribution of (GT, T, A, V), rounded by an integer program that satisfies both tables, the
# CH-SIMS quotas and the number of CMU-MOSI conflicts estimated from Table 1. They were written to
# disk in the real corpora's layouts, CMU-MOSI's modalities as votes of simulated annotators, and read back by notebook 01 through the real loaders, for all
# 4,000 clips, rendered or not. So equality with the paper is *expected* below; it tests files,
# loaders, mappings and metrics, not people.
#
# Real corpora (`same_clips` off) give another draw of clips by the same rules, since the paper's own
# list is not published: numbers then stand side by side, and none is judged.

# %% tags=["parameters"]
profile = "mini"
data_note = "Surrogate clips, rendered from labels constructed to satisfy Tables 3 and 4."
same_clips = True

# %%
import pandas as pd

from emomm_study import paper
from emomm_study.notebook import open_run
from emomm_study.report import tables
from emomm_study.report.figures import statistics as figures

run = open_run("02_statistics", globals())
manifest = run.manifest
another = "another draw of clips by the same rules"
f"{len(manifest):,} clips of {manifest['speaker_id'].nunique()} speakers"

# %% [markdown]
# ## Table 3: class counts

# %%
table3 = tables.table3(manifest, run.profile)
run.publish(table3, "table3", "Table 3", "Class counts by source, published and reproduced")

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
counts = tables.label_counts(manifest)
counts = counts.assign(item=paper.item_names(3, counts), reproduced=counts["count"])
apart = {} if same_clips else dict.fromkeys(counts["item"], another)
compared3 = run.compare(paper.items(3), counts, 0, not_comparable=apart)
print(f"Table 3: {int(compared3['within'].sum())} of {len(compared3)} cells equal the published ones")

# %% [markdown]
# ## Table 4: agreement $C_{ij}$
#
# $C_{ij} = 1 - \frac{1}{4N}\sum_n |y_i^{(n)} - y_j^{(n)}|$ (Eq. 1), with labels 0 to 4.

# %%
table4 = tables.table4(manifest, run.profile)
run.publish(table4, "table4", "Table 4", "Agreement by Eq. 1, published and reproduced")

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
agreed = tables.agreements(manifest)
agreed = agreed.assign(item=paper.item_names(4, agreed), reproduced=agreed["agreement"])
apart = {} if same_clips else dict.fromkeys(agreed["item"], another)
compared4 = run.compare(paper.items(4), agreed, 0.5e-4, not_comparable=apart)
print(f"Table 4: {int(compared4['within'].sum())} of {len(compared4)} cells equal to four decimals")

# %% [markdown]
# ## Figure 6: both corpora together
#
# Bars are this profile's clips, black lines the published counts. On the right, the larger
# $C_{ij}$, the stronger the agreement. The paper tabulates no combined values; in brackets is the
# mean of Table 4's two corpora, which are of equal size; T and V differ from it by a rounding.

# %%
run.publish(
    figures.figure6(manifest), "figure6_combined", "Figure 6",
    "EmoMM statistics, both corpora: five-class label distributions (left) and agreement C_ij of "
    "Eq. 1 (right); in brackets the means of Table 4's two corpora, which are of equal size",
)

# %% [markdown]
# ## Figure 7: CMU-MOSI

# %%
run.publish(
    figures.figure7(manifest), "figure7_cmu_mosi", "Figure 7",
    "CMU-MOSI: five-class label distributions (left) and agreement C_ij (right)",
)

# %% [markdown]
# ## Figure 8: CH-SIMS v2.0

# %%
run.publish(
    figures.figure8(manifest), "figure8_ch_sims", "Figure 8",
    "CH-SIMS v2.0: five-class label distributions (left) and agreement C_ij (right)",
)

# %% [markdown]
# ## Table 5: capabilities of benchmarks
#
# As printed, with a column that says in which notebook of this companion a capability is shown, and a row that
# says how it runs each benchmark ([other benchmarks](../docs/other_benchmarks.md), with what is comparable).

# %%
shown_here = {
    "mllm_protocol": "07",
    "conflict_split": "01",
    "missingness_split": "01",
    "joint_setting": "01",
    "attention_diagnosis": "04",
    "modality_contribution": "03",
}
run_here = {
    "MER-UniBench": "8 of 9 sets, own labels (emomm import mer-unibench)",
    "CA-MER": "own labels, from a CSV of yours (emomm import csv)",
    "MissRAG": "CMU-MOSI, own labels (emomm import missrag)",
    "EmoMM": "01 to 13",
}
pd.set_option("display.max_colwidth", None)
run.publish(
    tables.table5(shown_here, run_here), "table5", "Table 5",
    "Capabilities, as published, and where they are shown and run here", note="",
)

# %% [markdown]
# ## Beside the paper

# %%
comparison = pd.concat([compared3, compared4], ignore_index=True)
comparison.groupby("within", dropna=False).size().rename("cells").to_frame()

# %% [markdown]
# **What came out.** Under `mini` every cell of Tables 3 and 4 is met, as constructed. Read as the paper's,
# the numbers say two things that its text passes over. In CMU-MOSI audio and video are neutral more often
# than text and GT; in CH-SIMS it is text that is neutral most often. And in CH-SIMS each modality agrees with
# GT better than with any other, whereas in CMU-MOSI only text does. CMU-MOSI's unimodal labels were given
# with the other modalities hidden, its GT was not: how far labels agree depends on who labelled what as well
# as on what people express.
#
# **What not to conclude.** Agreement between labels is not the information that a modality carries, and
# bounds nothing about a model. Nor do two tables fix the joint distribution: many fit, and `mini` has the
# least committal of them.
#
# Next: [03 · VCC analysis](03_vcc_analysis.ipynb), what a model loses under conflict.
