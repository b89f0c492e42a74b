"""``python -m emomm_study.command``: the same as ``emomm``."""

import sys

from emomm_study.command.main import main

sys.exit(main())
