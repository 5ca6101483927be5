"""`interp describe` on the real cache and dictionary of a tiny model: every table against the dense codes."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from interp import runs
from interp.features import codes, latents, stats, windows
from interp.features.examples import RANDOM, SILENT, TOP, Quota
from interp.runs import Draft, Run
from interp.sites import Site
from interp.stages.base import Context, execute
from interp.stages.cache import Cache
from interp.stages.describe import Describe
from interp.stages.train import Train
from interp.store import Store
from saes import files
from saes.architectures import TopK
from saes.errors import InputError

SITES = (Site(1, "z"), Site(1, "mlp_in"), Site(1, "resid_post"))
WIDTH = 150
FILES = ("latents.arrow", "examples.parquet", "histograms.safetensors", "logits.safetensors", "neighbours.safetensors")


@dataclasses.dataclass(frozen=True)
class Described:
    """A describe run and what it should say, from the dense code of every kept token."""

    ctx: Context
    train: Run
    run: Run
    store: Store
    dense: np.ndarray
    """[flat position, latent], zero where excluded."""
    keep: np.ndarray


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(tmp_path_factory.mktemp("runs"), device="cpu")


@pytest.fixture(scope="module")
def cache(ctx: Context, tiny_llama: Path, corpus_file: Path) -> Run:
    done = execute(Cache(sites=SITES, model=str(tiny_llama), text=f"files:{corpus_file}", tokens=2400, context=40, dtype="float32"), ctx)
    assert done is not None
    return done


def trained(ctx: Context, cache: Run, site: Site) -> Run:
    done = execute(Train(cache.id, architecture=TopK(4), site=str(site), width=WIDTH, epochs=1.0, batch_size=256, precision="float32"), ctx)
    assert done is not None
    return done


@pytest.fixture(scope="module")
def described(ctx: Context, cache: Run) -> Described:
    train = trained(ctx, cache, SITES[2])
    run = execute(Describe(train.id), ctx)
    assert run is not None
    store = Store.open(cache, SITES[2])
    keep = store.keep.numpy()
    dictionary = files.load(train.path)
    with torch.no_grad():
        dense = dictionary.encode(store.sequences([SITES[2]], 0, store.n_seq).float()).numpy() * keep[..., None]
    return Described(ctx, train, run, store, dense.reshape(-1, WIDTH), keep.ravel())


def table(run: Run) -> pa.Table:
    with pa.memory_map(str(run.file("latents.arrow"))) as source:
        return pa.ipc.open_file(source).read_all()


def test_the_latents_table_equals_the_dense_codes(described: Described):
    found, dense = table(described.run), described.dense
    assert found.column_names == list(latents.ORDER)
    assert found["latent"].to_pylist() == list(range(WIDTH))
    assert found["n_active"].to_pylist() == (dense > 0).sum(0).tolist()
    np.testing.assert_allclose(found["density"].to_numpy(), (dense > 0).sum(0) / described.keep.sum(), rtol=1e-6)
    np.testing.assert_allclose(found["max_act"].to_numpy(), dense.max(0), rtol=1e-4)
    assert found["dead"].to_pylist() == (dense.max(0) == 0).tolist()
    tokens = described.store.tokens.ravel()
    for latent in range(WIDTH):
        if (on := dense[:, latent] > 0).any():
            row = {
                name: found[name][latent].as_py() for name in ("p50", "p90", "mean_act", "top_token_share", "top_token", "token_entropy")
            }
            counts = np.bincount(tokens[on])
            share = counts[counts > 0] / on.sum()
            assert row["p50"] == pytest.approx(np.quantile(dense[on, latent], 0.5), rel=1e-4)
            assert row["p90"] == pytest.approx(np.quantile(dense[on, latent], 0.9), rel=1e-4)
            assert row["mean_act"] == pytest.approx(dense[on, latent].mean(), rel=1e-4)
            assert (row["top_token"], row["top_token_share"]) == (counts.argmax(), pytest.approx(share.max()))
            assert row["token_entropy"] == pytest.approx(-(share * np.log(share)).sum(), abs=1e-5)


def test_tables_say_what_they_were_computed_from(described: Described):
    model = described.store.run.config["config"]["model_revision"]
    expected = {"model_revision": model, "dictionary": described.train.id, "tokens": str(described.keep.sum()), "seed": "0"}
    expected |= {"definitions": stats.DEFINITIONS}
    found = table(described.run).schema.metadata
    assert {key.decode(): value.decode() for key, value in found.items()} == expected
    examples = pq.read_schema(described.run.file("examples.parquet")).metadata
    assert expected.items() <= {key.decode(): value.decode() for key, value in examples.items()}.items()
    for name in FILES[2:]:
        with safe_open(described.run.file(name), "np") as file:
            assert json.loads(file.metadata()["computed_from"]) == expected


def test_row_group_i_holds_the_examples_of_latents_64_i_to_64_i_plus_63_in_order(described: Described):
    file = pq.ParquetFile(described.run.file("examples.parquet"))
    assert file.num_row_groups == -(-WIDTH // windows.GROUP)
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group)
        assert rows.schema.remove_metadata().equals(windows.SCHEMA)
        assert {latent // windows.GROUP for latent in rows["latent"].to_pylist()} <= {group}
        order = list(zip(*(rows[name].to_pylist() for name in ("latent", "bucket", "rank")), strict=True))
        assert order == sorted(set(order))


def test_examples_point_to_where_the_latent_is_or_is_not_active(described: Described):
    rows = pq.read_table(described.run.file("examples.parquet")).to_pylist()
    grid, keep = described.dense.reshape(*described.store.tokens.shape, WIDTH), described.keep.reshape(described.store.tokens.shape)
    assert {row["bucket"] for row in rows} == {TOP, 1, 2, 3, 4, 5, RANDOM, SILENT}
    for row in rows:
        seq, pos, start = row["seq"], row["pos"], row["start"]
        assert keep[seq, pos]
        assert row["act"] == pytest.approx(grid[seq, pos, row["latent"]], rel=2e-3)
        assert (row["act"] == 0) == (row["bucket"] == SILENT)
        np.testing.assert_allclose(row["acts"], grid[seq, start : start + windows.WINDOW, row["latent"]], rtol=2e-3, atol=1e-4)
    strongest = {row["latent"]: row["act"] for row in rows if (row["bucket"], row["rank"]) == (TOP, 0)}
    assert strongest.keys() == set(np.flatnonzero(described.dense.max(0) > 0).tolist())


def test_histograms_logits_and_neighbours_have_their_shapes_and_lose_nothing(described: Described):
    histograms, effects, near = (load_file(described.run.file(f"{name}.safetensors")) for name in ("histograms", "logits", "neighbours"))
    n_vocab = len(pa.ipc.open_file(described.store.run.file("vocab.arrow")).read_all())
    assert histograms["acts"].sum(1).tolist() == (described.dense > 0).sum(0).tolist()
    assert histograms["logits"].sum(1).tolist() == [n_vocab] * WIDTH
    assert {name: (value.shape, str(value.dtype)) for name, value in {**histograms, **effects, **near}.items()} == {
        "acts": ((WIDTH, 50), "uint32"), "logits": ((WIDTH, 50), "uint32"), "logit_range": ((WIDTH, 2), "float32"),
        "top_ids": ((WIDTH, 20), "int32"), "bottom_ids": ((WIDTH, 20), "int32"), "top": ((WIDTH, 20), "float16"),
        "bottom": ((WIDTH, 20), "float16"), "ids": ((WIDTH, 20), "int32"), "cos": ((WIDTH, 20), "float16"),
    }  # fmt: skip
    found = table(described.run)
    assert found["nearest"].to_pylist() == near["ids"][:, 0].tolist()
    decoder = files.load(described.train.path).W_dec.double()
    cosine = torch.nn.functional.cosine_similarity(decoder, decoder[near["ids"][:, 0]])
    np.testing.assert_allclose(found["nearest_cos"].to_numpy(), cosine.numpy(), atol=1e-5)


def test_the_summary_agrees_with_the_tables(described: Described):
    figures = json.loads(described.run.file("summary.json").read_text())
    active = described.dense > 0
    assert figures["latents"] == WIDTH
    assert figures["tokens"] == described.keep.sum()
    assert figures["l0"] == pytest.approx(active.sum() / described.keep.sum())
    assert figures["alive"] == active.any(0).sum()
    assert figures["dead_share"] == pytest.approx(1 - active.any(0).mean())
    assert figures["dense_share"] == pytest.approx((active.sum(0) / described.keep.sum() > 0.1).mean())
    assert set(described.run.manifest) >= {*FILES, "summary.json", "config.json"}
    assert not any("checkpoint" in name for name in described.run.manifest)


def test_batches_and_interruption_change_no_byte(described: Described, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Twice the work in a folder of its own: in tiny pieces, killed after some of them and begun again."""
    stage, draft, written_pieces = Describe(described.train.id), Draft(tmp_path / "describe-00000000.part"), []
    draft.path.mkdir()
    original = codes.write_piece

    def killed(*arguments: object) -> None:
        if len(written_pieces) == 3:
            raise KeyboardInterrupt
        written_pieces.append(original(*arguments))  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("interp.features.corpus.Writer", functools.partial(codes.Writer, limit=500))
    monkeypatch.setattr("interp.features.corpus.BATCH", WIDTH * 40 * 4)
    monkeypatch.setattr(codes, "write_piece", killed)
    with pytest.raises(KeyboardInterrupt):
        stage.work(draft, described.ctx)
    monkeypatch.setattr(codes, "write_piece", original)
    stage.work(draft, described.ctx)
    assert len(codes.pieces(draft.path / codes.INDEX)) > 5
    for name in FILES:
        assert (draft.path / name).read_bytes() == described.run.file(name).read_bytes(), name


