"""What annotators are told, after the guideline of Appendix A.2."""

from __future__ import annotations

NAMES = {"T": "Text", "A": "Audio", "V": "Video"}
GUIDELINE = {
    "T": "Judge by the words alone: what they say and how it is worded. Translate what you do not "
    "fully understand, without sending it anywhere.",
    "A": "Judge by how it is spoken: intonation, loudness, tempo, manner of speaking. Do not take "
    "what is said as your main cue.",
    "V": "Judge by what you see alone: facial expression, gestures, visible actions. The film has "
    "no sound.",
}
ONE_PASS = (
    "Complete one modality before the next: all texts, then all sounds, then all films. Nothing "
    "of a clip is shown but the modality that you judge."
)
CONFIDENTIAL = (
    "Clips and texts are confidential: do not pass them on or copy them out of this workspace, and "
    "do not try to find out who is seen or heard."
)
CALIBRATING = (
    "Calibration round: after each answer you see the reference label. These answers are not "
    "counted."
)
