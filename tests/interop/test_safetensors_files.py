import io
import json
import struct

import numpy as np
import pytest
from numba import njit

from nbnorm import FNN, Activation, Huber
from nbnorm.interop import load_safetensors, save_safetensors

safetensors = pytest.importorskip("safetensors.numpy")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_that_save_keeps(tmp_path, table, trained, dtype):
    X = table[0].astype(dtype)
    net = trained(
        (6, 5, 1), X=X, y=X[:, 3], output="identity", loss=Huber(0.5), encoding="piecewise", dropout=0.25,
        standardize_targets=True, running="std", dtype=dtype,
    )  # fmt: skip
    net.metadata = {"name": "Straße", "classes": [1, 2]}
    save_safetensors(net, tmp_path / "net.safetensors")
    got = load_safetensors(tmp_path / "net.safetensors")
    first, second = io.BytesIO(), io.BytesIO()
    net.save(first)
    got.save(second)
    assert first.getvalue() == second.getvalue()
    plain = safetensors.load_file(tmp_path / "net.safetensors")
    assert plain.keys() == net.parameters().keys() | net.buffers().keys()
    file = io.BytesIO()
    save_safetensors(net, file)
    assert file.getvalue() == (tmp_path / "net.safetensors").read_bytes()


def test_functions_of_your_own_are_given_again():
    own = Activation(njit(lambda z: z * z), njit(lambda z: 2 * z), name="square")
    file = io.BytesIO()
    save_safetensors(FNN([2, 3, 2], activation=own), file)
    file.seek(0)
    with pytest.raises(
        ValueError, match="its activation 'square' is not one of the package: give activation="
    ):
        load_safetensors(file)
    file.seek(0)
    assert load_safetensors(file, activation=own).activation is own


def test_save_safetensors_refuses(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_text("before")
    with pytest.raises(TypeError, match="net must be an FNN, such as an estimator's network_, got int"):
        save_safetensors(1, path)
    net = FNN([2, 2])
    net.metadata = {"value": float("inf")}
    with pytest.raises(ValueError, match="Out of range"):
        save_safetensors(net, path)
    assert path.read_text() == "before"


def file_of(header, data=bytes(16)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype="F32", shape=(4,), end=16):
    return {"dense1.weight": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, end]}}


def note(**changes):
    entry = {"version": 1, "kind": "network", "config": {}, **changes}
    return {"__metadata__": {"nbnorm": json.dumps(entry)}}


HOSTILE = {
    "a header beyond the file": (struct.pack("<Q", 1 << 40), "not a safetensors file"),
    "a tensor beyond the file": (
        file_of({**tensor(shape=(1 << 40,), end=1 << 42), **note()}),
        "not a safetensors",
    ),
    "a shape of other size": (
        file_of({**tensor(shape=(1 << 40, 1 << 30)), **note()}),
        "not a safetensors file",
    ),
    "integers": (file_of({**tensor("I32"), **note()}), "tensor 'dense1.weight' has dtype I32, expected F32"),
    "no description": (file_of(tensor()), "no entry 'nbnorm': save_safetensors did not write it"),
    "another kind": (file_of({**tensor(), **note(kind="other")}), "describes no network"),
    "a newer version": (
        file_of({**tensor(), **note(version=2)}),
        "version 2 is not one that this nbnorm reads",
    ),
    "no text": (file_of({**tensor(), "__metadata__": {"nbnorm": "{"}}), "not a safetensors file"),
    "no options": (file_of({**tensor(), **note()}), "does not hold a network"),
    "no numbers": (file_of({**tensor(), **note(config={"eps": float("nan")})}), "holds NaN"),
    "depth": (file_of(b"[" * 100_000), "not a safetensors file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_load_safetensors_refuses_hostile_files(tmp_path, case):
    data, message = HOSTILE[case]
    (tmp_path / "net.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=rf"net\.safetensors .*{message}"):
        load_safetensors(tmp_path / "net.safetensors")


def test_load_safetensors_claimed_sizes(tmp_path):
    net, path = FNN([2, 2]), tmp_path / "net.safetensors"
    save_safetensors(net, path)
    data = path.read_bytes()
    text = data[8 : 8 + struct.unpack("<Q", data[:8])[0]]
    changed = text.replace(rb"\"sizes\": [2, 2]", rb"\"sizes\": [2, 1000000000000]")
    assert changed != text
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + len(text) :])
    with pytest.raises(
        ValueError, match=r"net\.safetensors does not hold a network: dense1\.weight does not have"
    ):
        load_safetensors(path)


def test_load_safetensors_damaged_files_are_value_errors(tmp_path, damaged):
    path = tmp_path / "net.safetensors"
    save_safetensors(FNN([3, 2, 1], output="identity", seed=0), path)
    messages = []
    for version in damaged(path.read_bytes()):
        path.write_bytes(version)
        try:
            assert isinstance(load_safetensors(path), FNN)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 8
    assert all("net.safetensors" in message for message in messages)
