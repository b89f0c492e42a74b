"""The workshop of the EmoMM / CHASE companion: what its notebooks use to run the study."""

from emomm_study import environment as _environment

# Before any library that keeps a cache is imported.
_environment.prepare()
