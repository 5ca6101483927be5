"""Compiled models as ordinary models: every site, edits, both directions of attention, and the task that comes with them."""

import pytest
import torch

from interp.circuits.ablation import replacement
from interp.circuits.forward import clean_metric, corrupt_metric, metrics
from interp.circuits.graph import graph
from interp.hooks import patched, record
from interp.models.bridge import Model
from interp.models.compiled import GATES, PROGRAMS, Compiled, compile, gate, program
from interp.models.compiled.forward import circuits, edges, logits, run
from interp.sites import STREAMS, Site
from interp.tasks import CompiledTask
from saes.errors import InputError

ALL = (*PROGRAMS, *GATES)


@pytest.fixture(scope="module", params=["reverse", "pair_balance"])
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return compile(program(request.param)).rotated(seed=0)


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def model(request: pytest.FixtureRequest, compiled: Compiled) -> Model:
    return compiled.model(request.param)


def tolerance(model: Model) -> float:
    return 1e-10 if model.dtype == torch.float64 else 1e-3


@pytest.mark.parametrize("source", ALL, ids=lambda s: s.name)
def test_the_model_computes_the_logits_of_the_weights(source):
    compiled = compile(source)
    x = compiled.inputs(3)
    exact = logits(compiled.weights, x)
    assert float((compiled.model(torch.float64)(x) - exact).abs().max()) < 1e-10
    assert float((compiled.model()(x) - exact)[:, compiled.read(3)].abs().max()) < 1e-4


def test_sizes_and_words_are_those_of_the_weights(compiled: Compiled, model: Model):
    w = compiled.weights
    assert (model.n_layers, model.n_heads, model.n_kv_heads, model.d_model, model.d_head) == (
        w.n_layers, w.n_heads, w.n_heads, w.d_model, w.d_head,
    )  # fmt: skip
    assert (model.d_vocab, model.n_ctx, model.bos) == (len(compiled.words), compiled.source.max_len + 1, compiled.words.index("BOS"))
    assert model.tokenizer.decode(compiled.inputs(2)[0]) == " ".join(["BOS", *(str(v) for v in compiled.source.inputs(2)[0])])
    assert model.tokenizer.encode("BOS pad") == [compiled.words.index("BOS"), compiled.words.index("pad")]
    assert torch.equal(model.w_u(), w.w_u.to(model.dtype))
    assert torch.equal(model.w_e(), w.w_e.to(model.dtype))
    for layer in range(w.n_layers):
        assert torch.equal(model.w_v(layer), w.w_v[layer].to(model.dtype))
        assert torch.equal(model.w_o(layer), w.w_o[layer].to(model.dtype))


def test_every_stream_is_recorded_and_fits_the_plain_forward(compiled: Compiled, model: Model):
    x = compiled.inputs(3)
    before = model(x)
    outputs = {u: y[0] for u, y in run(compiled.weights, x)[1].items()}
    stream = outputs["embed"] + outputs["pos"]
    for layer in range(model.n_layers):
        found = {site.stream: a for site, a in record(model, x, [Site(layer, s) for s in STREAMS]).items()}
        assert found["z"].shape == (len(x), 4, model.n_heads, model.d_head)
        attention = torch.stack([outputs[f"{layer}.{h}"] for h in range(model.n_heads)]).sum(0)
        wanted = {"resid_pre": stream, "attn_out": attention, "resid_mid": stream + attention, "mlp_in": stream + attention,
                  "mlp_out": outputs[f"m{layer}"], "resid_post": stream + attention + outputs[f"m{layer}"]}  # fmt: skip
        for name, exact in wanted.items():
            assert float((found[name] - exact).abs().max()) < tolerance(model), name
        z = torch.einsum("bhqk,bkhd->bqhd", found["pattern"], found["v"])
        assert float((z - found["z"]).abs().max()) < tolerance(model)
        scores = torch.einsum("bqhd,bkhd->bhqk", found["q"], found["k"]) / model.d_head**0.5
        if compiled.weights.causal:
            scores = scores.masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), -torch.inf)
        assert float((scores.softmax(-1) - found["pattern"]).abs().max()) < tolerance(model)
        stream = wanted["resid_post"]
    assert torch.equal(model(x), before)
    assert model.hook_count() == 0


def test_a_forward_from_any_layer_is_the_rest_of_the_model(compiled: Compiled, model: Model):
    x = compiled.inputs(3)
    whole = model(x)
    for layer in range(model.n_layers):
        resid = record(model, x, [Site(layer, "resid_pre")])[Site(layer, "resid_pre")]
        ran: list[int] = []
        hooks = {Site(i, "mlp_out"): (lambda i: lambda _: ran.append(i))(i) for i in range(model.n_layers)}
        with model.hooked(hooks):
            assert float((model.forward_from(layer, resid) - whole).abs().max()) < tolerance(model)
        assert ran == list(range(layer, model.n_layers))
    last = record(model, x, [Site(model.n_layers - 1, "resid_post")])[Site(model.n_layers - 1, "resid_post")]
    assert float((model.unembed(last) - whole).abs().max()) < tolerance(model)
    assert torch.equal(model(x), whole)


