"""The compiler: weights compute what the program computes, with the published sizes, and agree with a third party's weights."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import shared

from interp.models.compiled import PROGRAMS, Compiled, Program, compile, program
from interp.models.compiled.forward import edges, logits
from interp.models.compiled.rasp import Aggregate, Indices, Linear, Map, Select, SelectorWidth, SequenceMap, Tokens, Undefined
from saes.errors import InputError

tokens, indices = Tokens(), Indices()
TRACR = {"length": "length", "reverse": "reverse", "frac_prevs_x": "xproportion", "hist": "hist", "sort_unique": "sort_unique",
         "sort_freq": "sort_freq", "pair_balance": "pair_balance"}  # fmt: skip


def error(compiled: Compiled, length: int) -> float:
    x = compiled.inputs(length)
    read = compiled.read(length)
    return float((logits(compiled.weights, x) - compiled.target(x))[:, read].abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("source", PROGRAMS, ids=lambda p: p.name)
def test_weights_compute_the_program_on_every_input(source: Program):
    compiled = compile(source)
    lengths = [n for n in range(1, source.max_len + 1) if len(source.vocabulary) ** n <= 300]
    assert max(error(compiled, length) for length in lengths) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sort_unique", "sort_freq", "xproportion"])
def test_weights_compute_the_program_on_every_input_of_full_length(name: str):
    assert error(compile(program(name)), program(name).max_len) < 1e-12


def test_programs_compute_what_python_computes():
    def value(name: str, text: str) -> list:
        return program(name).evaluate([int(c) if c.isdigit() else c for c in text])

    assert value("reverse", "1232") == [2, 3, 2, 1]
    assert value("length", "123") == [3, 3, 3]
    assert value("hist", "abaa") == [3, 1, 3, 3]
    assert value("sort", "3121") == [1, 1, 2, 3]
    assert value("sort_freq", "3121") == [1, 1, 3, 2]
    assert value("xproportion", "xwx") == pytest.approx([1, 1 / 2, 2 / 3])
    assert value("pair_balance", "())") == pytest.approx([1, 0, -1 / 3])
    assert value("previous", "abc") == [None, "a", "b"]
    assert value("induction", "abca") == [None, None, None, "b"]
    assert value("duplicate", "aba") == ["new", "new", "seen"]
    assert value("parity", "1101") == ["odd", "even", "even", "odd"]
    assert value("mirror", "121") == ["same", "same", "same"]
    assert value("majority", "wxw") == ["no", "yes", "no"]
    assert value("sort_unique", "121") == [1, None, 2]
    with pytest.raises(Undefined):
        value("induction", "abaca")


@pytest.mark.parametrize(
    ("name", "sizes"),
    # layers, heads, d_head, d_model, d_mlp as tracr gives them
    [("reverse", (4, 1, 12, 41, 30)), ("xproportion", (2, 1, 7, 14, 1)), ("hist", (1, 1, 5, 18, 12)), ("sort", (3, 1, 17, 36, 15)),
     ("pair_balance", (2, 2, 8, 16, 4)), ("sort_freq", (5, 1, 32, 66, 30))],
)  # fmt: skip
def test_sizes_are_the_published_ones(name: str, sizes: tuple[int, ...]):
    w = compile(program(name)).weights
    assert (w.n_layers, w.n_heads, w.d_head, w.d_model, w.d_mlp) == sizes


def test_reverse_has_the_published_parameters_and_edges():
    compiled = compile(program("reverse"))
    # tracr unembeds only the outputs; here BOS and pad have a column too
    assert compiled.weights.n_parameters - 2 * compiled.weights.d_model == 18_286
    assert len(edges(compiled.weights)) == 94
    assert len(edges(compile(program("xproportion")).weights)) == 32
    assert compiled.words == ("1", "2", "3", "BOS", "pad")
    assert compile(program("xproportion")).words == ("BOS", "pad", "w", "x", "y", "z", "number")


@pytest.mark.parametrize("theirs", TRACR)
def test_outputs_are_those_of_third_party_programs(theirs: str):
    page = json.loads(shared(f"models/tracr-compiled/{theirs}.json").read_text())
    ours = program(TRACR[theirs])
    vocabulary = tuple(int(w) if w.isdigit() else w for w in page["encoding"] if w not in ("BOS", "compiler_pad"))
    compiled = compile(Program(theirs, ours.output, vocabulary, page["max_seq_len"], page["causal"]))
    w = compiled.weights
    assert (w.n_layers, w.n_heads, w.d_head, w.d_model, w.d_mlp) == tuple(
        page[key] for key in ("n_layers", "n_heads", "key_size", "d_model", "mlp_hidden")
    )
    assert page["examples"]
    for example in page["examples"]:
        x = compiled.encode([example["input"]])
        found = logits(w, x)[0, 1:]
        for row, theirs_out in zip(found, example["output"], strict=True):
            if ours.output.numerical:
                assert float(row[compiled.words.index("number")]) == pytest.approx(theirs_out, abs=1e-5)
            else:
                assert compiled.words[int(row.argmax())] == str(theirs_out)


@pytest.mark.parametrize("theirs", TRACR)
def test_the_residual_stream_is_that_of_third_party_weights(theirs: str):
    """Direction by direction, after the last layer; BOS apart, where only constants live."""
    path = shared(f"models/tracr-compiled/{theirs}.npz")
    page = json.loads(path.with_suffix(".json").read_text())
    ours = program(TRACR[theirs])
    vocabulary = tuple(int(w) if w.isdigit() else w for w in page["encoding"] if w not in ("BOS", "compiler_pad"))
    compiled = compile(Program(theirs, ours.output, vocabulary, page["max_seq_len"], page["causal"]))
    out = [i for i, label in enumerate(page["residual_labels"]) if label.split(":")[0] == page["output_variable"]]
    for example in page["examples"][:10]:
        stream = tracr_forward(dict(np.load(path)), page, example["tokens"])[1:, out]
        row = logits(compiled.weights, compiled.encode([example["input"]]))[0, 1:].numpy()
        labels = [page["residual_labels"][i].split(":")[-1] for i in out]
        columns = [compiled.words.index("number" if ours.output.numerical else label) for label in labels]
        # their attention leaks up to exp(-50 / sqrt(32)) = 1.5e-4 to BOS, ours does not
        assert np.abs(stream - row[:, columns]).max() < 1e-3


def tracr_forward(weights: dict[str, np.ndarray], page: dict, ids: list[int]) -> np.ndarray:
    """x += attention(x), x += relu MLP(x); the form that SOURCE.txt beside the weights states."""
    x = weights["token_embed/embeddings"][ids] + weights["pos_embed/embeddings"][: len(ids)]
    for i in range(page["n_layers"]):
        w = {k.removeprefix(f"transformer/layer_{i}/"): v for k, v in weights.items() if k.startswith(f"transformer/layer_{i}/")}
        q, k, v = (
            (x @ w[f"attn/{n}/w"] + w[f"attn/{n}/b"]).reshape(len(ids), page["n_heads"], -1).swapaxes(0, 1)
            for n in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        if page["causal"]:
            scores = np.where(np.triu(np.ones(scores.shape[-2:], dtype=bool), 1), -1e30, scores)
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern /= pattern.sum(-1, keepdims=True)
        x = x + (pattern @ v).swapaxes(0, 1).reshape(len(ids), -1) @ w["attn/linear/w"] + w["attn/linear/b"]
        hidden = np.maximum(x @ w["mlp/linear_1/w"] + w["mlp/linear_1/b"], 0)
        x = x + hidden @ w["mlp/linear_2/w"] + w["mlp/linear_2/b"]
    return x


def test_a_default_is_the_output_where_nothing_is_selected():
    before = Aggregate(Select(indices, indices, lambda k, q: k == q - 1), tokens, default="a")
    compiled = compile(Program("default", before, ("a", "b"), 3))
    assert program("previous").evaluate(["b", "a"]) == [None, "b"]
    assert compiled.source.answers(["b", "a"]) == [{"a": 1.0}, {"b": 1.0}]
    assert max(error(compiled, length) for length in (1, 2, 3)) < 1e-12


def test_signs_survive_the_relu():
    x = Map({"a": -2.0, "b": 0.0, "c": 3.5}.get, tokens, numerical=True)
    both = Linear(x, Map(lambda t: float(t == "c"), tokens, numerical=True), -1.5, 2.0)
    back = Map(lambda v: "low" if v < 0 else "high", both)
    square = Map(lambda v: v * v, both, numerical=True)
    for output in (x, both, back, square):
        assert error(compile(Program("signs", output, ("a", "b", "c"), 2)), 2) < 1e-9


def test_a_numerical_map_writes_nothing_at_bos_where_later_heads_would_read_it():
    share = Aggregate(Select(tokens, tokens, lambda k, q: True), Map(lambda t: float(t == 1), tokens, numerical=True))
    low = Map(lambda s: int(s < 0.5), share)
    count = SelectorWidth(Select(low, low, lambda k, q: True))
    compiled = compile(Program("low", count, (0, 1), 4))
    assert max(error(compiled, length) for length in range(1, 5)) < 1e-9


def test_equal_inputs_may_be_joined():
    doubled = SequenceMap(lambda a, b: a + b, tokens, tokens)
    assert error(compile(Program("doubled", doubled, ("a", "b"), 2)), 2) == 0.0


def test_long_sequences_keep_their_steps_apart():
    assert error(compile(Program("long", SelectorWidth(Select(tokens, tokens, lambda k, q: True)), (1,), 40)), 40) < 1e-9


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (Aggregate(Select(tokens, tokens, lambda k, q: True), Map(float, tokens, numerical=True)), "means of 0 and 1 only"),
        (SequenceMap(max, tokens, Map(float, tokens, numerical=True)), "needs categorical"),
        (Linear(tokens, tokens, 1.0, 1.0), "needs two numerical inputs"),
        (Map(lambda t: t, Aggregate(Select(tokens, tokens, lambda k, q: k > q), tokens, default=1)), "default only as"),
    ],
)
def test_what_has_no_exact_form_is_refused(output, sentence: str):
    with pytest.raises(InputError, match=sentence):
        compile(Program("refused", output, (1, 2, 3)))


def test_lengths_and_names_are_checked():
    with pytest.raises(InputError, match="1 to 5 tokens"):
        compile(program("reverse")).inputs(6)
    with pytest.raises(InputError, match="called BOS or pad"):
        Program("bad", tokens, ("a", "BOS"))


@pytest.mark.parametrize("name", ["reverse", "pair_balance"])
def test_rotation_changes_every_coordinate_and_no_output(name: str):
    compiled = compile(program(name))
    turned = compiled.rotated(seed=1)
    x = compiled.inputs(3)
    assert float((logits(turned.weights, x) - logits(compiled.weights, x)).abs().max()) < 1e-10
    assert bool((turned.weights.w_e.abs() > 1e-6).float().mean() > 0.99)
    assert not torch.equal(compiled.rotated(seed=2).weights.w_e, turned.weights.w_e)
    assert turned.revision() != compiled.revision()