def test_fewer_tokens_and_other_quotas_are_another_run(described: Described):
    run = execute(Describe(described.train.id, tokens=400, examples=Quota(top=2, per_band=1, random=1, silent=1)), described.ctx)
    assert run is not None
    assert run.id != described.run.id
    assert json.loads(run.file("summary.json").read_text())["tokens"] == described.keep[:400].sum()
    rows = pq.read_table(run.file("examples.parquet"))
    assert max(rows["seq"].to_pylist()) < 10
    counts = np.unique(np.stack([rows["latent"].to_numpy(), rows["bucket"].to_numpy()]), axis=1, return_counts=True)[1]
    assert counts.max() == 2


def test_a_dictionary_of_z_is_read_through_its_output_weights(ctx: Context, cache: Run):
    run = execute(Describe(trained(ctx, cache, SITES[0]).id), ctx)
    assert run is not None
    assert np.isfinite(table(run)["logit_kurtosis"].to_numpy()).all()


def test_a_site_that_writes_nothing_has_no_logits(ctx: Context, cache: Run):
    run = execute(Describe(trained(ctx, cache, SITES[1]).id), ctx)
    assert run is not None
    assert not run.has("logits.safetensors")
    assert set(load_file(run.file("histograms.safetensors"))) == {"acts"}
    assert table(run)["logit_kurtosis"].null_count == WIDTH


def test_the_plan_says_tokens_scratch_and_time(described: Described):
    plan = Describe(described.train.id).plan(described.ctx)
    assert f"{described.keep.sum():,}" in plan.lines["tokens"]
    assert "4.0 active a token" in plan.lines["dictionary"]
    size = sum(entry["size"] for entry in described.run.manifest.values())
    assert size < plan.disk < 20 * size
    assert 0 < plan.seconds < 60


def test_bad_input_is_answered_in_one_sentence(described: Described):
    with pytest.raises(InputError, match="is less than none"):
        Describe(described.train.id, tokens=-1)
    with pytest.raises(InputError, match="0 to 65,535 of each kind"):
        Quota(top=-1)
    with pytest.raises(InputError, match="a train run is needed"):
        execute(Describe(described.store.run.id), described.ctx)
    with pytest.raises(InputError, match="there is no run train-00000000"):
        execute(Describe("train-00000000"), described.ctx)


def test_another_model_under_the_same_name_is_refused(described: Described, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("interp.models.hub.Local.revision", lambda self: "another")
    with pytest.raises(InputError, match=r"was trained on .* but that model is now another"):
        execute(Describe(described.train.id), described.ctx)
    assert runs.find_run(described.ctx.root, described.run.id) is not None
