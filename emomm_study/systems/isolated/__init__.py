"""Systems that answer in a second process, which has an environment of its own."""

from emomm_study.systems.isolated.system import IsolatedSystem

__all__ = ["IsolatedSystem"]
