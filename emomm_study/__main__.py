"""``python -m emomm_study``: what a shell exports before it runs the project."""

import sys

from emomm_study.environment import main

sys.exit(main())
