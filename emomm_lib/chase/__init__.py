"""CHASE (Sec. 5, Appendix D): ``router`` and ``targets`` say whom to trust, ``equations`` how much to
add where (tensors alone), ``steer`` brings both into a running model or a replay, ``saliency`` finds
significant visual tokens, ``training`` fits a router on recorded states.
"""

import emomm_lib._torchvision  # noqa: F401
