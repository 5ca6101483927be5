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
from saes.architectures import Crosscoder, TopK
from saes.checkpoint import Checkpoint
from saes.errors import InputError
from saes.normalise import measure


def raw(tokens: int, d: int, seed: int) -> torch.Tensor:
    """Activations with an offset and unequal scales."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, d, generator=generator) * (0.2 + torch.rand(d, generator=generator)) * 7 + 3 * torch.randn(
        d, generator=generator
    )


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_normalised_activations_are_centred_with_mean_square_norm_d_in_every_part(parts: int):
    x, y = raw(500, 12, 0), raw(500, 6, 1)
    norm = measure(x, y, parts)
    for values, scale, d in ((norm.x(x), norm.scale_x, 12), (norm.y(y), norm.scale_y, 6)):
        torch.testing.assert_close(values.mean(0), torch.zeros(d), atol=1e-5, rtol=0)
        square = values.square().mean(0).view(parts, -1).sum(1)
        torch.testing.assert_close(square, torch.full((parts,), d / parts), rtol=1e-5, atol=0)
        assert len(scale.unique_consecutive()) == parts
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
    folded = dictionary.folded(norm)
    inside = norm.x(x.double())
    torch.testing.assert_close(folded.encode(x.double()), dictionary.encode(inside), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(folded(x.double()), norm.raw_y(dictionary(inside)), rtol=1e-10, atol=1e-10)


def test_an_autoencoder_refuses_two_normalisations():
    with pytest.raises(InputError, match="measured apart"):
        random_dictionary(4, 4, 8, 2).folded(measure(raw(20, 4, 0), raw(20, 4, 1)))


@pytest.mark.parametrize(
    ("sample", "word"), [(torch.ones(9, 3), "variance"), (torch.full((9, 3), torch.nan), "variance"), (torch.ones(1, 3), "too few")]
)
def test_a_sample_that_cannot_be_measured_is_refused(sample: torch.Tensor, word: str):
    with pytest.raises(InputError, match=word):
        measure(sample, sample)


def test_weights_keep_their_layout_through_a_file(tmp_path: Path):
    """A latent's encoder weights lie together, as its decoder row does."""
    x, dictionary = raw(300, 8, 0), TopK(k=4).build(8, 8, 32)
    files.save(dictionary, tmp_path, normalisation=measure(x, x), metadata={})
    assert files.load(tmp_path).W_enc.stride() == dictionary.W_enc.stride() == (1, 8)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_file_tells_the_scale_of_each_part_that_was_folded(tmp_path: Path, parts: int):
    x = raw(300, 8, 0)
    norm, arch = measure(x, x, parts), Crosscoder(k=4)
    dictionary = arch.build(8, 8, 32, parts=parts)
    arch.finish(dictionary, norm.x(x))
    files.save(dictionary, tmp_path, normalisation=norm, metadata={})
    scales = norm.scale_x[:: 8 // parts].tolist()
    assert files.describe(tmp_path)["folded"] == {"scale_x": scales, "scale_y": scales}


def test_a_dictionary_that_float32_cannot_hold_is_not_saved_in_silence(tmp_path: Path):
    x, dictionary = raw(300, 8, 0), TopK(k=4).build(8, 8, 32).double()
    with torch.no_grad():
        dictionary.W_enc.mul_(1e30)
        dictionary.W_dec.mul_(1e30)
    with pytest.raises(InputError, match="does not hold the dictionary that was trained"):
        files.save(dictionary, tmp_path, normalisation=measure(x, x), metadata={})


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
    sizes = description["settings"]
    changes = [
        ({"schema": 99}, "schema 99"),
        ({"module": "Perceptron"}, "Perceptron"),
        ({"settings": {**sizes, "activation": {"kind": "Softmax"}}}, "Softmax"),
        ({"settings": {**sizes, "d_dict": 31}}, "does not fit"),
    ]
    for change, word in changes:
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
