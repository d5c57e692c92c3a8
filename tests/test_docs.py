"""The documentation: its code runs, its names exist, its docstrings agree with the signatures."""

import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from numba import config

import nbnorm

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    path
    for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
    if re.search(r"^```(python|\{code-cell\})$", path.read_text("utf-8"), flags=re.MULTILINE)
]


def blocks(page, hidden=True):
    """Return the code of a page: that of a cell of a notebook without its options."""
    text = page.read_text("utf-8")
    code = r"^```(?:python|\{code-cell\})\n((?::[^\n]*\n)*)(.*?)^```"
    found = re.findall(code, text, flags=re.MULTILINE | re.DOTALL)
    return [block for options, block in found if hidden or "hide-input" not in options]


@pytest.mark.skipif(config.DISABLE_JIT, reason="too much arithmetic for the interpreter")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_python_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("MATPLOTLIBRC", str(DOCS / "examples" / "figures.mplstyle"))
    namespace = {"__name__": "__main__"}
    try:
        for number, block in enumerate(blocks(page), 1):
            exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
    finally:
        if "plt" in namespace:
            namespace["plt"].close("all")


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda path: path.name)
def test_code_fits_a_page(page):
    long = [line for block in blocks(page, hidden=False) for line in block.splitlines() if len(line) > 90]
    assert not long, "the page scrolls sideways beyond 90 characters"


@pytest.mark.parametrize("what", ["train", "test"])
def test_readme_has_the_command_that_ci_runs(what):
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(rf"<!-- {what} -->\n+```sh\n(.+?)\n```\n+<!-- end -->", text, flags=re.DOTALL)
    assert found is not None
    assert "\n" not in found[1], "one command, to be pasted at once"


def public():
    """Yield the name and the object of every public function, class and method."""
    for name in nbnorm.__all__:
        thing = getattr(nbnorm, name)
        if not callable(thing):
            continue
        yield name, thing
        if inspect.isclass(thing) and not issubclass(thing, BaseException):
            for method, value in vars(thing).items():
                if inspect.isfunction(value) and not method.startswith("_"):
                    yield f"{name}.{method}", value


def sections(text):
    """Return the sections of a numpydoc docstring by title."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(section):
    names = []
    for line in section.splitlines():
        if line and not line[0].isspace():
            names += [name.strip().lstrip("*") for name in line.split(" : ")[0].split(",")]
    return names


PUBLIC = dict(public())


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_agrees_with_the_signature(name):
    thing = PUBLIC[name]
    assert thing.__doc__, f"{name} has no docstring"
    if isinstance(thing, type) and issubclass(thing, BaseException):
        return
    expected = [p for p in inspect.signature(thing).parameters if p != "self"]
    parts = sections(thing.__doc__)
    got = documented(parts.get("Parameters", parts.get("Attributes", "")))
    if got or len(expected) > 2:  # a method with one plain argument may say so in its first line
        assert got == expected
    first = thing.__doc__.strip().splitlines()[0]
    assert first.endswith((".", ":")), f"the first line of {name} is no sentence: {first!r}"


@pytest.mark.parametrize("name", [name for name in PUBLIC if "." not in name])
def test_docstring_has_an_example(name):
    thing = PUBLIC[name]
    if not (isinstance(thing, type) and issubclass(thing, BaseException)):
        assert ">>>" in thing.__doc__


def test_reference_lists_every_public_name():
    got = re.findall(r"^ {4}(\w+)$", (DOCS / "api.md").read_text("utf-8"), flags=re.MULTILINE)
    assert sorted(got) == sorted(nbnorm.__all__)


def test_references_to_names_exist():
    text = "".join(page.read_text("utf-8") for page in DOCS.glob("*.md"))
    names = re.findall(r"\{(?:func|class|meth|data)\}`~?nbnorm\.([\w.]+)`", text)
    assert names
    for name in names:
        pkgutil.resolve_name(f"nbnorm.{name}")


def test_each_idea_of_the_lecture_has_a_page_a_function_and_an_example():
    rows = re.findall(
        r"^\| (.+) \| (.+) \| (.+) \| (.+) \|$", (DOCS / "lecture.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) > 25
    for idea, *cells in rows[2:]:
        assert all(cell.strip() for cell in cells), idea
        for name, kind in re.findall(r"`([\w-]+)\.(py|ipynb)`", cells[-1]):
            source = DOCS / "examples" / f"{name}.py" if kind == "py" else DOCS / f"{name}.md"
            assert source.exists(), source


def test_figures_and_tables_exist_and_are_small():
    text = "".join(page.read_text("utf-8") for page in DOCS.glob("*.md"))
    files = re.findall(r"^```\{(?:image|literalinclude|figure)\} (\S+)", text, flags=re.MULTILINE)
    files = [file for file in files if not file.startswith("generated/")]  # written by the build
    assert files
    for file in files:
        size = (DOCS / file).stat().st_size
        assert 0 < size < 500_000, f"{file} has {size} bytes"
