from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest

import nbnorm
from cli import QUICK, flat
from nbnorm.cli import main
from nbnorm.cli.common import WIDTH, columns
from nbnorm.data import datasets, tables


def test_threads_are_restored(run):
    before = nbnorm.get_num_threads()
    status, out, _ = run("train", *QUICK, "--threads", "1")
    assert status == 0
    assert ", 1 thread\n" in out
    assert nbnorm.get_num_threads() == before
    status, out, _ = run("train", *QUICK, "--threads", "9999")
    assert status == 0
    assert f", {before} thread" in out
    assert nbnorm.get_num_threads() == before


def test_threads_go_no_further_than_the_environment_allows(run, monkeypatch):
    monkeypatch.setattr("nbnorm.compile.threads.MOST_THREADS", 1)
    status, out, _ = run("train", *QUICK, "--threads", "2")
    assert status == 0
    assert ", 1 thread\n" in out


BAD = [
    ([], "required: COMMAND"),
    (["fly"], "invalid choice: 'fly'"),
    (["trainn"], "; did you mean train? (see 'nbnorm --help')"),
    (["--verison"], "did you mean --version? (see 'nbnorm --help')"),
    (["--fly", "train"], "unrecognized arguments: --fly (see 'nbnorm --help')"),
    (["train", "x.csv", "--out", "m"], "unrecognized arguments: --out m (see 'nbnorm train --help')"),
    (["train", "--epcohs=3", "--sede", "1"], "did you mean --epochs, --seed? (see 'nbnorm train --help')"),
    (["predict", "--uot", "x", "a"], "did you mean --out? (see 'nbnorm predict --help')"),
    (["info", ""], "argument MODEL: expected a name, got '' (see 'nbnorm info --help')"),
    (["convert", "one.csv", ""], "argument OUT: expected a name"),
    (["predict", "net.npz", "gap.csv", "--out", ""], "argument --out: expected a name"),
    (
        ["convert", "net.npz", "o.csv", "--delimiter", ";"],
        "delimiter ';' is for CSV files, and net.npz is none",
    ),
    (["standardize", "net.npz", "o.npz", "--header"], "header True is for CSV files, and net.npz is none"),
    (
        ["convert", "one.csv", "o.csv", "--except", "a", "--except", "b"],
        "needs a feature column, and none is left",
    ),
    (["info", "a", "b"], "unrecognized arguments: b (see 'nbnorm info --help')"),
    (["train", "--lr", "0"], "--lr: the value must be finite and above 0, got 0"),
    (["train", "--lr", "x"], "--lr: expected a number, got 'x'"),
    (["train", "--lr", "nan"], "--lr: the value must be finite"),
    (["train", "--momentum", "1"], "--momentum: the value must be finite and at least 0 and below 1"),
    (["train", "--epochs", "0"], "--epochs: the value must be at least 1, got 0"),
    (["train", "--epochs", "2.5"], "--epochs: expected a whole number, got '2.5'"),
    (["train", "--batch-size", "-1"], "--batch-size: the value must be at least"),
    (["train", "--hidden", "8", "0"], "--hidden must be 0 alone, for no hidden layer, or hold no 0, got 8 0"),
    (["train", "--hidden", "0", "4"], "--hidden must be 0 alone, for no hidden layer, or hold no 0, got 0 4"),
    (["train", "--hidden", "0", "--dropout", "0.5"], "--dropout needs a hidden layer"),
    (["train", "--dropout", "1"], "--dropout: the value must be finite and at least 0 and below 1"),
    (
        ["train", "--optimizer", "adamw", "--momentum", "0.5"],
        "--momentum does not apply to --optimizer adamw",
    ),
    (["train", "--lr", "1", "--weight-decay", "1"], "lr * weight_decay must be below 1"),
    (["train", "--loss", "huber"], "--loss needs a numeric target"),
    (["train", "--activation", "step"], "--activation: invalid choice: 'step'"),
    (["train", "--norm", "both"], "--norm: invalid choice: 'both'"),
    (["train", "--threads", "0"], "--threads: the value must be at least 1, got 0"),
    (["train", "--test-size", "1"], "--test-size: the value must be finite"),
    (["train", "--save", "a", "--no-save"], "not allowed with"),
    (["train", "--save", "nowhere/m.npz"], "nowhere/m.npz: No such file or directory"),
    (["train", "--report", "."], "Is a directory"),
    (["train", "--save", "a.png", "--plot", "a.png"], "--save and --plot name the same file a.png"),
    (["train", "--target", "x"], "--target does not apply to digits"),
    (["train", "--data-dir", "x"], "--data-dir does not apply to digits"),
    (["train", "mnist", "--data-dir", "nowhere"], "data_dir must be a directory, got 'nowhere'"),
    (["train", "mnist", "--test-size", "0.5"], "--test-size does not apply to mnist"),
    (["train", "nowhere.csv"], "nowhere.csv: No such file or directory"),
    (["train", "letters"], "letters must be a table that ends in .csv, .parquet, .feather or .npz"),
    (["train", "bad.csv"], "bad.csv, line 12, column 'a': expected a number, got '1O'"),
    (["train", "one.csv", "--only", "z"], "one.csv has no column 'z'; it has a, b"),
    (["train", "one.csv", "--delimiter", "ab"], "delimiter must be one character"),
    (["train", "digits", "--only", "z"], "--only does not apply to digits"),
    (["train", "one.csv", "--encoding", "klingon"], "encoding must be one that Python knows"),
    (["predict", "net.npz", "digits", "--decimal", ","], "--decimal does not apply to digits"),
    (
        ["standardize", "gap.csv", "out.csv", "--only", "a", "--missing", "refuse"],
        "gap.csv, line 3, column 'a': missing value",
    ),
    (["standardize", "gap.csv", "out.csv", "--only", "c"], "gap.csv has no column 'c'; it has a, b"),
    (["train", "gap.csv", "--target", "c"], "has no target column 'c'; it has a, b"),
    (["train", "one.csv"], "must have at least two classes, got only 'x'"),
    (["train", "names.csv"], "names.csv must have several samples of a class"),
    (["train", "one.csv", "--save", "one.csv"], "--save one.csv would overwrite the data"),
    (["train", "one.csv", "--task", "regression"], "line 2, column 'b': expected a number, got 'x'"),
    (["predict", "net.npz", "digits", "--target", "x"], "--target does not apply to digits"),
    (["predict", "net.npz", "mnist", "--target", "x"], "--target does not apply to mnist"),
    (["predict", "net.npz", "net.npz", "--target", "x"], "--target does not apply to net.npz"),
    (["predict", "net.npz", "gap.csv", "--target", "c"], "gap.csv has no target column 'c'; it has a, b"),
    (["predict", "net.npz", "gap.csv", "--data-dir", "x"], "--data-dir does not apply to gap.csv"),
    (["predict", "gap.csv", "digits"], "gap.csv is not a readable nbnorm file"),
    (["predict", "nowhere.npz", "digits"], "nowhere.npz: No such file or directory"),
    (["standardize", "gap.csv", "gap.csv"], "gap.csv would be overwritten while it is needed"),
    (["standardize", "gap.csv", "out.csv", "--inverse"], "--inverse needs --stats"),
    (["standardize", "gap.csv", "out.csv", "--inverse", "--stats", "s.json"], "s.json does not exist"),
    (["standardize", "gap.csv", "out.csv", "--except", "c"], "gap.csv has no column 'c'; it has a, b"),
    (["standardize", "one.csv", "out.npy", "--except", "b"], "to keep the column 'b', got 'out.npy'"),
]


