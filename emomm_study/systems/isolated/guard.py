"""Ends a driver's processes when the harness is gone, however it went.

usage: python guard.py, with the number of the driver's process group as the first line of standard
input, whose other end the harness holds until it is gone or has ended this process itself.
"""

import os
import signal
import sys


def main() -> None:
    group = sys.stdin.readline()
    sys.stdin.read()
    if group.strip():
        try:
            os.killpg(int(group), signal.SIGKILL)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    main()
