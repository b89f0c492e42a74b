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
# # 10 · What the published tables say by themselves
#
# **Question.** The paper prints eight tables and some forty numbers in its text. Without a clip, a model or a
# label of one's own: which of its statements can be checked from them, which can be sharpened, and which can they
# not decide?
#
# **What to look at.** Nine short audits, each an optimisation or a piece of algebra over the printed numbers, and at
# the end one table of all findings. Most of what the text says fits. A few places do not fit as printed; an ordinary
# explanation is named wherever there is one, and which of them is true, only the authors know. Read as a list of
# questions that one would ask them, and of choices that this companion had to make where the paper leaves room.
#
# No clip is read and no model is asked, so the results are the same under every profile. Printed numbers come from
# `data/paper/*.csv`: change one digit there, and cells change or fail. Three things do not, and are named where they
# are used: the surrogates' labels (white marks in figures), an estimate of CMU-MOSI's conflicts, and tokens a second.

# %% tags=["parameters"]
profile = "mini"

# %%
import hashlib
from textwrap import fill

import numpy as np
import pandas as pd

from emomm_study.audit import attainable, collapse, gains, joint, kappa, mix, preference, sampling
from emomm_study.audit.consistency import consistency
from emomm_study.corpora.scores import Corpus
from emomm_study.mini.surrogate.joint import MOSI_CONFLICTS, joint_counts
from emomm_study.notebook import open_run
from emomm_study.paths import PAPER_DATA
from emomm_study.report.figures import (
    audit_kappa as figures_audit_kappa,
    audit_labels as figures_audit_labels,
    audit_results as figures_audit_results,
)
from emomm_study.report.shares import shares_table

pd.set_option("display.max_colwidth", None, "display.max_rows", None)
printed = b"".join(file.read_bytes() for file in sorted(PAPER_DATA.glob("*.[cy][sa]*")))
run = open_run("10_paper_audit", globals())
run.made_of = hashlib.sha256(printed).hexdigest()[:16]
run.origin = "from published numbers"
run.data_note = (
    "From the published tables alone: no clip and no model of this profile has a part in it."
)
findings = []

# %% [markdown]
# ## Do the numbers agree with each other?
#
# Sums, symmetry, parity, mixes, quoted gains: one row a check, grouped by where the numbers stand. What fails is
# listed beneath.

# %%
checks = consistency()
failed = checks[~checks["holds"]]
checks.groupby("reference")["holds"].agg(["size", "sum"]).set_axis(["checks", "hold"], axis=1)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print(f"{int(checks['holds'].sum())} of {len(checks)} checks hold")
print(failed[["check", "reference", "detail"]].to_string(index=False))

# %% [markdown]
# ## 1 · Is there a set of labels behind Tables 3 and 4?
#
# Tables 3 and 4 describe 2,000 clips a corpus by the labels of GT, T, A and V: five counts each, and the sum of
# differences of each pair (an agreement $C_{ij}$ of four decimals fixes that sum exactly). Whether any labels have all
# of these is a question about whole numbers in the 625 cells of (GT, T, A, V). An integer program finds such labels;
# and how many clips *can* be conflicts is the least and the greatest of a sum over cells. Each end is reached by
# whole clips, and proved by a sum of printed numbers (section 2 shows one).

# %%
ranges = joint.kind_ranges()
ends = ranges.assign(ends=ranges["low"].astype(str) + " to " + ranges["high"].astype(str))
ends.pivot(index=["corpus", "constraints"], columns="kind", values="ends")[[*joint.KINDS]]

# %%
committed = {corpus: joint_counts(corpus) for corpus in Corpus}
run.publish(
    figures_audit_labels.kinds_figure(ranges, committed), "audit_kinds", "Audit, kinds of clips",
    "Clips of each kind that Tables 3 and 4, and CH-SIMS's quotas (App. A.1), allow: the least "
    "and greatest whole numbers, proved by the dual of a linear program. Diamonds: the labels of "
    "this companion's surrogates",
)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print("all ends reached by whole clips:", ranges["exact"].all())
for corpus in Corpus:
    counts = joint.witness(joint.published_targets(corpus))
    row = ranges.query("corpus == @corpus.value and constraints == 'tables' and kind == 'conflict'").iloc[0]
    detail = f"an example has clips in {np.count_nonzero(counts)} of 625 cells; {row['low']} to {row['high']} conflicts are possible"
    findings.append(("1", "paper", f"{corpus.value}: some labels give all of Tables 3 and 4", True, detail))
    print(f"{corpus.value}: {detail}")

