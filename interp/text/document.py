"""What every corpus yields."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One piece of text and where it comes from, for example `torch/nn/modules/linear.py:53` or `stories.jsonl:12`."""

    text: str
    source: str
