from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pickle
import shutil
import signal
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nbnorm import FNN, Moments, _files
from nbnorm.data import datasets, tables
from nbnorm.data.streams import read_statistics, standardize_file

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
    _files.write(path, "network", config, ARRAYS)
    got_config, got = _files.read(path, "network")
    assert got_config == config
    assert list(got) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert got[name].dtype == expected.dtype
        assert got[name].flags.writeable
        np.testing.assert_array_equal(got[name], expected)


def test_write_is_a_plain_npz(path):
    _files.write(path, "network", {}, ARRAYS)
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["weight"], ARRAYS["weight"])


def test_write_equal_contents_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        _files.write(tmp_path / name, "network", {"x": 1}, ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_read_foreign_byte_order(path):
    archive(path, {"a": npy_bytes(np.array([1.0, 2.0], dtype=">f8"))})
    got = _files.read(path, "network")[1]["a"]
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, [1.0, 2.0])


@pytest.mark.parametrize(
    "array", [np.array([object()]), np.array(["text"]), np.array([1j]), np.zeros(1, "f4,f4")]
)
def test_write_refuses_other_dtypes(path, array):
    with pytest.raises(TypeError, match="'a' must hold real numbers"):
        _files.write(path, "network", {}, {"a": array})
    assert not path.exists()


@pytest.mark.parametrize(("config", "error"), [({"x": float("nan")}, ValueError), ({"x": {1}}, TypeError)])
def test_write_refuses_config(path, config, error):
    path.write_text("before")
    with pytest.raises(error):
        _files.write(path, "network", config, {})
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
        _files.read(path, "network")
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
        _files.read(path, "network")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_read_refuses_broken_json(path, text):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("nbnorm.json", text)
    with pytest.raises(ValueError, match="is not a readable nbnorm file"):
        _files.read(path, "network")


def test_read_refuses_compressed_members(path):
    archive(path, {"a": npy_bytes(np.zeros(1_000_000))}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed or encrypted"):
        _files.read(path, "network")


def test_read_refuses_foreign_npz(path):
    np.savez(path, weight=np.ones(3))
    with pytest.raises(ValueError, match=r"it has no nbnorm\.json"):
        _files.read(path, "network")


def test_read_refuses_every_truncation(path):
    _files.write(path, "network", {"sizes": [2, 3]}, {"a": np.ones(2), "b": np.ones(3)})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="is not a readable nbnorm file"):
            _files.read(path, "network")


def test_read_never_fails_otherwise_on_damage(path):
    expected = np.arange(4.0)
    _files.write(path, "network", {"sizes": [2, 3]}, {"a": expected})
    data = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            config, arrays = _files.read(path, "network")
        except ValueError:
            continue
        # What is left are fields that carry no content, such as dates.
        assert config == {"sizes": [2, 3]}
        np.testing.assert_array_equal(arrays["a"], expected)


def test_read_missing_file(path):
    with pytest.raises(FileNotFoundError, match=r"model\.npz"):
        _files.read(path, "network")


