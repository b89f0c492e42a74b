"""``emomm``, the study from a shell: one module a command, each of which gives an ``Outcome``."""