# %% [markdown]
# So Tables 3 and 4 are jointly possible, and they leave the joint distribution wide open: CMU-MOSI, which has no
# quotas, may have anything from just over half to all of its clips in conflict. Whatever depends on how labels go
# *together* (subsets, PSMV, GTAR) is not determined by these tables. The surrogates of this companion take the least
# committal of all distributions (notebook 02).

# %% [markdown]
# ## 2 · What is a "conflict"?
#
# Section 3.2 speaks of a polarity that "conflicts with the GT", Appendix A.1 of a modality that "opposes the ground
# truth polarity". Does a neutral label, of a modality or of GT, make one? Section 3.2 asks of Align that all
# polarities are "consistent with the GT", so nearly yes; CH-SIMS's quotas tell more. 1,000 conflict, 500 equal and 500
# same-polarity clips must fit into Tables 3 and 4 of CH-SIMS. Readings that a colleague might try:

# %%
readings = joint.reading_checks()
readings.drop(columns="detail").set_index("reading")

# %% [markdown]
# Readings by opposite signs are out of reach, and the reason fits into one sum. Give every clip the sum of the weights
# below that concern it: +1 for each class between its GT and T, -1 if its T is neutral, and so on. A clip in which
# some modality has the sign opposite to GT's always gets 2 or more, any other clip 0 or more; that is checked in
# every one of the 625 cells. What all clips together get follows from the tables, so at most half of that many
# clips can oppose.

# %%
certificate, equations = joint.opposite_certificate()
proof = certificate.frame(equations)
proof.set_index("number")

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
bound, wanted = certificate.bound, readings["wanted"].iloc[0]
print(f"all clips together get {proof['product'].sum()}: at most {proof['product'].sum()} / {proof.attrs['scale']} = {bound} clips oppose; {wanted} are wanted")
for row in readings.itertuples():
    findings.append(("2", "reading", f"CH-SIMS's quotas, if conflict means: {row.reading}", row.holds, row.detail))
print("readings that fit:", *readings.loc[readings["holds"], "reading"], sep="\n  ")

# %% [markdown]
# How far off is the literal reading? The least that would have to change for opposite signs to fit, one thing at a
# time while all else stays as printed (`exact`: whole clips reach it, otherwise it is a lower bound):

# %%
repairs = joint.least_repairs().set_index("changed")
repairs

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
off = repairs.at["quotas", "least"]
neutral = ranges.query("corpus == 'ch_sims_v2' and constraints == 'tables and quotas' and kind == 'neutral only'").iloc[0]
print(f"quotas off by {off} clips would do; if they are exact, {neutral['low']} to {neutral['high']} conflicts rest on a neutral label alone")

# %% [markdown]
# So round quotas that are only nearly kept would do, and so would a reading in which neutral is a polarity of its own.
# This companion takes the latter, which is also what Section 3.2 asks of Align; some of the conflicts then rest on a
# neutral label alone. The tables do not single it out: other readings fit as well. The paper's own case does not
# settle it either: Table 7 lists audio WP beside GT P as in conflict, which only the last reading allows, and that
# one does not fit the quotas.

# %% [markdown]
# ## 3 · Table 1's Overall as a mix, and the size of the test set
#
# An accuracy over all instances is the mean of the subsets' accuracies, weighted by their sizes. With one test set for
# all systems the weights are the same in all eight rows. Rounding leaves a polygon of possible weights.

# %%
best = mix.best_weights(("acc", "mae"), "largest")
residuals = mix.residuals(best.weights)
polygons = {metric: mix.compatible((metric,)) for metric in ("acc", "mae")}
run.publish(
    figures_audit_results.mix_figure(residuals, polygons), "audit_mix", "Audit, mix",
    "Left: Table 1's Overall less the best mix of its subsets, in units of what rounding can "
    "explain (shaded), with one mix by accuracy and MAE for all rows; macro F1 is not linear and "
    "need not follow. Right: all weights that rounding cannot exclude, light by MAE and dark by "
    "accuracy (also enlarged); the dashed line is three Missing instances a clip",
)

