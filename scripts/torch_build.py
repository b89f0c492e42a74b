"""Which build of PyTorch the package index serves: prints how many GB of disk the packages need.

Where it is one with CUDA, standard error says what that means before anything is downloaded. Run
by the interpreter of the environment that is to be filled, in which only pip is there.
"""

import json
import subprocess
import sys
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

CPU_GB, CUDA_GB = 3, 7
LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"


def brings_cuda(report: dict) -> bool:
    """Whether what pip would install needs NVIDIA's libraries on this machine."""
    needs = [
        Requirement(line)
        for package in report["install"]
        for line in package["metadata"].get("requires_dist", [])
    ]
    return any(
        need.name.startswith(("nvidia-", "cuda-"))
        and (need.marker is None or need.marker.evaluate({"extra": ""}))
        for need in needs
    )


def pip_report(pin: str) -> dict:
    """What pip would install for a pin alone; nothing where it finds none."""
    asked = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--no-input"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *asked, "--disable-pip-version-check", "--report", "-", pin],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout else {"install": []}


def main() -> int:
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    [pin] = [line for line in lines if line.startswith("torch==")]
    cuda = brings_cuda(pip_report(pin))
    if cuda:
        print(
            f"The package index serves {pin} with CUDA: about 3 GB to download and {CUDA_GB} GB of "
            "disk in all. Without a GPU of NVIDIA's point pip at PyTorch's index of CPU builds "
            f"first (pip config set global.index-url ...): {CPU_GB} GB.",
            file=sys.stderr,
        )
    print(CUDA_GB if cuda else CPU_GB)
    return 0


if __name__ == "__main__":
    sys.exit(main())
