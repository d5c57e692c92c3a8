from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

from nbnorm.data import datasets

NAMES = [file.name for file in datasets._MNIST]


@pytest.fixture
def small(monkeypatch):
    """MNIST in miniature: the same four files with few images, under their own checksums."""
    random = np.random.default_rng(0)
    contents, files = {}, []
    for file in datasets._MNIST:
        shape = (6 if "train" in file.name else 3, *file.shape[1:])
        content = bytes(file.header) + random.integers(0, 10, shape, dtype=np.uint8).tobytes()
        contents[file.name] = content
        files.append(file._replace(md5=hashlib.md5(content).hexdigest(), shape=shape))
    monkeypatch.setattr(datasets, "_MNIST", tuple(files))
    return contents


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "nbnorm" / "mnist"


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        self.server.lines.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A mirror on this machine; `server.folder` is what it serves, `server.lines` the requests."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as got:
        got.lines, got.folder, got.url = [], folder, f"http://127.0.0.1:{got.server_port}/mnist"
        (folder / "mnist").mkdir()
        thread = threading.Thread(target=got.serve_forever, args=(0.01,))
        thread.start()
        yield got
        got.shutdown()
        thread.join()


def serve(server, contents):
    for name, content in contents.items():
        (server.folder / "mnist" / f"{name}.gz").write_bytes(gzip.compress(content))


def expect(contents, got):
    for (X, y), part in zip(got, ("train", "t10k"), strict=True):
        images, labels = contents[f"{part}-images-idx3-ubyte"], contents[f"{part}-labels-idx1-ubyte"]
        np.testing.assert_array_equal(X, np.frombuffer(images[16:], np.uint8).reshape(-1, 784))
        np.testing.assert_array_equal(y, np.frombuffer(labels[8:], np.uint8))
        assert (X.dtype, y.dtype) == (np.uint8, np.int64)


def test_load_digits():
    X, y = datasets.load_digits()
    assert (X.shape, X.dtype, y.dtype) == ((1797, 64), np.uint8, np.int64)
    assert (X.min(), X.max()) == (0, 16)
    np.testing.assert_array_equal(np.bincount(y), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


def test_load_digits_is_the_set_of_scikit_learn():
    expected = pytest.importorskip("sklearn.datasets").load_digits()
    X, y = datasets.load_digits()
    np.testing.assert_array_equal(X, expected.data)
    np.testing.assert_array_equal(y, expected.target)


@pytest.mark.parametrize("packed", [False, True])
def test_load_mnist_from_directory(small, tmp_path, packed):
    for name, content in small.items():
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    expect(small, datasets.load_mnist(tmp_path))


def test_load_mnist_real():
    folder = Path(__file__).parents[3] / "shared" / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip("the MNIST files are not on this machine")
    (X, y), (X_test, y_test) = datasets.load_mnist(folder)
    assert (X.shape, X_test.shape) == ((60_000, 784), (10_000, 784))
    assert round(X.mean() / 255, 5) == 0.13066
    np.testing.assert_array_equal(y[:5], [5, 0, 4, 1, 9])
    np.testing.assert_array_equal(y_test[:5], [7, 2, 1, 0, 4])


def test_load_mnist_missing(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold train-images-idx3-ubyte or train"):
        datasets.load_mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match="data_dir must be a directory"):
        datasets.load_mnist(tmp_path / "nowhere")


def test_load_mnist_damaged(small, tmp_path):
    for name, content in small.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / NAMES[2]).write_bytes(bytes(16))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte is damaged or not MNIST: MD5"):
        datasets.load_mnist(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"text", gzip.compress(bytes(100_000)), gzip.compress(bytes(9))[:20]],
    ids=["empty", "text", "longer", "cut off"],
)
def test_load_mnist_damaged_gzip(small, tmp_path, data):
    (tmp_path / f"{NAMES[0]}.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is "):
        datasets.load_mnist(tmp_path)


def test_load_mnist_downloads_once(small, cache, server):
    serve(server, small)
    lines = []
    expect(small, datasets.load_mnist(mirrors=[server.url], progress=lines.append))
    assert [line.split()[1] for line in lines] == [f"{name}.gz" for name in NAMES]
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in NAMES)
    expect(small, datasets.load_mnist(mirrors=[server.url]))
    assert len(server.lines) == 4


