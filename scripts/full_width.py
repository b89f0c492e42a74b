"""Takes a checkpoint as wide as Qwen2.5-Omni-7B, and hardly any layers, through the study's path.

usage: python scripts/full_width.py [--layers N] [--narrowed PARTS] [--dtype NAME] [--device NAME]

The checkpoint has the published format and vocabulary, the 7B's widths and heads, random weights
in bfloat16, and --layers layers (default: 1) in the decoder and one in each tower. It is written to
a temporary folder, which needs 4 GB, and 0.5 GB more for each further layer; memory is 10 GB at most. Then one clip goes
through all that the study asks of a model, at the paper profile's settings of media: loading,
encoding, answering, recording attention and states, importance by gradients, steering and replay.
Printed is what each step took, and the most memory so far; at the end, what is checked of the
answers, which the tests check of a quarter of the widths (--narrowed 4).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tests import full_width, published_omni  # noqa: E402


def main() -> None:
    """Run it, and say what each step took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=1, help="of the decoder")
    parser.add_argument("--narrowed", type=int, default=1, help="1, 2 or 4: one part of all widths")
    parser.add_argument("--dtype", default="float32", help="to compute with; bfloat16 for a GPU")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    sizes = replace(published_omni.SEVEN_B.narrowed(options.narrowed), layers=options.layers)
    with tempfile.TemporaryDirectory() as folder:
        went = full_width.go_through(
            sizes, Path(folder), dtype=options.dtype, device=options.device, say=print
        )
        full_width.check(went, sizes)
    print(f"As expected of {sizes}.")


if __name__ == "__main__":
    main()
