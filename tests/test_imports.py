"""What `import nbnorm` may do, and which module may import which."""

import ast
import functools
import graphlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nbnorm

PACKAGE = Path(nbnorm.__file__).parent
OPTIONAL = (
    "sklearn",
    "matplotlib",
    "tqdm",
    "pyarrow",
    "dask",
    "distributed",
    "pandas",
    "polars",
    "onnx",
    "torch",
    "safetensors",
)

# From the bottom upwards: a module imports only from its own folder and from earlier ones.
ORDER = (
    "_types",
    "_check",
    "_files",
    "compile",
    "simd",
    "functions",
    "statistics",
    "kernels",
    "plots",
    "engine",
    "data",
    "model",
    "estimators",
    "interop",
    "cli",
    "__main__",
)


# What the division of long modules is to end.
UPWARDS: set[str] = set()
CIRCLES: set[str] = set()
LONG: set[str] = set()


@functools.cache
def modules():
    """Return the modules of the package by name, with their files."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    del found[""]
    return found


@functools.cache
def tree(path):
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def imports(path):
    """Return the modules of nbnorm that a file imports, wherever in it."""
    known, found = modules(), set()
    left_out = {
        id(inside)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inside in ast.walk(statement)
    }
    for node in ast.walk(tree(path)):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "nbnorm":
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nbnorm."):
            module = node.module.removeprefix("nbnorm.")
            found |= {
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in known else module
                for alias in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("nbnorm.") for a in node.names if a.name.startswith("nbnorm.")}
    return found


def folder(module):
    return module.partition(".")[0]


def test_every_module_has_its_place():
    assert {folder(name) for name in modules()} == set(ORDER)


def test_imports_go_downwards_only():
    level = {name: number for number, name in enumerate(ORDER)}
    wrong = {
        f"{module} imports {name}"
        for module, path in modules().items()
        for name in imports(path)
        if level[folder(name)] > level[folder(module)]
    }
    assert wrong == UPWARDS


def test_no_imports_go_in_a_circle():
    # A package offers the names of its modules, so these are what one imports from it.
    graph = {
        module: {name for name in imports(path) if f"{module} imports {name}" not in UPWARDS | CIRCLES}
        - {folder(module)}
        for module, path in modules().items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises for a circle and names it


def test_no_module_is_long():
    long = {name for name, path in modules().items() if len(path.read_text("utf-8").splitlines()) > 900}
    assert long == LONG


def test_one_module_compiles():
    def compiles(path):
        nodes = list(ast.walk(tree(path)))
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names |= {a.name for node in nodes if isinstance(node, ast.ImportFrom) for a in node.names}
        return names & {"njit", "jit", "vectorize", "guvectorize"}

    assert [name for name, path in modules().items() if compiles(path)] == ["compile.kernels"]


def test_the_oldest_versions_that_are_tested_are_those_that_are_allowed():
    root = PACKAGE.parent
    if not (root / ".ci" / "oldest.txt").exists():
        pytest.skip("needs a checkout")
    project = (root / "pyproject.toml").read_text("utf-8")
    listed = re.search(r"^dependencies = .*?^docs = ", project, flags=re.MULTILINE | re.DOTALL).group()
    listed += re.search(r"^test = .*$", project, flags=re.MULTILINE).group()
    allowed = dict(re.findall(r'"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)', listed))
    lines = (root / ".ci" / "oldest.txt").read_text("utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name in allowed.keys() - {"pytest-cov", "pytest-xdist", "hypothesis"}:
        assert f"{tested[name]}.".startswith(f"{allowed[name]}."), name


FRESH = """
import json, sys, threading
import numba
from numba.core.dispatcher import Dispatcher
before = set(sys.modules)
import nbnorm
loaded = sorted(set(sys.modules) - before)
compiled = set()
for name, module in list(sys.modules.items()):
    if name.startswith("nbnorm"):
        for key, thing in vars(module).items():
            for part in (thing, getattr(thing, "serial", None), getattr(thing, "parallel", None)):
                if isinstance(part, Dispatcher) and part.overloads:
                    compiled.add(f"{name}.{key}")
print(json.dumps([loaded, sorted(compiled), threading.active_count()]))
"""


def test_import_is_light_compiles_nothing_and_starts_no_threads():
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded, compiled, threads = json.loads(done.stdout)
    assert not [name for name in loaded if name.split(".")[0] in ("scipy", *OPTIONAL)]
    assert compiled == []
    assert threads == 1
