"""``python -m emomm_lib``: what a shell exports before it runs the project."""

import sys

from emomm_lib.environment import main

sys.exit(main())