@pytest.mark.parametrize("stream", ["q", "k", "v", "z", "mlp_in", "mlp_out"])
def test_an_edit_is_what_removing_edges_does(stream: str):
    compiled = compile(program("pair_balance"))
    w, x = compiled.weights, compiled.inputs(3)
    model = compiled.model(torch.float64)
    zeros = {u: torch.zeros_like(y[0]) for u, y in run(w, x)[1].items()}
    gone = {"q": lambda u, t: t == "1.1.q", "k": lambda u, t: t == "1.1.k", "v": lambda u, t: t == "1.1.v", "z": lambda u, t: u == "1.1",
            "mlp_in": lambda u, t: t == "m1", "mlp_out": lambda u, t: u == "m1"}[stream]  # fmt: skip
    kept = frozenset(edge for edge in edges(w) if not gone(*edge))
    wanted = run(w, x, circuits(w, [kept]), zeros)[0][0]
    head = None if stream.startswith("mlp") else 1
    with patched(model, {Site(1, stream, head): torch.zeros_like}):  # pyright: ignore[reportArgumentType]
        assert float((model(x) - wanted).abs().max()) < 1e-10
    assert float((wanted - logits(w, x)).abs().max()) > 1e-2
    assert model.hook_count() == 0


def test_bidirectional_models_see_what_comes_after_and_causal_ones_do_not():
    for name, sees in (("hist", True), ("duplicate", False)):
        compiled = compile(program(name))
        model = compiled.model(torch.float64)
        x = compiled.encode([["a", "b", "a"], ["a", "b", "c"]])
        pattern = record(model, x, [Site(0, "pattern")])[Site(0, "pattern")]
        assert bool(pattern.triu(1).any()) == sees
        first = model(x)[:, 1]
        assert torch.equal(first[0], first[1]) != sees


@pytest.mark.parametrize("source", ALL, ids=lambda s: s.name)
def test_the_whole_model_has_the_best_metric_and_the_corrupt_run_a_worse_one(source):
    compiled = compile(source)
    model, task = compiled.model(torch.float64), CompiledTask(compiled, 3)
    pairs = task.pairs(model.tokenizer, 40, 0, model.bos)
    assert len(pairs) == min(40, len(compiled.inputs(3)))
    assert float(clean_metric(model, task, pairs).abs().max()) < 1e-20
    assert bool((corrupt_metric(model, task, pairs) <= 1e-20).all())
    constant = source.name in ("length", "acdc_or")
    assert (float(corrupt_metric(model, task, pairs).min()) < -0.01) != constant


def test_the_metric_is_minus_the_squared_distance_to_the_program_by_hand():
    compiled = compile(gate("half_adder"))
    model, task = compiled.model(torch.float64), CompiledTask(compiled, 3)
    pairs = task.pairs(model.tokenizer, 4, 0, model.bos)
    runs = torch.randn(2, 4, 1, model.d_vocab, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = task.metric(runs, pairs)
    for r in range(2):
        for i in range(4):
            a, b = (int(compiled.words[t]) for t in pairs.clean[i, 1:3])
            wanted = {compiled.words.index("out"): float(a != b), compiled.words.index("carry"): float(a and b)}
            assert float(found[r, i]) == pytest.approx(-sum((float(x) - wanted.get(j, 0.0)) ** 2 for j, x in enumerate(runs[r, i, 0])))


def test_pairs_read_behind_bos_and_repeat_with_their_seed():
    compiled = compile(program("reverse"))
    task, tokenizer = CompiledTask(compiled, 4), compiled.tokenizer()
    pairs, again = (task.pairs(tokenizer, 20, 5, compiled.words.index("BOS")) for _ in range(2))
    assert torch.equal(pairs.clean, again.clean)
    assert torch.equal(pairs.corrupt, again.corrupt)
    assert pairs.read.tolist() == [[1, 2, 3, 4]] * 20
    assert len(pairs.clean.unique(dim=0)) == 20
    assert bool((pairs.clean[:, 0] == compiled.words.index("BOS")).all())
    # the last output of reverse is the first token
    assert torch.equal(pairs.answer, pairs.clean[:, 1])
    assert len(task.pairs(tokenizer, 1000, 0, compiled.words.index("BOS"))) == 81


def test_pairs_refuse_another_tokenizer_and_a_prompt_without_bos():
    compiled, other = compile(program("reverse")), compile(program("hist"))
    for tokenizer, bos in ((other.tokenizer(), 0), (compiled.tokenizer(), None)):
        with pytest.raises(InputError, match="its own tokenizer with BOS"):
            CompiledTask(compiled, 3).pairs(tokenizer, 4, 0, bos)


def test_circuits_of_nodes_run_on_compiled_models():
    compiled = compile(program("reverse"))
    model, task = compiled.model(torch.float64), CompiledTask(compiled, 3)
    pairs, whole = task.pairs(model.tokenizer, 27, 0, model.bos), graph(model)
    only = [node for node in whole.nodes if str(node) == "3.z.0"]
    masks = whole.keeping([whole.nodes, only, [node for node in whole.nodes if node not in only]])
    found = metrics(model, task, pairs, whole, masks, replacement(model, whole, pairs, "resample"))
    # with lengths equal, the last head alone carries the tokens
    assert float(found[:2].abs().max()) < 1e-12
    assert torch.allclose(found[2], corrupt_metric(model, task, pairs).to(found))
