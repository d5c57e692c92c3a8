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


def imports(path):
    """Yield the modules of nbnorm that a file imports, wherever in it."""
    tree, known = ast.parse(path.read_text("utf-8")), modules()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "nbnorm":
            names = [alias.name for alias in node.names if alias.name in known]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nbnorm."):
            module = node.module.removeprefix("nbnorm.")
            names = [
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in known else module
                for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [a.name.removeprefix("nbnorm.") for a in node.names if a.name.startswith("nbnorm.")]
        yield from names


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
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
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
    for name in allowed.keys() - {"pytest-cov", "hypothesis"}:
        assert f"{tested[name]}.".startswith(f"{allowed[name]}."), name


def fresh(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_is_light():
    code = "import json, sys, numba; before = set(sys.modules); import nbnorm; "
    got = fresh(code + "print(json.dumps(sorted(set(sys.modules) - before)))")
    heavy = [name for name in got if name.split(".")[0] in ("scipy", *OPTIONAL)]
    assert not heavy


def test_import_compiles_nothing():
    code = """
import json, sys
import nbnorm
from numba.core.dispatcher import Dispatcher
compiled = set()
for name, module in list(sys.modules.items()):
    if name.startswith("nbnorm"):
        for key, thing in vars(module).items():
            for part in (thing, getattr(thing, "serial", None), getattr(thing, "parallel", None)):
                if isinstance(part, Dispatcher) and part.overloads:
                    compiled.add(f"{name}.{key}")
print(json.dumps(sorted(compiled)))
"""
    assert fresh(code) == []


def test_import_starts_no_threads():
    got = fresh("import json, threading, nbnorm; print(json.dumps(threading.active_count()))")
    assert got == 1
