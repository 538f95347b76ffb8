"""Training: data, backbones, distillation, the sandwich rule, recipes, checkpoints, tracking."""

from ofa.train.backbones import create
from ofa.train.data import Digits, FashionMNIST, ImageFolder
from ofa.train.fitting import Fitting
from ofa.train.recipe import Recipe
from ofa.train.sampling import SandwichRule
from ofa.train.sandwich import Sandwich
from ofa.train.tasks import Supervised, evaluate
from ofa.train.tracking import Tracker
from ofa.train.training import fit

__all__ = [
    "Digits",
    "FashionMNIST",
    "Fitting",
    "ImageFolder",
    "Recipe",
    "Sandwich",
    "SandwichRule",
    "Supervised",
    "Tracker",
    "create",
    "evaluate",
    "fit",
]
