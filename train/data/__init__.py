"""Data: sets of pictures as three splits, and how batches of them are drawn and changed.

In: names and paths. Out: `Splits` (train, validation, test). Uses `ofa.train.collection`.
"""

from ofa.train.data.augmentation import Mixing
from ofa.train.data.datasets import Digits, FashionMNIST, in_memory
from ofa.train.data.pictures import ImageFolder, Pictures
from ofa.train.data.preprocessing import Preprocessing
from ofa.train.data.splits import DataSet, Splits, contents

__all__ = [
    "DataSet",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "Mixing",
    "Pictures",
    "Preprocessing",
    "Splits",
    "contents",
    "in_memory",
]
