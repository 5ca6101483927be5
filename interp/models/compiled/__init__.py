"""Ground truth: transformers compiled from programs and logic gates, whose circuits are certified edge by edge."""

from interp.models.compiled.gates import GATES, Gate, gate
from interp.models.compiled.model import Compiled, compile
from interp.models.compiled.programs import PROGRAMS, program
from interp.models.compiled.rasp import Program
from interp.models.compiled.truth import Truth, certify
from interp.models.compiled.units import Weights

__all__ = ["GATES", "PROGRAMS", "Compiled", "Gate", "Program", "Truth", "Weights", "certify", "compile", "gate", "program"]
