"""How methods are compared: tuned on validation with one budget, scored on test once, cross-fitted.

``fit`` and ``cross_fit`` train routers, ``study`` holds an experiment's splits and routers, ``tune``
chooses configurations, ``choices`` keeps them, ``score`` measures.
"""

from emomm_study.evaluate.protocol.choices import (
    Choice,
    earlier_configs,
    read_choices,
    write_choices,
)
from emomm_study.evaluate.protocol.score import (
    baseline,
    cross_fitted,
    on_test,
    read_otherwise,
    swept,
    validated,
)
from emomm_study.evaluate.protocol.study import EMBEDDED, LINEAR, PUBLISHED, Study
from emomm_study.evaluate.protocol.tune import (
    BASELINE,
    Candidate,
    fractions,
    profiled_heads,
    search,
    tuned,
)

__all__ = [
    "BASELINE",
    "EMBEDDED",
    "LINEAR",
    "PUBLISHED",
    "Candidate",
    "Choice",
    "Study",
    "baseline",
    "cross_fitted",
    "earlier_configs",
    "fractions",
    "on_test",
    "profiled_heads",
    "read_choices",
    "read_otherwise",
    "search",
    "swept",
    "tuned",
    "validated",
    "write_choices",
]
