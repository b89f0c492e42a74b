"""The one place that touches a model's attention: record it, and change it.

The decoder's attention function is exchanged, by transformers' public interfaces, for one that
also knows the single row that decides: that of the decision query, the last position of the
prompt. Nothing of size queries x keys is made.

``hook`` exchanges, ``rows`` computes (tensors alone), ``record`` records and steers a forward pass,
``replay`` repeats the decision token alone on a cached prompt.
"""

import emomm_lib._torchvision  # noqa: F401
