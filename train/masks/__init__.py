"""Masks: N:M zeros that are kept, or chosen anew, while a network is finetuned.

In: a task, patterns. Out: a task under masks. Uses `ofa.train.tasks`.
"""

from ofa.train.masks.masking import Masked, Masking

__all__ = [
    "Masked",
    "Masking",
]
