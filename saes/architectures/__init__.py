"""The architectures. To add one: its file, its name in the union."""

from typing import get_args

from saes.architectures.batch_topk import BatchTopK
from saes.architectures.codebook import Codebook, CodebookDictionary
from saes.architectures.cross_layer import CrossLayer, CrossLayerDictionary
from saes.architectures.crosscoder import Crosscoder
from saes.architectures.discrete import Discrete
from saes.architectures.gated import Gated
from saes.architectures.jumprelu import JumpRelu
from saes.architectures.matryoshka import Matryoshka
from saes.architectures.relu import Relu
from saes.architectures.topk import TopK
from saes.sparse import SparseDictionary

Architecture = TopK | BatchTopK | JumpRelu | Matryoshka | Relu | Gated | Codebook | Crosscoder | CrossLayer | Discrete
ARCHITECTURES: dict[str, type[Architecture]] = {kind.__name__: kind for kind in get_args(Architecture)}
"""Name to class, derived from the union."""

Module = SparseDictionary | CodebookDictionary | CrossLayerDictionary
MODULES: dict[str, type[Module]] = {kind.__name__: kind for kind in get_args(Module)}
"""What architectures build, by name: what a saved dictionary says."""
