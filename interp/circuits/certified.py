"""The truth of a trained model, from its certificate, in the form that verdicts are given against."""

from interp.circuits.names import Shape
from interp.circuits.truth import Evidence, Truth
from interp.models.trained import Trained


def certified(model: Trained) -> Truth:
    """The circuit of a trained model under resampling; raises InputError when it is not certified."""
    edges, known, sizes = model.edges(), model.certificate, model.network.sizes
    return Truth(
        circuit=model.name,
        variant="resample",
        about=model.program.about,
        shape=Shape(sizes.n_layers, sizes.n_heads, sizes.n_heads),
        edges=edges,
        direct=frozenset(),
        listed=frozenset(),
        alternatives=(),
        ablations=("resample",),
        condition=f"prompts of the program {model.program.name}, each resampled from another one, read after the last token",
        positions={},
        classes={},
        evidence=Evidence(
            "measured",
            f"on {known.n} prompts accuracy is {known.whole:.3f}, {min(known.outside.values()):.3f} or more with any other edge resampled, "
            f"{known.joint:.3f} with all of them, and falls by {min(known.damage.values()):.3f} or more with an edge of the circuit",
        ),
        sources=({"made by": "interp.models.trained", "weights": known.revision},),
        notes=(),
    )