@pytest.mark.parametrize(("argv", "expected"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input(run, folder, argv, expected):
    (folder / "gap.csv").write_text("a,b\n1,x\n,y\n")
    (folder / "one.csv").write_text("a,b\n1,x\n2,x\n")
    (folder / "bad.csv").write_text("a,b\n" + 10 * "1,x\n" + "1O,y\n")
    (folder / "names.csv").write_text("a,name\n1,Ada\n2,Grace\n3,Emmy\n")
    nbnorm.FNN([1, 2], seed=0).save("net.npz")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    no_plot = ["--no-plot"] if argv[:1] == ["train"] and "--plot" not in argv else []
    status, _, err = run(*argv, *no_plot)
    assert status == 2
    assert err.startswith("nbnorm: error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PMI_RANK": "0"}, True),
        ({"PMI_RANK": "7"}, False),
        ({"OMPI_COMM_WORLD_RANK": "1"}, False),
        ({"SLURM_PROCID": "2"}, False),
        ({"SLURM_PROCID": "2", "PMI_RANK": "0"}, True),
    ],
)
@pytest.mark.parametrize("option", ["--fly", "--shuffle-buffer=2"])
def test_one_process_of_several_says_an_error_of_the_command_line(
    run, monkeypatch, environment, said, option
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status, _, err = run("train", "digits", option, "--mpi")
    assert status == 2
    assert err.count("nbnorm: error:") == said
    # a process by itself, perhaps with a file of its own
    assert run("train", "digits", "--shuffle-buffer=2", "--no-mpi")[2].count("nbnorm: error:") == 1


@pytest.mark.parametrize("command", [[], ["train"], ["predict"], ["standardize"], ["gradcheck"], ["warmup"]])
def test_help(run, command):
    status, out, _ = run(*command, "--help")
    assert status == 0
    assert out.startswith(f"usage: {' '.join(['nbnorm', *command])} ")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_help_fits_the_terminal(run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for command in ("", "train", "predict", "evaluate", "info", "standardize", "convert", "warmup"):
        _, out, _ = run(*command.split(), "--help")
        assert max(map(len, out.splitlines())) <= min(width, WIDTH), command
        assert ("[options]" in out) == (width == 40), command


@pytest.mark.posix("a pseudo-terminal")
def test_a_narrow_terminal(folder):
    import fcntl
    import pty
    import struct
    import termios

    names = ("漢字クラスの名前が長い一", "漢字クラスの名前が長い二")
    rows = [f"{k % 2 + 0.01 * k},{names[k % 2]}" for k in range(40)]
    (folder / "a.csv").write_text("\n".join(["長さ,種類", *rows]) + "\n", encoding="utf-8")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"NO_COLOR": "1"}
    words = [sys.executable, "-m", "nbnorm", "train", "a.csv", *QUICK, "--quiet", "--no-save"]
    with subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        out = b""
        with contextlib.suppress(OSError):  # the end, on Linux
            while part := os.read(master, 65536):
                out += part
    os.close(master)
    lines = out.decode("utf-8").replace("\r\n", "\n").splitlines()
    assert process.returncode == 0
    assert max(map(columns, lines)) <= 40
    assert "    precision  recall      F1  samples" in lines
    assert "  漢字クラスの名前が長い一" in lines
    assert "\33" not in out.decode("utf-8")


def test_version(run):
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("nbnorm ")


def test_interrupted_before_training(run, folder, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load_digits", interrupt)
    status, _, err = run("train", *QUICK)
    assert (status, err) == (130, "nbnorm: error: interrupted\n")
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.posix("sends signals to another process")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_training(folder, number, status):
    words = [sys.executable, "-m", "nbnorm", "train", "--hidden", "8", "--epochs", "1000000", "--no-plot"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Interrupted: the " in out
    assert err == ""
    assert [path.name for path in folder.iterdir()] == ["nbnorm-digits.npz"]
    assert nbnorm.FNN.load("nbnorm-digits.npz").epochs_trained >= 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_amid_compilation(folder, number, status):
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    words = [sys.executable, "-m", "nbnorm", "train", "--hidden", "8", "--epochs", "1000000", "--no-plot"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    for line in process.stdout:
        if line.startswith("Compiling"):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status
    assert "epoch" not in out
    assert err == "nbnorm: error: interrupted before the end of the first epoch: nothing was saved\n"
    assert [path.name for path in folder.iterdir()] == ["cache"]


def test_closed_output():
    process = subprocess.Popen(
        [sys.executable, "-m", "nbnorm", "train", "--hidden", "8", "--epochs", "2", "--no-plot", "--no-save"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=600) == 1
    assert err == ""


def test_labels_are_predicted_as_utf8(run, folder, python):
    rows = [f"{k % 2 + 0.01 * k},{('größe', '漢字')[k % 2]}" for k in range(40)]
    (folder / "länge.csv").write_text("\n".join(["x,art", *rows]) + "\n", encoding="utf-8")
    assert run("train", "länge.csv", *QUICK, "--save", "m.npz")[0] == 0
    (folder / "x.csv").write_text("x\n0\n1\n")
    words = [sys.executable, "-m", "nbnorm", "predict", "m.npz"]
    strict = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for encoding in ("ascii", "cp1252"):
        env = {**strict, "PYTHONIOENCODING": encoding}
        done = subprocess.run([*words, "x.csv"], capture_output=True, env=env)
        assert done.returncode == 0
        labels = [line.split(",")[0] for line in done.stdout.decode("utf-8").splitlines()]
        assert labels[0] == "prediction"
        assert set(labels[1:]) <= {"größe", "漢字"}
        done = subprocess.run([*words, "länge.csv"], capture_output=True, env=env)
        assert "Predicted 40 samples of länge.csv" in done.stdout.decode("utf-8")
        done = subprocess.run([*words, "größe.csv"], capture_output=True, env=env)
        assert done.stderr.decode("utf-8") == "nbnorm: error: größe.csv: No such file or directory\n"


def test_output_keeps_its_encoding(run, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="replace")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["predict", "no-such-model.npz", "digits"]) == 2
    assert (stream.encoding, stream.errors) == ("latin-1", "replace")


@pytest.mark.parametrize("command", ["train", "predict"])
def test_out_of_memory_names_the_file(run, flowers, monkeypatch, command):
    def read(*args, **options):
        raise MemoryError("Unable to allocate 9 TiB")

    nbnorm.FNN([2, 2], seed=0).save("m.npz")
    monkeypatch.setattr(tables, "open_table", read)
    status, _, err = run(command, *(["m.npz"] if command == "predict" else ["--no-plot"]), flowers)
    assert (status, err) == (1, f"nbnorm: error: {flowers}: out of memory: Unable to allocate 9 TiB\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_output(folder):
    nbnorm.FNN([2, 2], seed=0).save("m.npz")
    (folder / "x.csv").write_text("a,b\n1,2\n")
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "nbnorm", "predict", "m.npz", "x.csv"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "nbnorm: error: standard output: No space left on device",
    )


def test_compilation_is_said_once(folder):
    (folder / "a.csv").write_text("height\n0\n4\n")
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    words = [sys.executable, "-m", "nbnorm", "standardize", "a.csv", "b.csv"]
    said = [subprocess.run(words, capture_output=True, text=True, env=env).stderr for _ in range(2)]
    assert said[0] == "Compiling for this processor, which takes about 10 seconds and happens once\n"
    assert said[1] == ""
    env["NUMBA_CACHE_DIR"] = str(folder / "a.csv")  # no folder can be made there
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env) as process:
        line = process.stderr.readline() + process.stderr.readline()  # before it compiles
        process.kill()
    assert "in every run: no folder for the code can be written; set NUMBA_CACHE_DIR" in flat(line)