# %%
residuals.pivot(index=["model", "method"], columns="metric", values="residual").round(4)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
fits = residuals.groupby("metric")["holds"].all()
for metric, holds in fits.items():
    worst = residuals.query("metric == @metric")["residual"].abs().max()
    detail = f"largest residual {worst:.4f}, rounding explains {float(mix.rounding_bound(metric)):.3f}"
    if metric != "f1":
        findings.append(("3", "reading", f"one mix of subsets gives Overall {metric} in all rows", holds, detail))
    print(f"{metric}: {detail}")
true_mix = mix.rounded_mix_misfits(1000)
accuracy = mix.best_weights(("acc",), "largest").worst * float(mix.rounding_bound("acc"))
print(f"of {len(true_mix)} tables made from one true mix by rounding alone, {(true_mix >= accuracy).mean():.1%} miss by as much as {accuracy:.4f}; the largest by {true_mix.max():.4f}")

# %% [markdown]
# What one mix would imply, all of it *if* all systems were scored on the same instances, the split is a fifth of 4,000
# clips and stratified, and CH-SIMS has its quota:

# %%
implied = mix.implications()
implied[["quantity", "low", "high", "detail"]].set_index("quantity").round(3)

# %% [markdown]
# F1 need not mix: macro F1 is no mean over instances. Ten clips of one class, all right, and ten of another, all
# read as the first, have macro F1 1/2 on average, but less together:

# %%
pooled, mixed = mix.f1_counterexample()
misfits = mix.pooled_f1_misfits(400)
nearest = np.abs(mix.best_weights(("f1",), "largest").worst * float(mix.rounding_bound("f1")))
print(f"mixed {mixed:.3f}, pooled {pooled:.3f}")
print(f"the best mix of Table 1's F1 misses by {nearest:.3f} points (rounding explains {float(mix.rounding_bound('f1')):.3f}); pooled F1 of made-up systems by {np.median(misfits):.2f} (median of {len(misfits)})")

# %% [markdown]
# Table 1's F1 is no mix, but much nearer to one than F1 over all answers usually is (of random systems on the same
# subset sizes, each right at a rate and biased in a way of its own). So Overall F1 may be an average of
# subsets; the tables cannot decide it.
#
# Accuracy and MAE stay within the worst that rounding can do to one mix, accuracy only just, and a true mix hardly
# ever comes so near the limit. One set of sizes for all systems is thus possible and not likely; if there is one, it
# has slightly more than the three Missing instances a clip of Appendix A.3. The number of CMU-MOSI's conflicts, which
# no table prints, follows from it only as surely; the surrogates take a value in its range.

# %% [markdown]
# ### Which numbers of clips can print these accuracies?
#
# An accuracy over n clips is k/n for a whole number k, so that two decimals of percent exclude most n below a few
# thousand (the granularity test of Brown and Heathers, 2017). Ticks are the n that can print a row's accuracy.

# %%
sizes = attainable.row_sizes()
width = 6
window = attainable.windows("align", width)
run.publish(
    figures_audit_results.sizes_figure(sizes, window), "audit_sizes", "Audit, sizes",
    "Numbers of clips at which some number of right answers prints the accuracy of each row. The "
    "line is the size that Table 1's mix and a fifth of 4,000 clips imply; the band is a window "
    "in which every row of Align finds a size",
)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
aligned = sizes.query("number == 1 and subset == 'align'")["acc"]
most = 5000
common = set.intersection(
    *(set(attainable.attainable_sizes(value, 2, attainable.PERCENT, range(1, most))) for value in aligned)
)
detail = f"{len(common)} of the numbers below {most} do"
findings.append(("3", "reading", "one number of clips prints all eight accuracies of Align", bool(common), detail))
print(f"one number for all of Align: {detail}")
detail = (
    f"{len(window.starts)} of {window.tried} windows of {width} (from {' and '.join(map(str, window.starts))}); "
    f"{window.near:.0e} expected by chance within 10% of the implied size"
)
findings.append(("3", "reading", f"all eight find numbers within {width} of each other", bool(window.starts), detail))
print(detail)
for row in sizes[sizes["rarity"] < 0.02].itertuples():
    low, high = attainable.unprintable(row.acc, round(row.implied))
    name = f"{row.acc:.2f} (Table {row.number}, {row.model} {row.method}, {row.subset})"
    detail = f"a share of no number from {low} to {high}; {row.rarity:.1%} of accuracies have so wide a gap, {len(sizes)} were looked at"
    findings.append(("3", "reading", f"{name} is a share of about {row.implied:.0f}", False, detail))
    print(name, detail, sep=": ")