def test_load_mnist_takes_mirrors_from_the_environment(small, cache, server, monkeypatch):
    serve(server, small)
    monkeypatch.setenv("NBNORM_MNIST_MIRRORS", f"http://127.0.0.1:1 {server.url}/")
    expect(small, datasets.load_mnist())


def test_load_mnist_passes_a_bad_mirror(small, cache, server):
    serve(server, small)
    bad = server.folder / "bad"
    bad.mkdir()
    (bad / f"{NAMES[0]}.gz").write_bytes(gzip.compress(bytes(40)))
    expect(small, datasets.load_mnist(mirrors=[server.url.replace("mnist", "bad"), server.url]))


def test_load_mnist_resumes(small, cache, server):
    serve(server, small)
    last = server.folder / "mnist" / f"{NAMES[3]}.gz"
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(ConnectionError, match=r"t10k-labels-idx1-ubyte\.gz: HTTP Error 404.*try again"):
        datasets.load_mnist(mirrors=[server.url])
    assert len(list(cache.iterdir())) == 3
    last.write_bytes(content)
    server.lines.clear()
    expect(small, datasets.load_mnist(mirrors=[server.url]))
    assert len(server.lines) == 1


def test_load_mnist_fetches_damaged_files_again(small, cache, server):
    serve(server, small)
    datasets.load_mnist(mirrors=[server.url])
    (cache / f"{NAMES[1]}.gz").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="is damaged"):
        datasets.load_mnist(download=False)
    expect(small, datasets.load_mnist(mirrors=[server.url]))


def test_load_mnist_refuses_wrong_content(small, cache, server):
    serve(server, {**small, NAMES[0]: bytes(20)})
    with pytest.raises(ConnectionError, match="damaged or not MNIST: MD5"):
        datasets.load_mnist(mirrors=[server.url])
    assert not cache.exists()


def test_load_mnist_offline(small, cache):
    with pytest.raises(ConnectionError, match="name a directory that holds the four IDX files"):
        datasets.load_mnist(mirrors=["http://127.0.0.1:1/"])
    with pytest.raises(FileNotFoundError, match="must hold"):
        datasets.load_mnist(download=False)


def test_load_mnist_without_home(monkeypatch):
    def nowhere():
        raise RuntimeError

    monkeypatch.setattr(datasets, "_user_cache", nowhere)
    with pytest.raises(FileNotFoundError, match="give data_dir"):
        datasets.load_mnist()


@pytest.mark.parametrize("mirrors", ["http://127.0.0.1/", []])
def test_load_mnist_bad_mirrors(mirrors):
    with pytest.raises(ValueError, match="mirrors must be a sequence of addresses"):
        datasets.load_mnist(mirrors=mirrors)


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("test_size", [0.001, 0.2, 0.5, 0.9, 0.999])
def test_split_rows_is_a_partition(stratify, test_size):
    y = np.random.default_rng(1).integers(0, 4, 103)
    train, test = datasets.split_rows(y, test_size=test_size, seed=3, stratify=stratify)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(103))
    wanted = min(max(round(test_size * 103), 1), 103 - (4 if stratify else 1))
    assert len(test) == wanted


def test_split_rows_shares_of_classes():
    y = np.repeat(["a", "b", "c", "d"], [100, 33, 7, 1])
    _, test = datasets.split_rows(y, test_size=0.3)
    counts = dict(zip(*np.unique(y[test], return_counts=True), strict=True))
    assert counts == {"a": 30, "b": 10, "c": 2}
    assert len(test) == round(0.3 * 141)


def test_split_rows_depends_on_the_seed_alone():
    y = np.arange(40) % 3
    np.testing.assert_array_equal(datasets.split_rows(y, seed=1)[1], datasets.split_rows(y, seed=1)[1])
    assert not np.array_equal(datasets.split_rows(y, seed=1)[1], datasets.split_rows(y, seed=2)[1])


def test_split_rows_never_changes():
    # Models name their held-out rows by the seed: another choice would make old models look better.
    _, got = datasets.split_rows(np.arange(30) % 3, seed=0)
    np.testing.assert_array_equal(got, [1, 3, 11, 13, 20, 21])


