"""Training: data, backbones, distillation, the sandwich rule, recipes, checkpoints, tracking."""

from train.backbones import create
from train.data import Digits, FashionMNIST
from train.evaluation import evaluate
from train.fitting import Fitting
from train.lesson import Supervised
from train.pictures import ImageFolder
from train.recipe import Recipe
from train.rules import SandwichRule
from train.sandwich import Sandwich
from train.tracking import Tracker
from train.training import fit

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
