"""One progress bar for all long work: rate and remaining time; in a log file a line every ten seconds."""

import sys
from typing import NoReturn

from tqdm import tqdm


def bar(total: int, unit: str, label: str, initial: int = 0) -> "tqdm[NoReturn]":
    """A bar to be used as a context manager, advanced by `.update(n)`, annotated by `.set_postfix_str(text)`."""
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=f" {unit}",
        desc=label,
        initial=initial,
        unit_scale=True,
        dynamic_ncols=live,
        mininterval=0.2 if live else 10,
        smoothing=0.1,
        leave=live,
    )
