"""The architectures. To add one: its file, its name in the union."""

from typing import get_args

from saes.architectures.topk import TopK

Architecture = TopK
ARCHITECTURES: dict[str, type[Architecture]] = {kind.__name__: kind for kind in get_args(Architecture) or (Architecture,)}
"""Name to class, derived from the union."""