print(f"numbers near the implied ones that some MAE excludes: {sizes['mae_excludes'].sum()}")
attainable.shared_sizes().set_index(["model", "subset"])[["shared", "expected"]].round(2)

# %% [markdown]
# All at once: sizes of Align, Conflict and Missing within a tenth of the implied ones whose right answers add up to a
# row's Overall accuracy (and whose MAEs do, too). `solutions` counts them, `total` is all instances, `ratio` is
# Missing for one full clip, and `three` counts the solutions with exactly three:

# %%
sums = attainable.joint_sizes().set_index(["model", "method"])
sums[["solutions", "total_low", "total_high", "ratio_low", "ratio_high", "three"]].round(3)

# %% [markdown]
# No single number of clips prints all eight accuracies of Align. Yet all eight fit numbers within half a dozen of each
# other, each backbone the same one with and without CHASE: what one would see if each system were scored on
# slightly fewer clips than the split holds. Answers that could not be read, clips that would not open, a service that
# failed, or a split of not quite a fifth would do it; Qwen with CHASE, whose Overall needs *more* instances than a
# fifth of the clips give, does not go with it. (Nor does it go with the other reading, one mix for all.) On Conflict the ticks are too dense for a finding, on Missing more so. Two accuracies, both close to a half,
# are shares of no size near: averages over runs or over the two corpora would do that, and so would a slip; among so many
# accuracies one gap as rare as the rarer of them is only moderately surprising. MAE adds nothing: its steps are finer than its print.

# %% [markdown]
# ## 4 · Which kappas can five annotators have?
#
# Appendix A.1 gives one Fleiss' kappa for the unimodal labels of CMU-MOSI. Five votes of -1, 0 or 1 make 21 patterns,
# the mean of each falls into one class, and Table 3 says how many clips each class has. The greatest kappa
# that such votes can have is a convex program, whose bound is proved; the least is at an extreme choice of patterns,
# found by trying all. The paper does not say through which corpus's mapping the means went to
# classes, so both are tried.

# %%
kappas = kappa.kappa_ranges()
run.publish(
    figures_audit_kappa.attainable_kappa(kappas, kappa.published_kappa()),
    "audit_kappa", "Audit, kappa",
    "Fleiss' kappas that five votes a clip can have when their means fall into Table 3's CMU-MOSI "
    "classes, by modality, as the mean of three kappas, and over all votes; full bars use "
    "CMU-MOSI's mapping of means to classes, light ones CH-SIMS v2.0's. The black line is the "
    "published value, the bands are Landis and Koch's",
)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
statements = kappa.kappa_statements()
for row in statements.itertuples():
    findings.append(("4", row.whose, f"{row.statement}{f' (mapping of {row.mapping})' if row.mapping else ''}", row.holds, row.detail))
print(kappas[["modality", "mapping", "low", "high", "contains_published"]].round(3).to_string(index=False))

# %% [markdown]
# Weak classes are means of votes that differ, so kappa cannot come near 1 with these counts. The published value is
# within reach as one kappa over all votes, and votes that have it can be written down. It cannot be the kappa of each modality by
# itself under CMU-MOSI's mapping, where audio ends below it. And what a value over all says about each modality
# (`least`: proved bound; `reached`: by votes that were found; `published_is`: whether the value is one kappa over all votes
# or the mean of three):

