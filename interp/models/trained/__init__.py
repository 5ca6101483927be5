"""Ground truth with learned weights: small transformers trained to be a program edge by edge, each with a certificate of its circuit."""

from interp.models.trained.certificate import Certificate, Limits, certify
from interp.models.trained.losses import Siit, Weights
from interp.models.trained.model import Recipe, Trained, cached, load, save, train, trained, training
from interp.models.trained.network import Network, Sizes
from interp.models.trained.programs import PROGRAMS, Program, program

__all__ = [
    "PROGRAMS", "Certificate", "Limits", "Network", "Program", "Recipe", "Siit", "Sizes", "Trained", "Weights", "cached", "certify",
    "load", "program", "save", "train", "trained", "training",
]  # fmt: skip
