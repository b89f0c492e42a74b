"""Model adapters. Importing any of them makes torchvision importable first."""

from emomm_lib.models._torchvision import ensure_importable

ensure_importable()