# %%
example = kappa.witness(Corpus.CMU_MOSI)
print(f"votes that give Table 3 and a kappa of {example.kappa:.4f}; by modality", {m: round(k, 2) for m, k in example.by_modality.items()})
kappa.least_kappas().round(3).set_index(["mapping", "published_is", "modality"])

# %% [markdown]
# As a mean of three it would bound each of them well from below, as one kappa hardly at all. The example's votes are no
# guess at what the annotators did. In Landis and Koch's widely used words the published value is
# "moderate"; the paper says "substantial", which begins a step higher there. It names no scale, and the word may be
# plain English. Notebook 12 carries
# simulated annotators through the protocol to about this kappa.

# %% [markdown]
# ## 5 · Every gain that the text quotes
#
# Differences of table cells beside the numbers of the text. Those from figures alone cannot be checked here.

# %%
quoted = gains.claim_checks()
quoted.dropna(subset="holds")[["what", "quoted", "recomputed", "model", "section"]].set_index("what")

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
tabled = quoted.dropna(subset="holds")
detail = f"{int(tabled['holds'].sum())} of {len(tabled)}; {len(quoted) - len(tabled)} are in no table"
findings.append(("5", "paper", "every quoted number that has table cells equals them", bool(tabled["holds"].all()), detail))
print(fill(f"{detail} ({', '.join(quoted.loc[quoted['holds'].isna(), 'id'])})", 110))
observed = gains.observations()
for row in observed.itertuples():
    findings.append(("6" if row.id.startswith("joint_") else "5", row.whose, row.statement, row.holds, row.detail))
print(observed[["whose", "statement", "holds"]].to_string(index=False))

# %% [markdown]
# The quoted gains are right to the digit. A reader still does well to know that percent means points; that the gains on
# Conflict and on Missing, quoted side by side in the introduction, are two different backbones'; and what the other
# metrics do. That every score of Table 1 rises is a reading: its caption says that CHASE "consistently improves performance
# across both backbones", which accuracy bears out in every subset.

# %%
gains.gain_table().set_index(["model", "comparison", "subset"])[
    ["acc", "f1", "mae", "relative_acc", "detail"]
].round({"relative_acc": 1})

# %% [markdown]
# Gains are positive where the first of a comparison is better, for MAE too. The last column names what goes the other
# way than accuracy.

# %% [markdown]
# ## 6 · Table 6: two rates and their product
#
# *Recall* is the share of true conflicts that trigger steering, *top-1* the share of those that then prefer the target
# modality, *joint success* the share of true conflicts that do both. Of one sample after another, joint success is
# recall times top-1, up to rounding.

# %%
product = gains.routing_product()
run.publish(
    figures_audit_results.routing_figure(product), "audit_routing", "Audit, routing",
    "Joint success of Table 6 beside recall times top-1; rounding explains a difference of 0.0001",
)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
print(product[["split", "recall", "top1", "joint", "product", "difference", "bound", "implied_top1"]].round(4).to_string(index=False))
for row in gains.routing_sizes().itertuples():
    findings.append(("6", "reading", f"recall and joint success of {row.split} are shares of its full-modality conflicts", row.holds, row.detail))
    print(f"{row.split}: {row.detail}")

# %% [markdown]
# Joint success is above the product in both splits, by more than rounding. So the three cannot all count one sample once.
# Table 6 heads the column "Target-Modality Top-1 on Steered *Layers*": an average over layers would do it. Nor is the least
# number of samples that prints both recall and joint success near the number of full-modality conflicts:
# Missing-Conflict instances may be among them. This
# companion's Table 6 (notebook 06) reads the heading as written: recall and joint success count conflicts, top-1 counts the
# layers that are steered in them, and joint success asks where the mean gate of those layers points. So its third number is
# not the product of the other two either.

# %% [markdown]
# ## 7 · What does the collapse of PSMV owe to labels alone?
#
# Section 4.2 reads a fall of video's share of PSMV from Align to Conflict as the model's. Take a reader that knows each
# present modality's label and prefers none: it follows one at random, or answers the class nearest to their average.
# Its PSMV is linear in the joint distribution of labels, a share a ratio of two linear functions, and its range over
# *all* distributions that the tables allow a linear program (Charnes and Cooper: scale all counts so that the
# denominator is 1). In the table, in percent, `allowed` are these ranges, of readers that gain at least five points in
# all, `surrogates` what they have on this companion's surrogate labels, and `published` is the paper's, of a model.

