"""The one place that touches a model's attention: record it, and change it.

The decoder's attention function is exchanged, by transformers' public interfaces, for one that
also knows the single row that decides: that of the decision query, the last position of the
prompt. Nothing of size queries x keys is made.

``hook`` exchanges, ``rows`` computes (tensors alone), ``trace`` records and steers a forward pass
(:func:`record`), ``replay`` repeats the decision token alone on a cached prompt.
"""

import emomm_lib._torchvision  # noqa: F401

# isort: split
from emomm_lib.attention.hook import decoder_attention
from emomm_lib.attention.record import Trace, modality_ids, record
from emomm_lib.attention.replay import Replayed, check_replayable, replay_decision
from emomm_lib.attention.rows import OTHER, Bias, DecisionRow, Intervention, decision_scores

__all__ = [
    "OTHER",
    "Bias",
    "DecisionRow",
    "Intervention",
    "Replayed",
    "Trace",
    "check_replayable",
    "decision_scores",
    "decoder_attention",
    "modality_ids",
    "record",
    "replay_decision",
]
