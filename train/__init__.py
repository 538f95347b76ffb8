"""Training: data, backbones, distillation, the sandwich rule, recipes, checkpoints, tracking."""

from train.backbones import create
from train.data import Digits, FashionMNIST, ImageFolder
from train.evaluation import evaluate
from train.fitting import Fitting, fit
from train.lesson import Supervised
from train.progress import Progress
from train.recipe import Recipe
from train.sandwich import Sandwich, SandwichRule
from train.tracking import Tracker

__all__ = [
    "Digits",
    "FashionMNIST",
    "Fitting",
    "ImageFolder",
    "Progress",
    "Recipe",
    "Sandwich",
    "SandwichRule",
    "Supervised",
    "Tracker",
    "create",
    "evaluate",
    "fit",
]