# %%
parts = collapse.allowed(mosi_conflicts=MOSI_CONFLICTS)
shares = collapse.share_ranges(parts[-1:], least=0.05)
ours = collapse.shares_of(committed)
run.publish(
    shares_table(shares, ours), "audit_shares", "Audit, shares of readers",
    "PSMV shares (Eq. 2), in percent, that readers without preference can have over all label tables that fit the "
    "published numbers and in which they gain, those of this companion's surrogate labels, and the published "
    "shares of V, of a model",
)

# %% [markdown]
# Why a share can be anything: it is the slope of the line from the origin to a point below, and on Conflict the area of
# what labels allow reaches across zero gain. The published shares are lines; both run through both areas.

# %%
corners = [
    collapse.outline(parts[-1], reader, subset).assign(reader=reader, subset=subset)
    for reader in ("random", "average") for subset in ("align", "conflict")
]
run.publish(
    figures_audit_labels.outlines_figure(pd.concat(corners), ours),
    "audit_outlines", "Audit, gain and PSMV",
    "PSMV of V (Eq. 2) against V(TAV) - V(none) for readers without preference: areas hold all "
    "label tables that fit the published numbers; a share is a slope, lines have the published "
    "ones. Marks: the labels of this companion's surrogates",
)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
falls = collapse.falls(parts)
names = {"published": "the published fall of V's share", "none": "no fall", "rise": "a rise as large"}
for row in falls.query("corpus == 'both' and constraints == 'mix'").itertuples():
    findings.append(("7", "reading", f"labels alone, {row.reader} reader: {names[row.fall]}", row.holds, row.detail))
video = ours.query("corpus == 'both' and modality == 'V' and quantity == 'share'")
print(video.pivot(index="reader", columns="subset", values="value").round(3).to_string())
for reliability in (0.8, 0.6):
    less = collapse.shares_of(committed, reliability).query("corpus == 'both' and modality == 'V' and quantity == 'share'")
    print(f"on Conflict, where {1 - reliability:.0%} of labels are not read but guessed:", less.query("subset == 'conflict'").set_index("reader")["value"].round(3).to_dict())
print(falls.query("corpus == 'both'")[["constraints", "reader", "fall", "holds"]].to_string(index=False))

# %% [markdown]
# On the surrogates' labels, the least committal ones, readers without any preference (which read every label without
# error, or not: it hardly matters) show a steeper fall than the paper's model. Over all labels that the tables allow, they can show the published
# fall, none at all, and a rise: the tables neither force the collapse nor exclude that labels are all there is to it. A
# share of PSMV has a total in its denominator that can be near zero in conflicts, which is why its range is so
# wide. The clips' own labels decide; so a PSMV share should be read beside label-only readers, as in notebook
# 03, and together with other evidence.

# %% [markdown]
# ## 8 · Eq. 6 on long inputs
#
# Eq. 6 takes a softmax over nMAS, and nMAS is a mean of attention weights: at most one over the modality's tokens. So
# the three numbers in the exponent are small, and the softmax is close to a third each. How close is a formula
# of the shortest modality's length; beside it, the budgets that Table 7 prints and what Eq. 6 makes of them, for
# a clip of four seconds.

# %%
rates = preference.TokenRates()
tokens = {"T": 4 * rates.text, "A": 4 * rates.audio, "V": 4 * rates.video}
literal = preference.literal_budgets(tokens)
run.publish(
    figures_audit_kappa.literal_preference(preference.distance_by_length(), literal),
    "audit_preference", "Audit, preference",
    "Left: largest distance of Eq. 6's preference from uniform as inputs grow, whatever the "
    "attention, and that of the baseline budgets printed in Table 7, the layer farthest from "
    "uniform, read as shares of attention mass or of nMAS; the largest distance begins flat where text "
    "has its least, one token. Right: the budgets of Table 7 as printed, and Eq. 6's softmax of the nMAS "
    "behind them",
)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
said = preference.preference_statements()
for row in said.itertuples():
    number = row.reference if row.reference.startswith("Table") else ""
    findings.append(("8", row.whose, f"{number}: {row.statement}" if number else row.statement, row.holds, row.detail))
