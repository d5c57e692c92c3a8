import shutil
import subprocess

import pytest


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nbnorm", "tr"], ["train"]),
        (["nbnorm", "predict", "--th"], ["--thousands", "--threads", "--threshold"]),
    ],
)
def test_bash_completes(run, folder, words, expected):
    (folder / "c.sh").write_text(run("completion", "bash")[1])
    line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}"
    script = f". ./c.sh; {line}; _nbnorm; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_all_commands(run, shell):
    status, out, _ = run("completion", shell)
    assert status == 0
    assert all(name in out for name in ("train", "evaluate", "convert"))
