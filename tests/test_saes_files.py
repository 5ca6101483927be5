"""Normalisation folds exactly, dictionaries and checkpoints come back from disk, bad files are named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_saes_kernels import random_dictionary

from saes import checkpoint, files
from saes.architectures import ARCHITECTURES, TopK
from saes.checkpoint import Checkpoint
from saes.errors import InputError
from saes.normalise import fold, measure


def raw(tokens: int, d: int, seed: int) -> torch.Tensor:
    """Activations with an offset and unequal scales."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, d, generator=generator) * (0.2 + torch.rand(d, generator=generator)) * 7 + 3 * torch.randn(
        d, generator=generator
    )


def test_normalised_activations_are_centred_with_mean_square_norm_d():
    x, y = raw(500, 12, 0), raw(500, 5, 1)
    norm = measure(x, y)
    for values, d in ((norm.x(x), 12), (norm.y(y), 5)):
        torch.testing.assert_close(values.mean(0), torch.zeros(d), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.square().sum(1).mean(), torch.tensor(float(d)), rtol=1e-5, atol=0)
    assert norm.variance == pytest.approx(float(y.var(0, correction=0).sum()), rel=1e-5)
    torch.testing.assert_close(norm.raw_y(norm.y(y)), y, rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(
    d_in=st.integers(2, 9),
    d_out=st.integers(2, 9),
    n=st.integers(2, 30),
    family=st.sampled_from(["autoencoder", "transcoder", "skip"]),
    seed=st.integers(0, 99),
)
def test_a_folded_dictionary_is_the_same_function_with_the_same_latents(d_in: int, d_out: int, n: int, family: str, seed: int):
    d_out = d_in if family == "autoencoder" else d_out
    dictionary = random_dictionary(d_in, d_out, n, max(1, n // 4), transcoder=family != "autoencoder", skip=family == "skip", seed=seed)
    x = raw(40, d_in, seed)
    norm = measure(x, x if family == "autoencoder" else raw(40, d_out, seed + 1))
    folded = fold(dictionary, norm)
    inside = norm.x(x.double())
    torch.testing.assert_close(folded.encode(x.double()), dictionary.encode(inside), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(folded(x.double()), norm.raw_y(dictionary(inside)), rtol=1e-10, atol=1e-10)


def test_an_autoencoder_refuses_two_normalisations():
    with pytest.raises(InputError, match="measured apart"):
        fold(random_dictionary(4, 4, 8, 2), measure(raw(20, 4, 0), raw(20, 4, 1)))


@pytest.mark.parametrize(
    ("sample", "word"), [(torch.ones(9, 3), "variance"), (torch.full((9, 3), torch.nan), "variance"), (torch.ones(1, 3), "too few")]
)
def test_a_sample_that_cannot_be_measured_is_refused(sample: torch.Tensor, word: str):
    with pytest.raises(InputError, match=word):
        measure(sample, sample)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values())
@pytest.mark.parametrize("family", ["autoencoder", "transcoder", "skip"])
def test_a_saved_dictionary_reads_raw_activations_as_the_trained_one_did(tmp_path: Path, architecture: type[TopK], family: str):
    d_out = 16 if family == "autoencoder" else 10
    dictionary = architecture().build(16, d_out, 64, transcoder=family != "autoencoder", skip=family == "skip")
    x = raw(300, 16, 0)
    norm = measure(x, x if family == "autoencoder" else raw(300, 10, 1))
    check = files.save(dictionary, tmp_path / "sae", normalisation=norm, metadata={"site": "3.resid_post"})
    assert check.max_difference < 1e-5
    loaded = files.load(tmp_path / "sae")
    torch.testing.assert_close(loaded(x), norm.raw_y(dictionary(norm.x(x))), rtol=1e-3, atol=1e-3)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.W_enc.stride() == dictionary.W_enc.stride()
    description = files.describe(tmp_path / "sae")
    assert description["metadata"] == {"site": "3.resid_post"}
    assert description["check"] == json.loads(json.dumps(vars(files.verify(tmp_path / "sae"))))


def test_verify_sees_weights_that_were_changed(tmp_path: Path):
    x = raw(300, 8, 0)
    files.save(TopK(k=4).build(8, 8, 32), tmp_path, normalisation=measure(x, x), metadata={})
    weights = load_file(tmp_path / files.WEIGHTS)
    weights["b_dec"] = weights["b_dec"] + 0.1
    save_file(weights, tmp_path / files.WEIGHTS)
    assert not files.verify(tmp_path).passed


def test_a_folder_that_holds_no_dictionary_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="holds no dictionary"):
        files.load(tmp_path)
    x = raw(300, 8, 0)
    files.save(TopK(k=4).build(8, 8, 32), tmp_path, normalisation=measure(x, x), metadata={})
    whole = (tmp_path / files.WEIGHTS).read_bytes()
    (tmp_path / files.WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        files.load(tmp_path)
    (tmp_path / files.WEIGHTS).write_bytes(whole)
    description = json.loads((tmp_path / files.JSON).read_text())
    for change, word in (({"schema": 99}, "schema 99"), ({"activation": {"kind": "Softmax"}}, "Softmax"), ({"d_dict": 31}, "does not fit")):
        (tmp_path / files.JSON).write_text(json.dumps(description | change))
        with pytest.raises(InputError, match=word):
            files.load(tmp_path)


def example() -> Checkpoint:
    tensors = {
        "module/w": torch.randn(40, 3).t(),
        "silent": torch.arange(5),
        "generator": torch.Generator().get_state(),
        "half": torch.ones(3).bfloat16(),
    }
    return Checkpoint(step=7, tokens=70, config={"lr": None, "betas": [0.9, 0.999]}, tensors=tensors | {"step": torch.tensor(3.0)})


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path):
    saved = example()
    checkpoint.write(tmp_path / "c", saved)
    read = checkpoint.read(tmp_path / "c")
    assert replace(read, tensors={}) == replace(saved, tensors={})
    assert read.tensors.keys() == saved.tensors.keys()
    assert all(torch.equal(read.tensors[name], saved.tensors[name]) for name in saved.tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "missing"])
def test_a_damaged_checkpoint_is_refused_with_a_sentence(tmp_path: Path, damage: str):
    path = tmp_path / "c"
    checkpoint.write(path, example())
    whole = path.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[:-100], "flipped": flipped, "empty": b"", "text": b"{}"}[damage])
    with pytest.raises(InputError, match="checkpoint"):
        checkpoint.read(path)


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "c"
    checkpoint.write(path, example())
    monkeypatch.setattr("saes.checkpoint.os.fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(path, replace(example(), step=8))
    monkeypatch.undo()
    assert checkpoint.read(path).step == 7
    assert [file.name for file in tmp_path.iterdir()] == ["c"]
