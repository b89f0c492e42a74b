"""CHASE (Sec. 5, Appendix D): route, steer, and replay.

``targets`` and ``router`` say whom to trust, ``steering`` how much to add where (tensors alone),
``steer`` brings both into a running model, ``saliency`` finds significant visual tokens, ``replay``
tries any number of configurations on one prefill, ``training`` fits a router on cached features.
"""

import emomm_lib._torchvision  # noqa: F401
