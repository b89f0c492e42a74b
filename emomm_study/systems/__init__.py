"""Model adapters. Importing any of them makes torchvision importable first."""

import emomm_lib._torchvision  # noqa: F401
