"""Exits 0 when this interpreter's environment can run the project, 1 with the reason when not.

It can when every pin of requirements.lock is satisfied, or when emomm-lib is installed in it (the
versions are then its owner's choice, and differences are only reported).
"""

import importlib.metadata
import sys
from pathlib import Path


def unsatisfied(lock: Path) -> list[str]:
    """Pins that apply to this platform and that the environment does not satisfy."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    installed = {canonicalize_name(d.name): d.version for d in importlib.metadata.distributions()}
    problems = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker and not pin.marker.evaluate():
            continue
        version = installed.get(canonicalize_name(pin.name))
        if version is None or not pin.specifier.contains(version, prereleases=True):
            problems.append(f"{pin.name}{pin.specifier} (here: {version or 'missing'})")
    return problems


def main() -> int:
    lock = Path(__file__).resolve().parents[1] / "requirements.lock"
    try:
        problems = unsatisfied(lock)
    except ImportError:
        print("the package 'packaging' is missing")
        return 1
    if not problems:
        return 0
    shown = ", ".join(problems[:3]) + (", ..." if len(problems) > 3 else "")
    print(f"{len(problems)} pins of requirements.lock are not met: {shown}")
    try:
        importlib.metadata.distribution("emomm-lib")
    except importlib.metadata.PackageNotFoundError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
