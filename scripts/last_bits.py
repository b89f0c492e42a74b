"""The last bits of this machine's arithmetic: letter logits of Omni-mini and a product by NumPy.

Prints them as hexadecimal floats. With ``--beside <those of another run>`` it says how far they
are apart and exits with 3 where the logits do not differ at all.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import torch

from emomm_study.paths import ROOT
from emomm_study.systems.interface import Encoded, Query
from emomm_study.systems.omni import OmniModel


def computed() -> dict[str, list[float]]:
    """Numbers that hang on the order in which sums are taken, all of the same inputs."""
    rng = np.random.default_rng(0)
    model = OmniModel.load(ROOT / "data" / "omni-mini", dtype="float32")
    nothing = Encoded(None, None, None, None)
    words = ["What a day", "I do not know what to say about it, and that is how it ends"]
    queries = [Query(nothing, "T", "cmu_mosi", text) for text in words]
    product = rng.normal(size=(64, 512)) @ rng.normal(size=(512, 8))
    return {
        "letter logits": model.answer(queries).letter_logits.astype(float).ravel().tolist(),
        "a product by NumPy": product.ravel().tolist(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beside", metavar="NUMBERS", help="what another run printed")
    options = parser.parse_args()
    now = computed()
    if options.beside is None:
        print(json.dumps({name: [x.hex() for x in values] for name, values in now.items()}))
        return 0
    before = {k: [*map(float.fromhex, v)] for k, v in json.loads(options.beside).items()}
    apart = {k: np.abs(np.subtract(now[k], before[k])).max() for k in now}
    for name, most in apart.items():
        print(f"{name}: {'the same bits' if most == 0 else f'up to {most:.1e} apart'}")
    print(f"kernels of PyTorch: {torch.backends.cpu.get_cpu_capability()}")
    return 0 if apart["letter logits"] > 0 else 3


if __name__ == "__main__":
    sys.exit(main())