def test_replace_keeps_the_old_file_on_error(path):
    path.write_bytes(b"before")

    def write():
        with _files.replace(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_bytes() == b"before"
    assert [item.name for item in path.parent.iterdir()] == ["model.npz"]


def test_replace_shows_nothing_before_the_end(path):
    with _files.replace(path, "w") as file:
        file.write("text")
        assert not path.exists()
    assert path.read_text() == "text"


@posix
def test_replace_keeps_rights_and_links(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(target)
    with _files.replace(link, "w") as file:
        file.write("after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@posix
def test_replace_follows_the_umask(path):
    before = os.umask(0o027)
    try:
        with _files.replace(path) as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
def test_replace_writes_devices_directly():
    with _files.replace("/dev/null") as file:
        file.write(b"x")
    _files.check_writable("/dev/null")
    assert not stat.S_ISREG(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("write", [_files.check_writable, lambda path: _files.replace(path).__enter__()])
def test_unwritable_paths_are_named(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"missing.model\.npz"):
        write(f"{tmp_path}/missing/model.npz")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        write(tmp_path)


@not_root
def test_check_writable_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"model\.npz"):
        _files.check_writable(tmp_path / "model.npz")


def test_check_writable_leaves_nothing(path):
    _files.check_writable(path)
    assert list(path.parent.iterdir()) == []


def test_replace_mode():
    with pytest.raises(ValueError, match="mode must be 'wb' or 'w', got 'a'"), _files.replace("x", "a"):
        pass


# ----------------------------------------------------------------------------------------------
# File objects instead of paths
# ----------------------------------------------------------------------------------------------


def test_networks_go_into_file_objects_and_come_back(path):
    net = FNN([3, 4, 2], seed=1)
    net.save(path)
    buffer = io.BytesIO(b"before")
    buffer.seek(0, io.SEEK_END)
    net.save(buffer)
    buffer.seek(len(b"before"))
    got = FNN.load(buffer)
    assert not buffer.closed
    assert buffer.getvalue() == b"before" + path.read_bytes()
    with path.open("rb") as file:
        also = FNN.load(file)
    for name, expected in net.parameters().items():
        np.testing.assert_array_equal(got.parameters()[name], expected)
        np.testing.assert_array_equal(also.parameters()[name], expected)


def test_file_objects_get_nothing_before_the_end():
    file, net = io.BytesIO(), FNN([3, 2])
    net.metadata = {"value": float("nan")}
    with pytest.raises(ValueError, match="Out of range float"):
        net.save(file)
    assert file.getvalue() == b""


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        (io.BytesIO(), ValueError, r"the file object is not .*: nothing is left to read; .* call seek\(0\)"),
        (io.BytesIO(b"PK"), ValueError, "the file object is not a readable nbnorm file"),
        (io.StringIO("text"), TypeError, "must be open in binary mode"),
        (7, TypeError, "path must be a path or a binary file, got int"),
    ],
)
def test_file_objects_that_hold_no_network(file, error, message):
    with pytest.raises(error, match=message):
        FNN.load(file)
    if error is TypeError:
        with pytest.raises(error, match=message):
            FNN([3, 2]).save(file)


# ----------------------------------------------------------------------------------------------
# What is left behind, and what stands in the way
# ----------------------------------------------------------------------------------------------

HALF_WRITTEN = """
import sys
from nbnorm import _files
with _files.replace(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def writer(path):
    """Run a process that has half written a file."""
    command = [sys.executable, "-c", HALF_WRITTEN, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        yield process


def names(folder):
    return sorted(item.name for item in folder.iterdir())


@posix
def test_temporary_files_of_killed_processes_are_removed(path):
    path.write_bytes(b"before")
    others = [".nbnorm-notes.tmp", ".nbnorm-1-0.tmp", "nbnorm-1-0123456789abcdef.tmp"]
    for name in others:
        path.with_name(name).touch()
    kept = sorted([*others, path.name])
    with writer(path) as process:
        assert len(names(path.parent)) == 5
        _files.check_writable(path)  # the writer lives
        assert len(names(path.parent)) == 5
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(names(path.parent)) == 5
        assert path.read_bytes() == b"before"
        with _files.replace(path) as file:
            file.write(b"after")
    assert names(path.parent) == kept
    assert path.read_bytes() == b"after"


@posix
def test_a_lock_protects_a_temporary_file_whose_writer_has_another_number(path):
    """As seen from another container or machine, where that number means nothing."""
    import fcntl

    unused = subprocess.Popen([sys.executable, "-c", ""])
    unused.wait()
    temporary = path.with_name(f".nbnorm-{unused.pid}-0123456789abcdef.tmp")
    with open(temporary, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _files.check_writable(path)
        assert names(path.parent) == [temporary.name]
    _files.check_writable(path)
    assert names(path.parent) == []


@posix
def test_an_old_temporary_file_without_a_lock_is_removed_although_its_number_is_used_again(path):
    temporary = path.with_name(f".nbnorm-{os.getpid()}-0123456789abcdef.tmp")
    temporary.touch()
    _files.check_writable(path)
    assert names(path.parent) == [temporary.name]
    os.utime(temporary, (0, 0))
    _files.check_writable(path)
    assert names(path.parent) == []


@pytest.mark.parametrize("times", [3, 99])
def test_replace_waits_for_a_file_that_another_process_holds(path, monkeypatch, times):
    path.write_bytes(b"before")
    attempts, waits = [], []

    def refuse(source, target):
        attempts.append(target)
        if len(attempts) <= times:
            raise PermissionError(errno.EACCES, "Permission denied", str(source), None, str(target))
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr("time.sleep", waits.append)
    if times == 3:
        _files.write(path, "network", {}, {})
        assert _files.read(path, "network") == ({}, {})
        assert len(waits) == 3
    else:
        with pytest.raises(PermissionError, match=r"model\.npz'$"):
            _files.write(path, "network", {}, {})
        assert path.read_bytes() == b"before"
        assert 0.5 < sum(waits) < 3.0
    assert names(path.parent) == ["model.npz"]


full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a full disk")


@full
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_full_disk_is_named(mode):
    with (
        pytest.raises(OSError, match=r"\[Errno 28\] .*: '/dev/full'$"),
        _files.replace("/dev/full", mode) as file,
    ):
        file.write("x" if mode == "w" else b"x")


def test_text_that_is_no_unicode_is_refused_with_the_file(path):
    expected = r"model\.npz: the text cannot be written as UTF-8"
    with pytest.raises(ValueError, match=expected), _files.replace(path, "w") as file:
        tables.write_csv(file, {"prediction": ["\udc80"]})
    assert names(path.parent) == []


@posix
def test_pipes_are_no_input(tmp_path):
    for suffix in (".csv", ".npz", ".npy", ".json"):
        os.mkfifo(tmp_path / f"x{suffix}")
    readers = [
        lambda: tables.read_table(tmp_path / "x.csv"),
        lambda: tables.read_table(tmp_path / "x.npz"),
        lambda: standardize_file(tmp_path / "x.csv", tmp_path / "y.csv"),
        lambda: standardize_file(tmp_path / "x.npy", tmp_path / "y.csv"),
        lambda: standardize_file(tmp_path / "x.npz", tmp_path / "y.csv"),
        lambda: read_statistics(tmp_path / "x.json"),
        lambda: FNN.load(tmp_path / "x.npz"),
    ]
    for read in readers:
        with pytest.raises(ValueError, match=r"x\.\w+ must be a regular file, got a pipe or a device"):
            read()


@posix
def test_a_pipe_is_an_output_if_somebody_reads_it(tmp_path):
    pipe = tmp_path / "pipe.npy"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"pipe\.npy"), _files.replace(pipe) as file:
        file.write(b"x")
    np.save(tmp_path / "x.npy", [[1.0], [3.0]])
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        standardize_file(tmp_path / "x.npy", pipe)
        np.testing.assert_array_equal(np.load(io.BytesIO(reader.read())), [[-1.0], [1.0]])


# ----------------------------------------------------------------------------------------------
# Files that anybody may have written
# ----------------------------------------------------------------------------------------------


def stating(path, member, shape, content, size=None):
    """Write an NPZ file with one compressed member; return the path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(member, npy_header("<f8", shape) + content)
    if size is not None:  # what the directory at the end says of the unpacked size
        data = bytearray(path.read_bytes())
        at = data.index(b"PK\x01\x02")
        data[at + 24 : at + 28] = struct.pack("<I", size)
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "read",
    [
        lambda path: tables.read_table(path, need_target=False),
        lambda path: standardize_file(path, path.with_suffix(".npy")),
    ],
)
@pytest.mark.parametrize(
    ("shape", "content", "size", "expected"),
    [
        ((1 << 40, 8), bytes(64), None, "has 64 bytes, expected 70368744177664"),
        ((2, 4), bytes(1 << 20), None, "has 1048576 bytes, expected 64"),
        ((1 << 26, 4), bytes(64), (1 << 31) + 128, "it would unpack to 2,147,483,776 bytes"),
        ((1 << 17, 1), bytes(1 << 20), 1 << 29, "it would unpack to 536,870,912 bytes"),
    ],
)
def test_claims_are_checked_before_memory_is_allocated(tmp_path, read, shape, content, size, expected):
    path = stating(tmp_path / "x.npz", "X.npy", shape, content, size)
    with pytest.raises(ValueError, match=rf"x\.npz is not an NPZ file: .*{expected}"):
        read(path)
    assert names(tmp_path) == ["x.npz"]


