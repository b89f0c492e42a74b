"""Metrics of predictions and of what decides them: Eq. 1-5, Sec. 4.1 and 6.1, Appendix B.

Each module has one subject: ``scores`` (agreement, accuracies, F1, MAE), ``bootstrap``
(intervals), ``psmv``, ``gtar``, ``nmas`` (the three metrics of Sec. 4.1), ``pairs`` (who wins when
two modalities disagree), ``reference`` (baselines without a preference), ``paired`` (two ways of
answering), ``routing`` (Table 6), ``fleiss`` (kappa). PSMV, GTAR, pairs and reference strategies
work on *outcomes*: one row a scored clip and coalition, with ``sample_id, corpus, subset`` (of the
whole clip), ``coalition``, the four labels, ``right`` and ``right_polarity`` in [0, 1].
"""
