"""A trained model with its certificate: how it is made, kept, read back, and the ordinary `Model` of it.

    <cache>/trained-<program>-<hash8>/    recipe.json  certificate.json  weights.safetensors

The same recipe gives the same bits on a CPU (one thread is used, whatever torch is set to), so a folder that is lost is made again.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp.models.bridge import Model, boot_native
from interp.models.packaged import cache_folder
from interp.models.trained.certificate import Certificate, Limits, certify
from interp.models.trained.losses import Siit, Weights
from interp.models.trained.network import EPS, Network, Sizes
from interp.models.trained.programs import Edge, Program, program
from saes.errors import InputError
from saes.schedule import FitConfig
from saes.train import Row, fit

SCHEMA = 1
RECIPE, CERTIFICATE, WEIGHTS = "recipe.json", "certificate.json", "weights.safetensors"


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights."""

    program: str
    seed: int = 0
    d_model: int = 48
    d_mlp: int = 96
    batch_size: int = 64
    """Prompts of a step; three times as many more run with cut edges."""
    lr: float = 2e-3
    steps: int = 1500
    """At most, and as many at most for the circuit alone, which is trained before the rest is let in."""
    check_every: int = 100
    """Training stops at the first certificate, looked for so often."""
    spare: int = 100
    """Steps that follow the first certificate, while the rate falls to 0: they widen the distance between circuit and rest."""
    weights: Weights = field(default_factory=Weights)
    limits: Limits = field(default_factory=Limits)

    def network(self) -> Network:
        """Untrained."""
        of = program(self.program)
        return Network(Sizes(of.n_layers, len(of.words), of.n_pos, d_model=self.d_model, d_mlp=self.d_mlp), self.seed)


@dataclass(frozen=True, eq=False)
class Trained:
    """A transformer that was trained to be a program, edge by edge."""

    recipe: Recipe
    network: Network = field(repr=False)
    certificate: Certificate = field(repr=False)

    @property
    def name(self) -> str:
        return f"trained/{self.recipe.program}"

    @property
    def program(self) -> Program:
        return program(self.recipe.program)

    def edges(self) -> frozenset[Edge]:
        """The circuit under resampling; raises InputError when it is not certified."""
        self.certificate.require()
        return frozenset(self.program.edges)

    def model(self, dtype: torch.dtype = torch.float32) -> Model:
        """The weights as an ordinary model."""
        s = self.network.sizes
        config = {
            "d_model": s.d_model, "d_head": s.d_head, "n_layers": s.n_layers, "n_heads": s.n_heads, "d_mlp": s.d_mlp,
            "d_vocab": s.d_vocab, "n_ctx": s.n_pos, "act_fn": "gelu", "normalization_type": "LN", "eps": EPS,
            "attention_dir": "causal",
        }  # fmt: skip
        return boot_native(self.name, self.certificate.revision, config, self.network.native(), self.tokenizer(), dtype)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One token per word between blanks."""
        words = {word: i for i, word in enumerate(self.program.words)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="BOS"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="BOS", unk_token="BOS")


def trained(name: str, seed: int = 0) -> Trained:
    """The model of that program, from the cache directory; trained on first use, about a minute. Raises InputError for an unknown name."""
    return cached(Recipe(program(name).name, seed))


def cached(recipe: Recipe) -> Trained:
    """The model of a recipe, from the cache directory, or trained and kept there, its certificate passed or not."""
    digest = hashlib.sha256(json.dumps([SCHEMA, asdict(recipe)], sort_keys=True).encode()).hexdigest()[:8]
    folder = cache_folder() / f"trained-{recipe.program}-{digest}"
    if (folder / CERTIFICATE).exists():
        return load(folder)
    made = train(recipe)
    save(made, folder)
    return made


def train(recipe: Recipe) -> Trained:
    """Train until the circuit is certified, or the steps are used up; the certificate says which."""
    network = recipe.network()
    with _one_thread():
        for _ in training(recipe, network):
            pass
        return Trained(recipe, network, certify(network, program(recipe.program), revision(network), limits=recipe.limits))


def training(recipe: Recipe, network: Network) -> Iterator[Row]:
    """Rows of `fit`, which trains the network in place: the circuit alone, then all of it until the circuit is certified, then the rest.

    Trained all at once, behaviour is learned in some fifty steps through whatever edges are there, and strictness takes them away one by
    one without the circuit ever getting off the ground.
    """
    of, share = program(recipe.program), recipe.limits.accuracy
    weights = dataclasses.replace(recipe.weights, behaviour=0.0, strict_node=0.0)
    for row in _stage(recipe, network, 0, Siit(of, network.sizes, weights, alone=True)):
        yield row
        if min(row.metrics["strict_edge_accuracy"], row.metrics["interchange_accuracy"]) >= share:
            break
    whole = Siit(of, network.sizes, recipe.weights)
    for row in _stage(recipe, network, 1, whole):
        yield row
        passed = min(value for name, value in row.metrics.items() if name.endswith("_accuracy")) >= share
        if passed and not certify(network, of, "", limits=recipe.limits).failures():
            break
    if recipe.spare:
        yield from _stage(recipe, network, 2, whole)


def _stage(recipe: Recipe, network: Network, stage: int, loss: Siit) -> Iterator[Row]:
    """The last stage is short, and its rate falls to 0."""
    last = stage == 2
    config = FitConfig(
        recipe.spare if last else recipe.steps, recipe.batch_size, lr=recipe.lr / 2 if last else recipe.lr,
        warmup=0 if last else min(50, recipe.steps), decay=1.0 if last else 0.0, betas=(0.9, 0.99), precision="float32",
        log_every=recipe.check_every, seed=recipe.seed,
    )  # fmt: skip
    return fit(network, _batches(recipe, stage), loss, config)


def _batches(recipe: Recipe, stage: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Prompts without end, as the floats that `fit` hands on."""
    rng = torch.Generator().manual_seed(3 * recipe.seed + stage)
    while True:
        tokens = program(recipe.program).draw(recipe.batch_size, rng).float()
        yield tokens, tokens


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over threads differ in their last bits with the number of threads; matrices this small gain nothing from more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def revision(network: Network) -> str:
    """A hash of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def save(made: Trained, folder: Path) -> None:
    """Write aside, then rename the folder: two processes at once do no harm."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        save_file({name: value.contiguous() for name, value in made.network.state_dict().items()}, aside / WEIGHTS)
        (aside / RECIPE).write_text(json.dumps({"schema": SCHEMA, **asdict(made.recipe)}, indent=1))
        (aside / CERTIFICATE).write_text(json.dumps(asdict(made.certificate), indent=1))
        if not folder.exists():
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load(folder: Path) -> Trained:
    """Read a folder back; raises InputError for one that holds none, or whose certificate is of other weights."""
    try:
        fields, found = json.loads((folder / RECIPE).read_text()), json.loads((folder / CERTIFICATE).read_text())
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder} holds no trained model ({error}); delete it and load the model by its name again") from error
    if fields.pop("schema", None) != SCHEMA:
        raise InputError(f"{folder} was written by another version; delete it and load the model by its name again")
    recipe = Recipe(**fields | {"weights": Weights(**fields["weights"]), "limits": Limits(**fields["limits"])})
    certificate = Certificate(**found | {"limits": Limits(**found["limits"])})
    network = recipe.network()
    network.load_state_dict(state)
    if revision(network) != certificate.revision:
        raise InputError(f"the certificate in {folder} is of other weights; delete the folder and load the model by its name again")
    return Trained(recipe, network, certificate)
