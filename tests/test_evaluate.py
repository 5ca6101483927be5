"""Evaluation: every figure against a literal twin, and dictionaries whose figures are known."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from interp import runs
from interp.cli import main
from interp.evals.bootstrap import estimate
from interp.evals.loss_recovered import LossRecovered, Spliced, loss_recovered
from interp.evals.reconstruction import Accumulator
from interp.hooks import patched, record
from interp.models import Model, load
from interp.runs import Run
from interp.sites import Site
from interp.stages.base import Context, execute, execute_all
from interp.stages.cache import Cache
from interp.stages.evaluate import Evaluate
from interp.stages.train import Train
from interp.store import Store
from saes import files
from saes.architectures import Architecture, Crosscoder, CrossLayer, TopK
from saes.errors import InputError

SITES = tuple(Site.parse(text) for text in ("0.mlp_in", "0.mlp_out", "1.mlp_in", "1.mlp_out", "1.z", "1.resid_post"))
SITE = SITES[-1]
PAIR, OUT = "0.mlp_in+1.mlp_in", "0.mlp_out+1.mlp_out"
# Name to architecture, sites and options.
TRAINED: dict[str, tuple[Architecture, str, dict[str, object]]] = {
    "sae": (TopK(4), "1.resid_post", {}),
    "heads": (TopK(4), "1.z", {}),
    "transcoder": (TopK(4), "1.mlp_in", {"write": "mlp_out", "skip": True}),
    "crosscoder": (Crosscoder(4), PAIR, {}),
    "cross-layer": (CrossLayer(4), PAIR, {"write": "mlp_out"}),
}
SEQUENCES = 7


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, corpus_file: Path) -> Run:
    stage = Cache(sites=SITES, model=str(tiny_llama), text=f"files:{corpus_file}", tokens=4096, context=32, dtype="float32", held_out=0.1)
    done = execute(stage, Context(tmp_path_factory.mktemp("runs")))
    assert done is not None
    return done


@pytest.fixture(scope="module")
def ctx(cached: Run) -> Context:
    return Context(cached.path.parent)


@pytest.fixture(scope="module")
def model(cached: Run) -> Model:
    return load(cached.config["config"]["model"], "float32")


@pytest.fixture(scope="module")
def store(cached: Run) -> Store:
    return Store.open(cached)


@pytest.fixture(scope="module")
def trained(cached: Run, ctx: Context) -> dict[str, Run]:
    settings = {"width": 64, "epochs": 2.0, "batch_size": 128, "precision": "float32"}
    stages = [Train(cached.id, kind, site=site, **settings, **more) for kind, site, more in TRAINED.values()]  # pyright: ignore[reportArgumentType]
    return dict(zip(TRAINED, execute_all(stages, ctx) or [], strict=True))


@pytest.fixture(scope="module")
def together(trained: dict[str, Run], ctx: Context) -> dict[str, Run]:
    """All evaluations from one call."""
    found = execute_all([Evaluate(run.id, SEQUENCES) for run in trained.values()], ctx)
    assert found is not None
    return dict(zip(trained, found, strict=True))


def table(run: Run) -> dict[str, dict[str, float]]:
    return {row["name"]: row for row in pq.read_table(run.file("metrics.parquet")).to_pylist()}


def summary(run: Run) -> dict[str, float]:
    return json.loads(run.file("summary.json").read_text())


def held_out(store: Store, sites: str) -> Tensor:
    """Rows of the kept held-out tokens in float64."""
    return store.sequences(Site.parse_joined(sites), store.n_train, store.n_seq)[store.keep[store.n_train :]].double()


def literal_fvu(y: Tensor, y_hat: Tensor, sites: int = 1) -> float:
    """The mean over sites of total squared error over total squared distance from the mean."""
    found = [
        ((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum() for a, b in zip(y.chunk(sites, 1), y_hat.double().chunk(sites, 1), strict=True)
    ]
    return float(torch.stack(found).mean())


# Evaluations against their literal twins.


@pytest.mark.parametrize("name", TRAINED)
def test_fvu_l0_and_shares_equal_their_literal_twins_where_the_dictionary_writes(
    store: Store, trained: dict[str, Run], together: dict[str, Run], name: str
):
    reads = TRAINED[name][1]
    writes = {"transcoder": "1.mlp_out", "cross-layer": OUT}.get(name, reads)
    # In the dictionary's own float32: in float64 a latent at its threshold may fall on the other side.
    figures, dictionary = table(together[name]), files.load(trained[name].path)
    x, y = held_out(store, reads).float(), held_out(store, writes)
    sites = writes.count("+") + 1
    assert figures["fvu"]["value"] == pytest.approx(literal_fvu(y, dictionary(x), sites), rel=1e-4)
    code = dictionary.encode(x)
    assert figures["l0"]["value"] == pytest.approx(float((code > 0).sum(1).double().mean()), rel=1e-5)
    assert figures["dead_share"]["value"] == pytest.approx(float((~(code > 0).any(0)).double().mean()))
    assert figures["dense_share"]["value"] == pytest.approx(float(((code > 0).double().mean(0) > 0.1).double().mean()))
    assert all(row["low"] <= row["value"] <= row["high"] for row in figures.values())


def test_the_fvu_of_a_crosscoder_is_the_mean_over_its_sites(store: Store, trained: dict[str, Run], together: dict[str, Run]):
    dictionary = files.load(trained["crosscoder"].path)
    x = held_out(store, PAIR)
    each = [literal_fvu(a, b) for a, b in zip(x.chunk(2, 1), dictionary(x.float()).chunk(2, 1), strict=True)]
    assert abs(each[0] - each[1]) > 1e-3
    assert summary(together["crosscoder"])["fvu"] == pytest.approx(sum(each) / 2, rel=1e-4)


def cross_entropy(model: Model, store: Store, edits: dict[Site, Tensor] | None = None) -> float:
    """Mean next-token cross-entropy on the held-out sequences, one whole forward pass each, activations of kept tokens replaced."""
    losses = []
    for i in range(store.n_train, store.n_train + SEQUENCES):
        tokens, keep = torch.from_numpy(store.tokens[i : i + 1]).long(), store.keep[i]

        def replace(activation: Tensor, new: Tensor, keep: Tensor = keep, i: int = i) -> Tensor:
            out = activation.clone()
            out[0, keep] = new[i - store.n_train, keep].view(-1, *activation.shape[2:])
            return out

        functions = {site: lambda x, new=new, replace=replace: replace(x, new) for site, new in (edits or {}).items()}
        with torch.no_grad(), patched(model, functions):
            losses.append(torch.nn.functional.cross_entropy(model(tokens)[0, :-1].double(), tokens[0, 1:]))
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("name", TRAINED)
def test_cross_entropies_equal_whole_forward_passes_with_every_written_site_replaced(
    model: Model, store: Store, trained: dict[str, Run], together: dict[str, Run], name: str
):
    config, figures, dictionary = trained[name].config["config"], table(together[name]), files.load(trained[name].path)
    writes = Site.parse_joined(config["write"])
    x = store.sequences(Site.parse_joined(config["site"]), store.n_train, store.n_train + SEQUENCES)
    y_hat = dict(zip(writes, dictionary(x).split([store.width(site) for site in writes], -1), strict=True))
    nothing = {site: torch.zeros_like(values) for site, values in y_hat.items()}
    pool = torch.from_numpy(store.order(0).pool)
    means = {s: store.sequences([s], 0, store.n_seq).flatten(0, 1)[pool].mean(0).expand_as(nothing[s]) for s in writes}
    expected = {
        "ce_clean": cross_entropy(model, store), "ce_recon": cross_entropy(model, store, y_hat),
        "ce_zero": cross_entropy(model, store, nothing), "ce_mean": cross_entropy(model, store, means),
    }  # fmt: skip
    for entry, value in expected.items():
        assert figures[entry]["value"] == pytest.approx(value, rel=1e-4), entry
    for reference in ("zero", "mean"):
        ablated = expected[f"ce_{reference}"]
        recovered = (ablated - expected["ce_recon"]) / (ablated - expected["ce_clean"])
        assert figures[f"ce_recovered_{reference}"]["value"] == pytest.approx(recovered, abs=2e-2)


def test_several_evaluations_in_one_call_give_the_figures_of_each_alone(
    trained: dict[str, Run], together: dict[str, Run], tmp_path: Path, cached: Run
):
    for run in (cached, *trained.values()):
        (tmp_path / run.id).symlink_to(run.path)
    for name, run in trained.items():
        alone = execute(Evaluate(run.id, SEQUENCES), Context(tmp_path))
        assert alone is not None
        assert alone.id == together[name].id
        expected, found = table(alone), table(together[name])
        assert found.keys() == expected.keys()
        for entry, row in expected.items():
            for side in ("value", "low", "high"):
                assert found[entry][side] == pytest.approx(row[side], rel=1e-6, abs=1e-6), (name, entry)


def test_the_command_takes_several_runs_and_prints_a_result_for_each(
    trained: dict[str, Run], together: dict[str, Run], ctx: Context, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as leave:
        main(["eval", *(run.id for run in trained.values()), "--sequences", str(SEQUENCES), "--root", str(ctx.root), "--json"])
    assert leave.value.code == 0
    assert [json.loads(line)["run"] for line in capsys.readouterr().out.splitlines()] == [run.id for run in together.values()]


def test_evaluations_that_share_no_tokens_are_refused(trained: dict[str, Run], ctx: Context):
    with pytest.raises(InputError, match="evaluate them one by one"):
        execute_all([Evaluate(trained["sae"].id, 3), Evaluate(trained["heads"].id, 4)], ctx)


# Dictionaries whose figures are known.


def recovered(model: Model, store: Store, *spliced: Spliced) -> list[LossRecovered]:
    tokens, keep = torch.from_numpy(store.tokens[:6]).long(), store.keep[:6]
    sites = {site for each in spliced for site in each.reads + each.writes}
    means = {site: store.sequences([site], 0, 6)[keep].mean(0) for site in sites}
    return loss_recovered(model, spliced, means, [(tokens, keep)])


def test_the_identity_recovers_everything_and_the_mean_nothing(model: Model, store: Store):
    mean = store.sequences([SITE], 0, 6)[store.keep[:6]].mean(0)
    same, constant = recovered(model, store, Spliced((SITE,), (SITE,), lambda x: x), Spliced((SITE,), (SITE,), mean.expand_as))
    assert same.table()["ce_recovered_zero"].value == pytest.approx(1, abs=1e-4)
    assert same.table()["kl"].value == pytest.approx(0, abs=1e-5)
    assert constant.table()["ce_recovered_mean"].value == pytest.approx(0, abs=1e-6)


def test_the_identity_transcoder_recovers_everything(model: Model, store: Store):
    """A transcoder that writes where it reads, with all it does in its skip connection."""
    dictionary = TopK(k=1).build(32, 32, 8, transcoder=True, skip=True)
    with torch.no_grad():
        dictionary.W_dec.zero_()
        assert dictionary.W_skip is not None
        dictionary.W_skip.copy_(torch.eye(32))
    (found,) = (each.table() for each in recovered(model, store, Spliced((SITE,), (SITE,), dictionary)))
    assert found["ce_recovered_zero"].value == pytest.approx(1, abs=1e-4)
    assert found["ce_recovered_mean"].value == pytest.approx(1, abs=1e-4)
    assert found["kl"].value == pytest.approx(0, abs=1e-5)
    x, sums = store.sequences([SITE], 0, 6), Accumulator(dictionary)
    sums.update(x, x, store.keep[:6])
    assert sums.result().table()["fvu"].value == pytest.approx(0, abs=1e-10)


def test_the_zero_dictionary_recovers_nothing_against_zero_ablation_also_at_two_sites(model: Model, store: Store):
    pair = Site.parse_joined(PAIR)
    one, two = recovered(model, store, Spliced((SITE,), (SITE,), torch.zeros_like), Spliced(pair, pair, torch.zeros_like))
    for found in (one, two):
        assert (found.ce["recon"] == found.ce["zero"]).all()
        assert found.table()["ce_recovered_zero"].value == 0
        assert (found.ce["zero"] != found.ce["clean"]).all()


def test_what_is_written_is_made_from_clean_activations(model: Model, store: Store):
    """Replacing two layers at once by what they were changes nothing, because the second reads what it would have read."""
    first, second, out = Site(0, "mlp_in"), Site(1, "mlp_in"), Site(1, "mlp_out")
    tokens = torch.from_numpy(store.tokens[:6]).long()
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.cat([torch.zeros_like(x[:, :32]), x[:, 32:]], 1)

    recovered(model, store, Spliced((first, second), (first, out), watched))
    clean = record(model, tokens, [first, second])
    expected = torch.cat([clean[site][store.keep[:6]] for site in (first, second)], 1)
    assert torch.allclose(seen[0], expected, atol=1e-5)


def test_a_dictionary_of_the_mean_has_fvu_one(store: Store):
    dictionary = TopK(k=1).build(32, 32, 8)
    with torch.no_grad():
        dictionary.W_dec.zero_()
        dictionary.b_dec.copy_(store.sequences([SITE], 0, store.n_seq)[store.keep].mean(0))
    sums, x = Accumulator(dictionary), store.sequences([SITE], 0, store.n_seq)
    sums.update(x, x, store.keep)
    assert sums.result().table()["fvu"].value == pytest.approx(1, abs=1e-5)


def test_a_bootstrap_interval_of_a_mean_has_the_width_of_its_standard_error():
    x = np.random.default_rng(0).normal(3, 2, 400)
    found = estimate({"x": x, "n": np.ones(400)}, lambda s: s["x"] / s["n"])
    assert found.value == pytest.approx(x.mean())
    assert (found.high - found.low) / (2 * 1.96 * x.std() / 20) == pytest.approx(1, abs=0.1)


def test_an_evaluation_finds_its_run_again(trained: dict[str, Run], together: dict[str, Run], ctx: Context):
    said: list[str] = []
    assert execute(Evaluate(trained["sae"].id, SEQUENCES), ctx, said.append) == together["sae"]
    assert said == [f"{together['sae'].id} is there already: nothing to do"]
    assert runs.open_run(ctx.root, together["sae"].id, "evaluate") == together["sae"]
