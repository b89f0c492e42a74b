"""The small models' making and training. Importing any of it makes torchvision importable first."""

import emomm_lib._torchvision  # noqa: F401