def test_a_compressed_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "MOST_UNPACKED", 1 << 20)
    rng = np.random.default_rng(0)
    np.savez_compressed(tmp_path / "zeros.npz", X=np.zeros((1 << 10, 1 << 8)), y=np.arange(1 << 10))
    np.savez_compressed(
        tmp_path / "one_hot.npz", X=np.eye(8)[rng.integers(8, size=1 << 15)], y=np.arange(1 << 15)
    )
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    for read in (tables.read_table, lambda path: standardize_file(path, tmp_path / "y.npz")):
        with pytest.raises(
            ValueError, match=r"zeros\.npz is not an NPZ file: it would unpack to 2,10\d,\d+ bytes from"
        ):
            read(tmp_path / "zeros.npz")
    monkeypatch.undo()
    assert tables.read_table(tmp_path / "one_hot.npz").X.shape == (1 << 15, 8)


def damaged(data, generator):
    """Yield damaged versions of a file: cut, with a bit turned, with two parts exchanged."""
    for _ in range(8):
        yield data[: generator.integers(len(data))]
    for _ in range(40):
        changed = bytearray(data)
        changed[generator.integers(len(data))] ^= 1 << generator.integers(8)
        yield bytes(changed)
    for _ in range(8):
        a, b, c = np.sort(generator.integers(len(data), size=3))
        yield data[:a] + data[b:c] + data[a:b] + data[c:]


