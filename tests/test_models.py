"""Models: every site of two architectures, equal to what transformers and third parties computed."""

from pathlib import Path

import pytest
import torch
from conftest import shared
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from interp.hooks import patched, record, spliced
from interp.models import Model, load, source
from interp.sites import HEAD_STREAMS, STREAMS, Site
from saes.architectures import TopK
from saes.errors import InputError


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def model(folder: Path) -> Model:
    return load(str(folder))


TOKENS = torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(0))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert float((a - b).norm() / b.norm()) < tolerance


def test_logits_and_residual_streams_are_those_of_transformers(folder: Path, model: Model):
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder)(TOKENS, output_hidden_states=True)
    close(model(TOKENS), theirs.logits)
    found = record(model, TOKENS, [Site(layer, "resid_pre") for layer in range(3)])
    for layer in range(3):
        close(found[Site(layer, "resid_pre")], theirs.hidden_states[layer])
    close(record(model, TOKENS, [Site(1, "resid_post")])[Site(1, "resid_post")], theirs.hidden_states[2])


def test_norms_are_computed_once(tiny_llama: Path):
    class Powers(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function is torch.ops.aten.pow.Tensor_Scalar
            return function(*args, **(kwargs or {}))

    model = load(str(tiny_llama))
    with torch.no_grad(), Powers() as found:
        model(TOKENS)
    assert found.count == 2 * model.n_layers + 1


def test_every_stream_is_recorded_and_recording_changes_no_logit(model: Model):
    before = model(TOKENS)
    found = record(model, TOKENS, [Site(2, stream) for stream in STREAMS])
    assert torch.equal(model(TOKENS), before)
    assert model.hook_count() == 0
    for site, activation in found.items():
        wanted = (3, 4, 17, 17) if site.stream == "pattern" else (3, 17, model.width(site))
        assert (activation.shape if site.stream == "pattern" else activation.flatten(2).shape) == wanted


def test_the_streams_of_a_layer_fit_together(model: Model):
    found = {site.stream: a for site, a in record(model, TOKENS, [Site(1, stream) for stream in STREAMS]).items()}
    close(found["resid_pre"] + found["attn_out"], found["resid_mid"])
    close(found["resid_mid"] + found["mlp_out"], found["resid_post"])
    group = model.n_heads // model.n_kv_heads
    values = found["v"].repeat_interleave(group, dim=2)
    close(torch.einsum("bhqk,bkhd->bqhd", found["pattern"], values), found["z"])
    bias = getattr(model.bridge.blocks[1].attn, "b_O", None)
    close(torch.einsum("bqhd,hdm->bqm", found["z"], model.w_o(1)) + (0 if bias is None else bias), found["attn_out"])


def test_one_head_is_a_slice_of_its_stream(model: Model):
    for stream in HEAD_STREAMS:
        found = record(model, TOKENS, [Site(0, stream), Site(0, stream, 1)])
        whole = found[Site(0, stream)]
        assert torch.equal(found[Site(0, stream, 1)], whole[:, 1] if stream == "pattern" else whole[:, :, 1])


def test_a_forward_from_a_layer_runs_only_what_follows(model: Model):
    resid = record(model, TOKENS, [Site(2, "resid_pre")])[Site(2, "resid_pre")]
    ran = []
    with model.hooked({Site(layer, "mlp_out"): (lambda layer: lambda _: ran.append(layer))(layer) for layer in range(3)}):
        logits = model.forward_from(2, resid)
    assert ran == [2]
    close(logits, model(TOKENS))
    close(model.unembed(record(model, TOKENS, [Site(2, "resid_post")])[Site(2, "resid_post")]), logits)


def test_a_patch_of_one_head_changes_that_head_alone_and_leaves_no_trace(model: Model):
    before = model(TOKENS)
    with patched(model, {Site(1, "z", 2): torch.zeros_like}):
        found = record(model, TOKENS, [Site(1, "z")])[Site(1, "z")]
        assert not torch.equal(model(TOKENS), before)
    clean = record(model, TOKENS, [Site(1, "z")])[Site(1, "z")]
    assert not found[:, :, 2].any()
    assert torch.equal(found[:, :, [0, 1, 3]], clean[:, :, [0, 1, 3]])
    assert torch.equal(model(TOKENS), before)


def test_hooks_are_gone_after_an_error_inside(model: Model):
    with pytest.raises(RuntimeError), patched(model, {Site(1, "mlp_out"): torch.zeros_like}):
        raise RuntimeError
    assert model.hook_count() == 0


@pytest.mark.parametrize("stream", ["resid_post", "z", "mlp_in"])
def test_splicing_with_the_error_added_back_changes_nothing(model: Model, stream: str):
    site = Site(1, stream)  # pyright: ignore[reportArgumentType]
    dictionary = TopK(k=4).build(model.width(site), model.width(site), 64)
    before = model(TOKENS)
    with spliced(model, {site: dictionary}, error=True):
        close(model(TOKENS), before)
    with spliced(model, {site: dictionary}):
        assert float((model(TOKENS) - before).abs().max()) > 1e-3


def test_recorded_values_equal_what_the_author_of_nanosort_stored():
    theirs = load_file(shared("models/nanosort/activations.safetensors"))
    model = load(str(shared("models/nanosort/hf")))
    tokens = theirs["idx"].long()
    names = {"x": "resid_pre", "q": "q", "k": "k", "v": "v", "attSm": "pattern", "y": "z", "yProj": "attn_out", "attnResid": "resid_mid",
             "ln2": "mlp_in", "mlp": "mlp_out", "mlpResid": "resid_post"}  # fmt: skip
    found = record(model, tokens, [Site(0, stream) for stream in names.values()])  # pyright: ignore[reportArgumentType]
    for name, stream in names.items():
        ours, stored = found[Site(0, stream)], theirs[name]  # pyright: ignore[reportArgumentType]
        if stream in ("q", "k", "v"):
            ours = ours.transpose(1, 2)
        elif stream == "z":
            ours = ours.flatten(2)
        assert float((ours - stored).abs().max()) < 1e-5, name
    assert float((model(tokens) - theirs["lm_head"]).abs().max()) < 1e-5


def test_stories260k_has_its_published_loss():
    model = load(str(shared("models/stories260K/hf")))
    stories = [s.strip() for s in shared("text/tinystories/tinystories_2MB.txt").read_text().split("<|endoftext|>") if s.strip()][:5]
    loss = count = 0.0
    for story in stories:
        ids = torch.tensor([[model.bos, *model.tokenizer(story, add_special_tokens=False)["input_ids"]]])[:, :512]
        log_p = model(ids)[0, :-1].log_softmax(-1)
        loss -= float(log_p.gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert loss / count == pytest.approx(1.3401, abs=5e-4)


@pytest.mark.parametrize("site", [Site(3, "z"), Site(0, "z", 4), Site(0, "k", 4)])
def test_a_site_out_of_range_is_named_with_what_there_is(model: Model, site: Site):
    with pytest.raises(InputError, match=r"out of range: .* (layers|heads)"):
        record(model, TOKENS, [site])


def test_a_model_that_cannot_be_had_ends_in_one_sentence_with_the_ways(tmp_path: Path):
    with pytest.raises(InputError, match="--model smollm2") as error:
        load("nobody/no-such-model")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="--model smollm2"):
        load(str(tmp_path))
    with pytest.raises(InputError, match="choose one of float32"):
        load("smollm2", dtype="int8")
    with pytest.raises(InputError, match="is not here"):
        load(str(tmp_path), device="cuda:99")


def test_the_revision_of_a_folder_changes_with_its_weights(tiny_llama: Path, tiny_gpt2: Path):
    assert source(str(tiny_llama)).revision() != source(str(tiny_gpt2)).revision()


@pytest.mark.slow
def test_smollm2_prefers_the_indirect_object():
    model = load("smollm2")
    ids = torch.tensor([[model.bos, *model.tokenizer("When Mary and John went to the store, John gave a drink to")["input_ids"]]])
    answer = model(ids)[0, -1].softmax(-1)[model.tokenizer(" Mary")["input_ids"][0]]
    assert float(answer) > 0.5