ratios = preference.printed_ratios()
print(f"tokens {tokens}: a preference by Eq. 6 is at most {preference.largest_distance([*tokens.values()]):.4f} from uniform (total variation)")
print(f"ratios of printed budgets {ratios['ratio'].min():.1f} to {ratios['ratio'].max():.1f}; of Eq. 6's at most {ratios['limit'].iloc[0]:.3f}, whatever the input")
for row in preference.spread_by_length([100, 1000, 16000]).itertuples():
    print(f"{row.length:>6} tokens: Eq. 11's scores of two heads differ by at most {row.spread:.4f}, in decimal {row.decimal}")

# %% [markdown]
# Tables 7 and 8 print attention budgets, not Eq. 6's preference, and no input would give Eq. 6 such inequality. So
# whoever implements Eq. 11 to 13 has to choose: the literal softmax, under which heads are ranked by differences that
# shrink as inputs grow, or a share, which is what Figures 9 and 10 seem to plot. How far each lets the bias on video
# go, for the printed budgets (`share`: video's preference; `bias`: largest $b_V$ at p = 1; `factor`: $e^{\gamma
# b_V}$, by which the weight of a video token grows before normalisation):

# %%
biases = preference.bias_bounds(tokens)
biases.groupby(["table", "preference"])[["share", "bias", "factor"]].agg(["min", "max"]).round(3)

# %% [markdown]
# So as printed what is added to a score, $\gamma b$, is bounded whatever the attention: on modalities that the gate
# gives up it is $\gamma\log(1-\eta)$, on the one that it trusts a little more than $\gamma\log(1-\eta+3\eta)$ where
# three are present. With shares the latter has no bound. Do the budgets of Tables 7 and 8 tell which was used? Their
# largest rise of video beside the most that Eq. 12 and 13 allow with K = 4 of 28 heads, in points: under the softmax
# if all heads were *alike*, each with the printed baseline, and whatever the heads; under shares, whatever the heads.
# (`odds` is what the softmax multiplies V's odds by in a steered head.)

# %%
moves = preference.move_bounds(tokens, heads=28).set_index("table")
moves.assign(**(100 * moves.drop(columns="odds"))).round(1)

# %% [markdown]
# They do not tell: the printed rises, of at most 5 points, stay below what the softmax allows, so nothing in them asks
# for shares. But they are more than heads that are alike could do, about as much in Table 7 and five times in Table 8: there
# the steered heads must look at video far more than the mean head does, or the rest comes from Eq. 14, which
# lifts video tokens as well, and from earlier layers.
#
# The library offers both, `preference="softmax"` and `"share"`; notebook 08 measures them.
#
# Table 8's words fit its numbers. Of Table 7's interpretation, that the baseline "increasingly concentrates attention
# on audio at late layers", the printed shares of five layers support a part: audio's share is higher in the last two
# on average; it falls to layer 21, is highest in layer 26 and low again in layer 28; CHASE raises it in every layer
# shown.

# %%
said.loc[said["reference"].str.startswith("Table 7"), ["statement", "holds", "detail"]].set_index("statement")

# %% [markdown]
# ## 9 · What the size of the test set leaves to chance
#
# An accuracy on n clips has a sampling error; a difference of two systems on the *same* clips has a smaller one, which
# depends on how many clips they disagree about. The tables do not say. Two accuracies bound it, though: at best the
# better system loses no clip that the other has right, at worst they hardly overlap. Thick bars are the first case,
# thin ones the second; the truth is in between.

# %%
bounds = sampling.difference_bounds()
run.publish(
    figures_audit_results.differences_figure(bounds[bounds["kind"] != "systems"]),
    "audit_differences", "Audit, differences",
    "Differences of accuracy in Tables 1 and 2 with 95% intervals at the implied sizes: thick "
    "where the two systems differ on as few instances as their accuracies allow, thin on as many. "
    "Hollow marks count a clip once",
)

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
shown = bounds[bounds["kind"] != "systems"]
print(shown[["comparison", "subset", "counted", "n", "difference", "critical", "verdict"]].round(2).to_string(index=False))
for kind, rows in shown.groupby("kind"):
    for word, part in rows.groupby("verdict"):
        names = "; ".join(f"{r.comparison} {r.subset}" + (" (by clips)" if r.counted == "clips" else "") for r in part.itertuples())
        holds = {sampling.EXCEEDS: True, sampling.WITHIN: False}.get(word, pd.NA)
        findings.append(("9", "reading", f"{len(part)} of {len(rows)} differences ({kind}) exceed sampling error", holds, names))

