"""The annotation panel: one modality of one clip at a time, judged by keyboard (Appendix A.2)."""

from emomm_study.report.annotating.guideline import CONFIDENTIAL, GUIDELINE, NAMES
from emomm_study.report.annotating.panel import AnnotationPanel, annotate

__all__ = ["CONFIDENTIAL", "GUIDELINE", "NAMES", "AnnotationPanel", "annotate"]