def exchanged(path):
    """Return the bytes of an NPZ file whose members have each other's content, with the right checksums."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, other in zip(contents, [*contents][1:] + [*contents][:1], strict=True):
            archive.writestr(name, contents[other])
    return file.getvalue()


def resume(path):
    X = np.arange(12.0).reshape(6, 2)
    net = FNN([2, 2, 1], output="identity", seed=0)
    net.fit(X, X[:, 0], epochs=1, batch_size=3, seed=0, checkpoint=path)
    return net.parameters()


def load_digits_from(path):
    return datasets.load_digits()


@pytest.fixture
def loaders(tmp_path, monkeypatch):
    """Files of every kind, with what reads them."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(6, 3)), np.arange(6)
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "stored.npz", X=X, y=y)
    np.savez_compressed(tmp_path / "packed.npz", X=X, y=y)
    FNN([3, 2, 1], output="identity", seed=0).save(tmp_path / "network.npz")
    resume(tmp_path / "checkpoint.npz")
    (tmp_path / "stats.json").write_text(json.dumps(Moments().update(X).to_dict()))
    (tmp_path / "data").mkdir()
    shutil.copy(Path(datasets.__file__).with_name("digits.npz"), tmp_path / "data")
    monkeypatch.setattr(datasets, "files", lambda package: tmp_path)

    def standardized(path):
        standardize_file(path, tmp_path / "out.npz", progress=False)
        with np.load(tmp_path / "out.npz") as archive:
            return {name: archive[name] for name in archive.files}

    def table(path):
        got = tables.read_table(path)
        return got.X, got.values

    return {
        "x.npy": [standardized],
        "stored.npz": [standardized, table],
        "packed.npz": [standardized, table],
        "network.npz": [lambda path: FNN.load(path).parameters()],
        "checkpoint.npz": [resume],
        "stats.json": [lambda path: read_statistics(path).to_dict()],
        "data/digits.npz": [load_digits_from],
    }


def flat(value):
    """Return nested containers of arrays as a list that can be compared."""
    if isinstance(value, dict):
        return [(name, flat(item)) for name, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [flat(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_damaged_files_are_value_errors_with_their_name(tmp_path, loaders):
    generator = np.random.default_rng(0)
    for name, readers in loaders.items():
        path = tmp_path / name
        data = path.read_bytes()
        checked = name.endswith(".npz")  # only a ZIP archive has checksums
        versions = [*damaged(data, generator), *([exchanged(path)] if checked else [])]
        for read in readers:
            expected = flat(read(path))
            messages = []
            for version in versions:
                path.write_bytes(version)
                try:
                    got = flat(read(path))
                except ValueError as error:
                    messages.append(str(error))
                else:
                    assert not checked or got == expected
            assert len(messages) > 8
            assert all(path.name in message for message in messages)
            path.write_bytes(data)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]