# %% [markdown]
# `critical` is the share (percent) of clips or instances, as `counted` says, that may change between right and wrong,
# either way, before the difference can no longer be told from zero; the more a method changes answers, the harder
# that is to stay below. Mean widths of the 95% intervals of single accuracies, for scale:

# %%
intervals = sampling.accuracy_intervals()
intervals.query("counted == 'instances'").assign(
    width=lambda f: f["high"] - f["low"]
).groupby("subset")[["n", "width"]].mean().round(1)

# %% [markdown]
# The gains on Overall and Missing exceed chance under any pairing if instances count as independent; the four of one clip
# are not, and counted by clips they do so while no more than half to three quarters of the clips change. On Conflict the
# limit is about a third of them; for the intra-modality bias it is a handful of clips gained and none lost. The
# gains on Align, a few clips, do not exceed chance even at best. Nothing is corrected for the number of comparisons. One file with
# every answer would settle all of this; F1 and MAE cannot be treated at all without it.

# %% [markdown]
# ## All findings
#
# *fits*: the printed numbers allow it, or make it so; *does not fit*: they exclude it, beyond rounding; *open*: they leave
# it. `whose` is `paper` for what the paper says, `reading` for what one may read into it: a reading that does not
# fit is no error of the paper's.

# %%
names = {
    "1": "1 joint labels", "2": "2 conflict", "3": "3 mix and sizes", "4": "4 kappa", "5": "5 gains",
    "6": "6 Table 6", "7": "7 PSMV of labels", "8": "8 Eq. 6 and budgets", "9": "9 sampling error",
}
table = pd.DataFrame(findings, columns=["audit", "whose", "statement", "says", "detail"])
says = table["says"].map(lambda holds: "open" if pd.isna(holds) else "fits" if holds else "does not fit")
table = table.assign(audit=table["audit"].map(names), says=says).sort_values("audit", kind="stable")
run.publish(
    table, "audit_findings", "All findings",
    "Statements of the paper, and readings of it, that its own tables can test",
    note="Printed tables alone: nothing was asked of a model.", of=table,
)
counts = pd.crosstab(table["whose"], table["says"], margins=True, margins_name="all").stack().rename("value")
run.record(counts.reset_index(), "findings", by=["whose", "says"], clips=False, relative=0.0)
table[["audit", "whose", "statement", "says"]].set_index("audit")

# %% jupyter={"source_hidden": true} tags=["nbval-check-output"]
own = table[table["whose"] == "paper"]
print(f"of {len(own)} statements of the paper: {own['says'].value_counts().to_dict()}")
print(own.loc[own["says"] == "does not fit", ["audit", "statement"]].to_string(index=False))

# %% [markdown]
# **What came out.** Nearly all direct checks of printed numbers hold. Labels for Tables 3 and 4 exist, and leave open
# how they go together. The kappa is attainable, though not in every modality under CMU-MOSI's mapping. The quoted
# gains are what the tables say; those on Overall and Missing exceed sampling error most safely, those on Conflict
# unless very many answers change, those on Align do not. Three rates of Table 6 cannot all count one sample once. The
# fall of video's PSMV share is neither forced nor excluded by labels alone, and Eq. 6's softmax is nearly uniform on
# inputs of realistic length.
#
# **What not to conclude.** A number that does not fit need not be wrong: unprinted choices may explain it,
# and only the authors know which. A statement that fits is not thereby true of models or people. Nothing here
# says anything about this companion's models.
#
# Next: [11 · Steering explorer](11_steering_explorer.ipynb), the method by hand; [12 ·
# Annotation](12_annotation.ipynb), how the unimodal labels of CMU-MOSI are made.
