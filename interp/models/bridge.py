"""A language model with named sites. The only file that knows TransformerLens.

`TransformerBridge` keeps the transformers modules and fires hook points between them; `Site` names are translated here and nowhere else.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import NormalizationBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module, native

from interp.sites import HEAD_STREAMS, Site, Stream
from saes.errors import InputError

_POINTS = {
    "resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out",
    # mlp.hook_in fires on what the MLP reads, after the norm; hook_mlp_in would fire before it.
    "mlp_in": "mlp.hook_in",
    "z": "attn.hook_z", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v", "pattern": "attn.hook_pattern",
}  # fmt: skip
Hook = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True, eq=False)
class Model:
    """A causal language model whose sites can be recorded and edited; hooks come and go, weights never change."""

    name: str
    """The name that loads it again: `smollm2`, a Hub id or a folder."""
    revision: str
    """What the weights are: a commit, or a hash of the files."""
    bridge: TransformerBridge = field(repr=False)
    tokenizer: Any = field(repr=False)
    """A transformers fast tokenizer."""
    parameters: Mapping[str, torch.nn.Parameter] = field(default_factory=dict, repr=False)
    """The weights under the names that transformers saves them by."""
    codebooks: Mapping[Site, Callable[[Tensor], Tensor]] = field(default_factory=dict, repr=False)
    """Bottlenecks of the model, [batch, pos, width] to the same: every pass goes through them, and hooks see what comes out."""

    @property
    def n_layers(self) -> int:
        return self.bridge.cfg.n_layers

    @property
    def n_heads(self) -> int:
        return self.bridge.cfg.n_heads

    @property
    def n_kv_heads(self) -> int:
        return self.bridge.cfg.n_key_value_heads or self.n_heads

    @property
    def d_model(self) -> int:
        return self.bridge.cfg.d_model

    @property
    def d_head(self) -> int:
        return self.bridge.cfg.d_head

    @property
    def d_vocab(self) -> int:
        return self.bridge.cfg.d_vocab

    @property
    def n_ctx(self) -> int:
        """The longest sequence that the model was made for."""
        return self.bridge.cfg.n_ctx

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP of a layer read the same stream (GPT-J, NeoX)."""
        return bool(self.bridge.cfg.parallel_attn_mlp)

    @property
    def attn_only(self) -> bool:
        return bool(self.bridge.cfg.attn_only)

    @property
    def eps(self) -> float:
        """What norms add to the mean square."""
        return float(self.bridge.cfg.eps)

    @property
    def score_scale(self) -> float:
        """What attention multiplies the product of query and key with."""
        module = self.bridge.blocks[0].attn.original_component
        return float(getattr(module, "scaling", None) or self.d_head**-0.5)

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.bridge.original_model.parameters())

    @property
    def device(self) -> torch.device:
        return next(self.bridge.original_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.original_model.parameters()).dtype

    @property
    def bos(self) -> int | None:
        """The token put in front of a text: the tokenizer's BOS, else its EOS (GPT-2's way), else none."""
        return self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id

    def check(self, site: Site) -> None:
        """Raises InputError when the model has no such site."""
        if site.layer >= self.n_layers:
            raise InputError(f"{site} is out of range: {self.name} has layers 0 to {self.n_layers - 1}")
        heads = self.n_kv_heads if site.stream in ("k", "v") else self.n_heads
        if site.head is not None and site.head >= heads:
            raise InputError(f"{site} is out of range: {self.name} has {heads} heads for {site.stream}, 0 to {heads - 1}")
        if self.attn_only and site.stream in ("mlp_in", "mlp_out", "resid_mid"):
            raise InputError(f"{self.name} has attention layers only, so {site} does not exist; use resid_pre or resid_post")
        if site.stream == "resid_mid" and self.parallel:
            raise InputError(f"{self.name} runs attention and MLP in parallel, so {site} does not exist; use resid_pre or resid_post")

    def width(self, site: Site) -> int:
        """Numbers per token at the site, heads flattened; not defined for `pattern`."""
        heads = {"z": self.n_heads, "q": self.n_heads, "k": self.n_kv_heads, "v": self.n_kv_heads}.get(site.stream)
        return self.d_model if heads is None else self.d_head * (1 if site.head is not None else heads)

    def __call__(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Logits."""
        with self._bottlenecks():
            return self.bridge(tokens.to(self.device), use_cache=False)

    def step(self, tokens: Int[Tensor, "batch new"], past: Any = None) -> tuple[Float[Tensor, "batch new vocab"], Any]:
        """Logits of tokens that follow those of `past`, and the keys and values of all so far: generation without computing anything twice.

        The cache is transformers' own and is extended in place; sites fire for the new tokens alone.
        """
        with self._bottlenecks():
            return self.bridge(tokens.to(self.device), past_key_values=past, use_cache=True, return_type="logits_and_cache")

    def forward_from(self, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos vocab"]:
        """Logits from the residual stream that enters `layer`; the layers before it are not run."""
        with _skipped(self.bridge, layer), self._bottlenecks():
            return self.bridge(resid, start_at_layer=layer, use_cache=False)

    def with_codebooks(self, codebooks: Mapping[Site, Callable[[Tensor], Tensor]]) -> "Model":
        """The same weights with other bottlenecks."""
        for site in codebooks:
            self.check(site)
        return replace(self, codebooks=dict(codebooks))

    def without(self, sites: Iterable[Site]) -> "Model":
        """The same weights without the bottlenecks at these sites."""
        gone = set(sites)
        return replace(self, codebooks={site: book for site, book in self.codebooks.items() if site not in gone})

    @contextlib.contextmanager
    def _bottlenecks(self) -> Iterator[None]:
        """Bottlenecks on the hook points before all other hooks, for one pass."""
        handles = []
        try:
            # Each goes in front of those before: the first of a site has to be put there last.
            for site, book in reversed(list(self.codebooks.items())):
                point = self._point(site)
                handles.append((point, point.add_hook(_adapt(_through(site, book)), prepend=True)))
            yield
        finally:
            for point, handle in handles:
                handle.hook.remove()
                point.fwd_hooks.remove(handle)

    def unembed(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Logits of a final residual stream: last norm, then unembedding."""
        rows = resid.reshape(1, -1, self.d_model)
        return self.bridge.unembed(self.bridge.ln_final(rows)).reshape(*resid.shape[:-1], -1)

    def w_u(self) -> Float[Tensor, "d_model vocab"]:
        return self.bridge.W_U

    def w_e(self) -> Float[Tensor, "vocab d_model"]:
        return self.bridge.W_E

    def w_pos(self) -> Float[Tensor, "pos d_model"]:
        """Learned position embeddings; raises InputError for a model without."""
        if "pos_embed" not in self.bridge._modules:
            raise InputError(f"{self.name} adds no position embedding, so positions are no source of their own; leave pos out")
        return self.bridge.pos_embed.original_component.weight

    def w_v(self, layer: int) -> Float[Tensor, "kv_head d_model d_head"]:
        weight = self.bridge.blocks[layer].attn.W_V
        return weight.reshape(self.n_kv_heads, self.d_model, self.d_head)

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        weight = self.bridge.blocks[layer].attn.W_O
        return weight.reshape(self.n_heads, self.d_head, self.d_model)

    def projection(self, layer: int, stream: Stream) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head"] | None]:
        """Weight and bias that make `q`, `k` or `v` of the layer's normalised input."""
        heads = self.n_heads if stream == "q" else self.n_kv_heads
        attention = self.bridge.blocks[layer].attn
        weight, bias = getattr(attention, f"W_{stream.upper()}"), getattr(attention, f"b_{stream.upper()}", None)
        return weight.reshape(heads, self.d_model, self.d_head), None if bias is None else bias.reshape(heads, self.d_head)

    def b_o(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """What attention adds beside its heads."""
        return getattr(self.bridge.blocks[layer].attn, "b_O", None)

    def norm(self, site: Site, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What is read at `q`, `k`, `v`, `mlp_in` or, as what is unembedded, the last `resid_post`, from the residual stream before it."""
        block = self.bridge.blocks[site.layer]
        if site.stream == "resid_post":
            norm = self.bridge.ln_final
        elif site.stream == "mlp_in" and "ln2" in dict(block.named_children()):
            norm = block.ln2
        else:
            norm = block.ln1
        # The component itself: a call of the bridge around it would fire hook points of the model's own pass.
        return norm.original_component(resid)

    @contextlib.contextmanager
    def with_norms(self, norm: Callable[[Site, Tensor], Tensor]) -> Iterator[None]:
        """Let `norm` compute what stands in front of the sites of `self.norm` while the context lasts."""
        modules: dict[Any, Site] = {self.bridge.ln_final: Site(self.n_layers - 1, "resid_post")}
        for layer, block in enumerate(self.bridge.blocks):
            parts = dict(block.named_children())
            modules[parts["ln1"]] = Site(layer, "q")
            if "ln2" in parts:
                modules[parts["ln2"]] = Site(layer, "mlp_in")
        try:
            for module, site in modules.items():
                module.__dict__["forward"] = lambda x, *args, site=site, module=module, **kwargs: module.hook_out(
                    norm(site, module.hook_in(x))
                )
            yield
        finally:
            for module in modules:
                module.__dict__.pop("forward", None)

    @contextlib.contextmanager
    def with_activations(self, rule: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor | None], Tensor]) -> Iterator[None]:
        """Let `rule` compute what MLPs project down from, given the activation function, its input and, in a gated MLP, the other factor.

        Raises InputError for an MLP of another form.
        """
        handles: list[tuple[HookPoint, Any]] = []
        try:
            for layer in range(self.n_layers):
                handles += self._rule(layer, rule)
            yield
        finally:
            for point, handle in handles:
                handle.hook.remove()
                point.fwd_hooks.remove(handle)

    def _rule(self, layer: int, rule: Any) -> list[tuple[HookPoint, Any]]:
        component = self.bridge.blocks[layer].mlp.original_component
        activation = getattr(component, "act_fn", None) or getattr(component, "act", None)
        names = {name: f"blocks.{layer}.mlp.hook_{name}" for name in ("pre", "pre_linear", "post")}
        points = {name: self.bridge.hook_dict.get(path) for name, path in names.items()}
        if activation is None or points["pre"] is None or points["post"] is None:
            raise InputError(
                f"the MLPs of {self.name} are not of the form W_out act(W_in x) or its gated form; choose a method without backward rules"
            )
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda tensor, hook: seen.__setitem__(name, tensor)

        hooks = {name: keep(name) for name in ("pre", "pre_linear")}
        hooks["post"] = lambda tensor, hook: rule(activation, seen["pre"], seen.get("pre_linear"))
        return [(point, point.add_hook(hooks[name])) for name, point in points.items() if point is not None]

    def rotation(self, layer: int, n_pos: int) -> Float[Tensor, "pos d_head d_head"] | None:
        """The linear map that the layer's rotary embedding applies to queries and keys at each position; None without one.

        Raises InputError for an architecture that does not show it.
        """
        if f"blocks.{layer}.attn.hook_rot_q" not in self.bridge.hook_dict or self.bridge.cfg.positional_embedding_type != "rotary":
            return None
        return _rotations(self, n_pos)[layer]

    @contextlib.contextmanager
    def hooked(self, hooks: dict[Site, Hook]) -> Iterator[None]:
        """Call each function with its site's activation (heads split) while the context lasts; what it returns replaces it.

        A site with a head is hooked like its stream: choosing the head is the function's task.
        """
        for site in hooks:
            self.check(site)
        handles = []
        try:
            for site, function in hooks.items():
                point = self._point(site)
                handles.append((point, point.add_hook(_adapt(function))))
            yield
        finally:
            for point, handle in handles:
                handle.hook.remove()
                point.fwd_hooks.remove(handle)

    def hook_count(self) -> int:
        """How many hooks are on the model; 0 whenever no context is open."""
        return sum(len(p.fwd_hooks) + len(p.bwd_hooks) for p in self.bridge.hook_dict.values())

    def _point(self, site: Site) -> HookPoint:
        name = f"blocks.{site.layer}.{_POINTS[site.stream]}"
        try:
            return self.bridge.hook_dict[name]
        except KeyError:
            raise InputError(f"{self.name} offers no {site.stream} ({name} is not among its hook points); choose another site") from None


def boot(name: str, revision: str, hf_model: Any, tokenizer: Any) -> Model:
    """Wrap a loaded transformers model; raises InputError when TransformerLens cannot."""
    hf_model.eval().requires_grad_(False)
    parameters = dict(hf_model.named_parameters())
    device, dtype = hf_model.device, hf_model.dtype
    try:
        bridge = TransformerBridge.boot_transformers("local", hf_model=hf_model, tokenizer=tokenizer, device=device, dtype=dtype)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"TransformerLens cannot boot {name} ({type(hf_model).__name__}): {str(error).splitlines()[0]}") from error
    bridge.requires_grad_(False)
    _plain_norms(bridge)
    _find_caches(bridge)
    return Model(name, revision, bridge, tokenizer, parameters)


def boot_native(name: str, revision: str, config: dict[str, Any], state: dict[str, Tensor], tokenizer: Any, dtype: torch.dtype) -> Model:
    """Wrap weights of TransformerLens' own small architecture; parameters that `state` does not name (biases) are 0."""
    settings = TransformerBridgeConfig.from_dict(config | {"dtype": dtype, "init_weights": False, "device": "cpu"})
    module = native.NativeModel(settings).to(dtype).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.zero_()
    unexpected = module.load_state_dict({key: value.to(dtype) for key, value in state.items()}, strict=False).unexpected_keys
    assert not unexpected, f"the native architecture has no {unexpected}"
    bridge = build_bridge_from_module(module, "TransformerLensNative", tl_config=settings)
    bridge.requires_grad_(False)
    return Model(name, revision, bridge, tokenizer)


def _plain_norms(bridge: TransformerBridge) -> None:
    """Let norms return what transformers computes and no more.

    TransformerLens computes scale and normalised input beside them, for two hook points that no site names: a tenth of a forward pass.
    """
    for module in bridge.modules():
        if isinstance(module, NormalizationBridge) and module.use_native_layernorm_autograd:
            module.__dict__["_hf_autograd_forward_with_hooks"] = module.original_component


def _find_caches(bridge: TransformerBridge) -> None:
    """Let attention find the cache of keys and values under the name that transformers gives it since 5.20.

    TransformerLens 4.3 looks for `past_key_values`, finds nothing, and each new token attends to itself alone, without a word.
    """
    for block in bridge.blocks:
        attention = block.attn
        if hasattr(attention, "_update_kv_cache"):
            attention.__dict__["_update_kv_cache"] = functools.partial(_updated, type(attention)._update_kv_cache, attention)


def _updated(update: Any, attention: Any, k: Tensor, v: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    found = next((given[name] for name in ("past_key_values", "layer_past", "cache") if given.get(name) is not None), None)
    return update(attention, k, v, **given | {"past_key_values": found})


@functools.lru_cache(maxsize=4)
def _rotations(model: Model, n_pos: int) -> tuple[Float[Tensor, "pos d_head d_head"], ...]:
    """Rotations of all layers, seen by giving queries the unit vectors: `n_heads` of them in a row."""
    rows = -(-model.d_head // model.n_heads)
    units = torch.eye(rows * model.n_heads, model.d_head, device=model.device, dtype=model.dtype).unflatten(0, (rows, 1, model.n_heads))
    seen: list[Tensor] = []
    points = [model.bridge.hook_dict[f"blocks.{layer}.attn.hook_rot_q"] for layer in range(model.n_layers)]
    handles = [(point, point.add_hook(lambda tensor, hook: seen.append(tensor))) for point in points]
    try:
        with torch.no_grad(), model.hooked({Site(layer, "q"): lambda q: units.expand_as(q) for layer in range(model.n_layers)}):
            model(torch.zeros(rows, n_pos, dtype=torch.long))
    finally:
        for point, handle in handles:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)
    if len(seen) != model.n_layers:
        raise InputError(f"{model.name} does not show how its rotary embedding turns queries; use --kv grouped")
    # [row, pos, head, d_head], row and head together the unit vector
    return tuple(one.movedim(1, 0).flatten(1, 2)[:, : model.d_head].transpose(1, 2) for one in seen)


def has_heads(site: Site) -> bool:
    """Whether the activation at the site has a head axis."""
    return site.stream in HEAD_STREAMS


def head_of(site: Site, activation: Tensor) -> Tensor:
    """The part of a site's activation that belongs to its head; all of it without one."""
    if site.head is None or not has_heads(site):
        return activation
    return activation[:, site.head] if site.stream == "pattern" else activation[:, :, site.head]


def replaced(site: Site, activation: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The activation with what belongs to the site's head replaced by a function of it."""
    if site.head is None:
        return function(activation)
    changed = activation.clone()
    head_of(site, changed).copy_(function(head_of(site, activation)))
    return changed


def flat(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of [batch, pos, width] in float32, for activations with heads apart and of any type."""

    def edit(activation: Tensor) -> Tensor:
        x = activation.flatten(2).float() if activation.ndim > 3 else activation.float()
        return function(x).reshape(activation.shape).to(activation.dtype)

    return edit


def _through(site: Site, book: Callable[[Tensor], Tensor]) -> Hook:
    return lambda activation: replaced(site, activation, flat(book))


def _adapt(function: Hook) -> Any:
    def hook(tensor: Tensor, hook: HookPoint) -> Tensor | None:
        return function(tensor)

    return hook


@contextlib.contextmanager
def _skipped(bridge: TransformerBridge, layer: int) -> Iterator[None]:
    """Make the blocks before a layer hand on what they are given, in the form in which they return it."""
    in_a_tuple = isinstance(bridge.original_model, native.NativeModel)
    blocks = bridge.blocks[:layer]
    try:
        for block in blocks:
            block.__dict__["forward"] = lambda hidden_states, *args, **kwargs: (hidden_states,) if in_a_tuple else hidden_states
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)
