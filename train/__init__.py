"""Training: data, backbones, distillation, the sandwich rule, recipes, checkpoints, tracking."""

from train.backbones import create
from train.cifar import CIFAR
from train.data import Digits, FashionMNIST
from train.evaluation import evaluate
from train.fitting import Fitting
from train.lesson import Step, Supervised
from train.pictures import ImageFolder, TimmDataset
from train.progress import Progress
from train.recipe import Recipe
from train.rules import SandwichRule
from train.sandwich import Sandwich
from train.tracking import Tracker
from train.training import fit

__all__ = [
    "CIFAR",
    "Digits",
    "FashionMNIST",
    "Fitting",
    "ImageFolder",
    "Progress",
    "Recipe",
    "Sandwich",
    "SandwichRule",
    "Step",
    "Supervised",
    "TimmDataset",
    "Tracker",
    "create",
    "evaluate",
    "fit",
]
