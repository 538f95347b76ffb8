"""Masks: N:M zeros that are kept, or chosen anew, while a network is finetuned.

In: a learner, patterns. Out: a learner under masks. Uses `ofa.train.tasks`.
"""

from ofa.train.masks.masking import Masked, Masking
from ofa.train.masks.updates import SRSTE, Fixed, Magnitude, MaskUpdate

__all__ = [
    "SRSTE",
    "Fixed",
    "Magnitude",
    "MaskUpdate",
    "Masked",
    "Masking",
]