def with_every_seed(y, seeds=200, **options):
    """Return in how many of the splits each row is held out."""
    held = np.zeros(len(y), np.int64)
    for seed in range(seeds):
        held[datasets.split_rows(y, seed=seed, **options)[1]] += 1
    return held


@pytest.mark.parametrize(
    "y",
    [
        np.random.default_rng(0).normal(size=60),
        np.round(np.random.default_rng(0).normal(size=60), 1),
        np.arange(60),
        np.arange(60) // 2,
        [f"name {row}" for row in range(60)],
        np.arange(60).astype(object),
        np.arange(120).reshape(60, 2) % 3,
    ],
    ids=["real", "rounded", "numbers", "pairs of numbers", "names", "objects", "two columns"],
)
def test_split_rows_of_what_is_no_class(y):
    held = with_every_seed(y)
    assert held.sum() == 200 * 12
    # every row in about a fifth of the splits: 40 of 200, with a standard deviation of 5.7
    assert held.min() > 15
    assert held.max() < 65


@pytest.mark.parametrize(
    "y", [np.arange(60) % 3, np.arange(60) % 2 == 0, np.array(["x", "y", "z"] * 20, object)]
)
def test_split_rows_of_classes(y):
    train, test = datasets.split_rows(y)
    expected = datasets.split_rows(y, stratify=True)
    np.testing.assert_array_equal(train, expected[0])
    np.testing.assert_array_equal(test, expected[1])


def test_split_rows_keeps_a_class_of_one_row_in_training():
    y = np.array(["a"] * 30 + ["b"] * 29 + ["c"])
    assert with_every_seed(y)[-1] == 0


def test_split_rows_draws_lots_between_equal_classes():
    held = with_every_seed(np.arange(60) // 2, stratify=True)
    assert held.sum() == 200 * 12
    assert held.min() > 15
    assert held.max() < 65


def test_train_test_split():
    X, y = datasets.load_digits()
    X_train, X_test, y_train, y_test = datasets.train_test_split(X, y, test_size=0.25, seed=7)
    train, test = datasets.split_rows(y, test_size=0.25, seed=7)
    np.testing.assert_array_equal(X_train, X[train])
    np.testing.assert_array_equal(y_train, y[train])
    np.testing.assert_array_equal(X_test, X[test])
    np.testing.assert_array_equal(y_test, y[test])


@pytest.mark.parametrize(
    ("y", "options", "error", "expected"),
    [
        ([1], {}, ValueError, "at least two rows"),
        (3, {}, ValueError, "at least two rows"),
        ([1, 2, 3], {"stratify": True}, ValueError, "3 of 3 rows have a value of their own"),
        (np.linspace(0, 1, 9), {"stratify": True}, ValueError, "y must hold classes to be stratified"),
        ([[1], [2]], {"stratify": True}, ValueError, r"shape \(n,\) to be stratified"),
        ([1, 1], {"test_size": 0.0}, ValueError, "test_size must be finite and above 0"),
        ([1, 1], {"test_size": 1}, ValueError, "below 1"),
        ([1, 1], {"test_size": "a"}, TypeError, "test_size must be a real number"),
        ([1, 1], {"seed": -1}, ValueError, "seed must be at least 0"),
        ([1, 1], {"seed": 0.5}, TypeError, "seed must be an integer"),
        ([1, 1], {"stratify": 1}, TypeError, "stratify must be True or False"),
    ],
)
def test_split_rows_bad_input(y, options, error, expected):
    with pytest.raises(error, match=expected):
        datasets.split_rows(y, **options)


def test_masked_elements_are_not_split():
    rows = np.ma.array([[1], [2], [3]], mask=[[0], [1], [0]])
    with pytest.raises(ValueError, match=r"^y must not have masked elements, got 1"):
        datasets.split_rows(rows[:, 0])
    with pytest.raises(ValueError, match=r"^X must not have masked elements, got 1"):
        datasets.train_test_split(rows, np.arange(3))
    with pytest.raises(ValueError, match=r"^y must not have masked elements, got 1"):
        datasets.train_test_split(np.ones((3, 2)), rows[:, 0])


def test_train_test_split_unequal_lengths():
    with pytest.raises(ValueError, match="X and y must have the same length: X has 3, y has 2"):
        datasets.train_test_split(np.ones((3, 2)), np.ones(2))
