"""The names a notebook needs; each is imported when it is first used, so that `import interp` stays light.

from interp import Site, load, record
"""

import importlib
from typing import Any

_HOME = {
    "Site": "interp.sites", "Node": "interp.sites",
    "load": "interp.models", "Model": "interp.models",
    "record": "interp.hooks", "patched": "interp.hooks", "spliced": "interp.hooks",
    "Run": "interp.runs", "open_run": "interp.runs", "list_runs": "interp.runs",
    "Store": "interp.store", "Context": "interp.stages.base", "execute": "interp.stages.base",
}  # fmt: skip
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'interp' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)
