"""Metrics of predictions and of what decides them: Eq. 1-5, Sec. 4.1 and 6.1, Appendix B.

Each module has one subject: ``scores`` (agreement, accuracies, F1, MAE), ``bootstrap``
(intervals), ``psmv``, ``gtar``, ``nmas`` (the three metrics of Sec. 4.1), ``reference`` (their
baselines without a preference), ``paired`` (two ways of answering), ``routing`` (Table 6) and
``fleiss`` (kappa of annotators). PSMV, GTAR and the reference strategies work on *outcomes*: one
row a scored clip and coalition, with ``sample_id, corpus, subset`` (of the whole clip),
``coalition, label_gt, label_t, label_a, label_v``, ``right`` and ``right_polarity`` in [0, 1].
"""
