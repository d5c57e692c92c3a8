from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import sys
import zipfile

import numpy as np
import pytest

from nbnorm import storage

posix = pytest.mark.posix("permissions, links and devices")
not_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


def npy_bytes(array, allow_pickle=False):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def npy_header(descr, shape, fortran=False):
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path, members, compression=zipfile.ZIP_STORED, **changes):
    header = {"format": "nbnorm", "version": 1, "kind": "network", "config": {}, "arrays": list(members)}
    header.update(changes)
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("nbnorm.json", json.dumps(header))
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)


ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "scalar": np.array(7),
    "empty": np.empty((0, 3)),
    "flags": np.array([True, False]),
    "half": np.array([np.nan, np.inf, -0.0], dtype=np.float16),
}


def test_write_then_read(path):
    config = {"sizes": [64, 10], "eps": 1e-5, "name": "Straße", "none": None}
    storage.write(path, "network", config, ARRAYS)
    got_config, got = storage.read(path, "network")
    assert got_config == config
    assert list(got) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert got[name].dtype == expected.dtype
        assert got[name].flags.writeable
        np.testing.assert_array_equal(got[name], expected)


def test_write_is_a_plain_npz(path):
    storage.write(path, "network", {}, ARRAYS)
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["weight"], ARRAYS["weight"])


def test_write_equal_contents_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        storage.write(tmp_path / name, "network", {"x": 1}, ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_read_foreign_byte_order(path):
    archive(path, {"a": npy_bytes(np.array([1.0, 2.0], dtype=">f8"))})
    got = storage.read(path, "network")[1]["a"]
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, [1.0, 2.0])


@pytest.mark.parametrize(
    "array", [np.array([object()]), np.array(["text"]), np.array([1j]), np.zeros(1, "f4,f4")]
)
def test_write_refuses_other_dtypes(path, array):
    with pytest.raises(TypeError, match="'a' must hold real numbers"):
        storage.write(path, "network", {}, {"a": array})
    assert not path.exists()


@pytest.mark.parametrize(("config", "error"), [({"x": float("nan")}, ValueError), ({"x": {1}}, TypeError)])
def test_write_refuses_config(path, config, error):
    path.write_text("before")
    with pytest.raises(error):
        storage.write(path, "network", config, {})
    assert path.read_text() == "before"


class Attack:
    def __reduce__(self):
        return (sys.exit, ("code was run",))


HOSTILE = {
    "pickle": (npy_bytes(np.array([Attack()], dtype=object), allow_pickle=True), "holds Python objects"),
    "object field": (npy_header([("a", "|O")], (1,)) + pickle.dumps([Attack()]), "holds Python objects"),
    "text": (npy_bytes(np.array(["a"])), "dtype <U1"),
    "complex": (npy_bytes(np.array([1j])), "dtype complex128"),
    "absurd size": (npy_header("<f8", (1 << 60,)), "has 0 bytes, expected 9223372036854775808"),
    "overflowing size": (npy_header("<f8", (1 << 62, 1 << 62)) + bytes(8), "has 8 bytes"),
    "negative size": (npy_header("<f8", (-1,)) + bytes(8), r"shape \(-1,\)"),
    "too long": (npy_header("<f8", (1,)) + bytes(16), "has 16 bytes, expected 8"),
    "column order": (npy_header("<f8", (2, 2), fortran=True) + bytes(32), "fortran_order True"),
    "code in the header": (npy_header("<f8", "exit()"), "ValueError"),
    "not an array": (b"text", "ValueError"),
    "no bytes": (b"", "ValueError"),
    "future array format": (b"\x93NUMPY\x03\x00" + bytes(100), r"NPY version \(3, 0\)"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_read_refuses_hostile_array(path, case):
    data, expected = HOSTILE[case]
    archive(path, {"a": data})
    with pytest.raises(ValueError, match=expected) as caught:
        storage.read(path, "network")
    assert str(caught.value).startswith(f"{path} is not a readable nbnorm file: ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "standardizer"}, "it holds a 'standardizer', expected a 'network'"),
        ({"kind": 3}, "incomplete"),
        ({"version": 2}, "format version 2 is newer than 1"),
        ({"version": "1"}, "format version '1' is unknown"),
        ({"version": True}, "format version True is unknown"),
        ({"format": "other"}, "does not describe one"),
        ({"config": []}, "incomplete"),
        ({"config": {"x": float("inf")}}, "Infinity"),
        ({"arrays": []}, "not the arrays that it lists"),
        ({"arrays": ["a", "b"]}, "not the arrays that it lists"),
        ({"arrays": [["a"]]}, "incomplete"),
    ],
)
def test_read_refuses_header(path, changes, expected):
    archive(path, {"a": npy_bytes(np.ones(2))}, **changes)
    with pytest.raises(ValueError, match=expected):
        storage.read(path, "network")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_read_refuses_broken_json(path, text):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("nbnorm.json", text)
    with pytest.raises(ValueError, match="is not a readable nbnorm file"):
        storage.read(path, "network")


def test_read_refuses_compressed_members(path):
    archive(path, {"a": npy_bytes(np.zeros(1_000_000))}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed or encrypted"):
        storage.read(path, "network")


def test_read_refuses_foreign_npz(path):
    np.savez(path, weight=np.ones(3))
    with pytest.raises(ValueError, match=r"it has no nbnorm\.json"):
        storage.read(path, "network")


def test_read_refuses_every_truncation(path):
    storage.write(path, "network", {"sizes": [2, 3]}, {"a": np.ones(2), "b": np.ones(3)})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="is not a readable nbnorm file"):
            storage.read(path, "network")


def test_read_never_fails_otherwise_on_damage(path):
    expected = np.arange(4.0)
    storage.write(path, "network", {"sizes": [2, 3]}, {"a": expected})
    data = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            config, arrays = storage.read(path, "network")
        except ValueError:
            continue
        # What is left are fields that carry no content, such as dates.
        assert config == {"sizes": [2, 3]}
        np.testing.assert_array_equal(arrays["a"], expected)


def test_read_missing_file(path):
    with pytest.raises(FileNotFoundError, match=r"model\.npz"):
        storage.read(path, "network")


def test_replace_keeps_the_old_file_on_error(path):
    path.write_bytes(b"before")

    def write():
        with storage.replace(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_bytes() == b"before"
    assert [item.name for item in path.parent.iterdir()] == ["model.npz"]


def test_replace_shows_nothing_before_the_end(path):
    with storage.replace(path, "w") as file:
        file.write("text")
        assert not path.exists()
    assert path.read_text() == "text"


@posix
def test_replace_keeps_rights_and_links(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(target)
    with storage.replace(link, "w") as file:
        file.write("after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@posix
def test_replace_follows_the_umask(path):
    before = os.umask(0o027)
    try:
        with storage.replace(path) as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
def test_replace_writes_devices_directly():
    with storage.replace("/dev/null") as file:
        file.write(b"x")
    storage.check_writable("/dev/null")
    assert not stat.S_ISREG(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("write", [storage.check_writable, lambda path: storage.replace(path).__enter__()])
def test_unwritable_paths_are_named(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"missing.model\.npz"):
        write(f"{tmp_path}/missing/model.npz")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        write(tmp_path)


@not_root
def test_check_writable_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"model\.npz"):
        storage.check_writable(tmp_path / "model.npz")


def test_check_writable_leaves_nothing(path):
    storage.check_writable(path)
    assert list(path.parent.iterdir()) == []


def test_replace_mode():
    with pytest.raises(ValueError, match="mode must be 'wb' or 'w', got 'a'"), storage.replace("x", "a"):
        pass
