"""Sphinx configuration."""

import base64
import contextlib
import importlib.metadata
import importlib.resources
import io
import json
import os
import re
import shutil
from pathlib import Path

from docutils.nodes import SkipNode, Text
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.ext.autosummary import autosummary_table
from sphinx.util.math import get_node_equation_number

from nbnorm.cli import main

# Pages of names that are gone must not stay.
shutil.rmtree(Path(__file__).parent / "generated", ignore_errors=True)

project = "nbnorm"
author = "the nbnorm developers"
copyright = author
release = importlib.metadata.version("nbnorm")
version = release

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "examples"]
smartquotes = False  # "auto" is an option's value, with the quotes of the code

myst_enable_extensions = [
    "amsmath",
    "dollarmath",
    "deflist",
    "colon_fence",
    "attrs_block",
]
myst_heading_anchors = 3

# Pages that are notebooks run when the documentation is built; a cell that fails ends the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
os.environ["MATPLOTLIBRC"] = str(
    Path(__file__).parent / "examples" / "figures.mplstyle"
)
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # np.float32, as the code writes it
autodoc_typehints = "none"  # the docstrings state types, shapes and dtypes
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"nbnorm {release}"
html_show_sphinx = False
html_show_copyright = False
# Browsers need a font with a table for mathematics, which many systems lack. ziamath brings STIX Two Math,
# under the SIL Open Font License, which the file itself names.
_MATH_FONT = importlib.resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"
html_static_path = ["_static", str(_MATH_FONT)]
html_css_files = ["page.css"]
html_math_renderer = "mathml"


def _mathml(text, block):
    # docutils takes the index of an accented letter for a limit below it; an empty base prevents that.
    source = re.sub(
        r"(\\(?:bar|hat|dot) ?(?:\w|\{[^{}]*\}))_", r"\1{}_", text.replace("\n", " ")
    )
    try:
        rendered = str(tex2mathml(source, as_block=block))
    except MathError as error:
        raise ValueError(f"cannot render {source!r}: {error}") from None
    if not block:
        # Browsers hang a root's sign from its bar: let what is under it reach as far down as the sign.
        strut = '<mspace height="0.78em" depth="0.24em"/>'
        rendered = rendered.replace("<msqrt>", f"<msqrt>{strut}")
    # Bars around a value are no operators: they have its height, and no space around them.
    return re.sub(
        r"<mo[^>]*>([|‖])</mo>",
        r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>',
        rendered,
    )


def _inline(translator, node):
    translator.body.append(_mathml(node.astext(), False))
    raise SkipNode


def _block(translator, node):
    translator.body.append(translator.starttag(node, "div", CLASS="equation"))
    translator.body.append(_mathml(node.astext(), True))
    if node["number"]:
        translator.body.append(
            f'<span class="eqno">({get_node_equation_number(translator, node)})</span>'
        )
    translator.body.append("</div>")
    raise SkipNode


def _write_help(app):
    """Write what `nbnorm COMMAND --help` prints, for the page on the command line."""
    os.environ["COLUMNS"] = "92"
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    commands = (
        "train predict evaluate info standardize convert gradcheck warmup completion"
    )
    for command in commands.split():
        with (
            contextlib.redirect_stdout(io.StringIO()) as text,
            contextlib.suppress(SystemExit),
        ):
            main([command, "--help"])
        (folder / f"help-{command}.txt").write_text(text.getvalue(), "utf-8")


def _draw_vectors(app):
    """Let the pages' figures be SVG: IPython reads the format from its profile."""
    profile = Path(app.srcdir) / "generated" / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    lines = (
        'c.IPKernelApp.matplotlib = "inline"',
        'c.InlineBackend.figure_formats = {"svg"}',
        'c.InlineBackend.print_figure_kwargs = {"bbox_inches": None}',
    )
    (profile / "ipython_kernel_config.py").write_text("\n".join(lines) + "\n", "utf-8")
    os.environ["IPYTHONDIR"] = str(profile.parent)
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"


def _drop_citations(app, doctree):
    """Take citations out of the tables of names, which have no list of references."""
    for table in doctree.findall(autosummary_table):
        for citation in list(table.findall(pending_xref)):
            if citation["refdomain"] == "citation":
                before = citation.previous_sibling()
                if isinstance(before, Text):
                    before.parent.replace(before, Text(before.rstrip()))
                citation.parent.remove(citation)


def _skip_fields(app, what, name, obj, skip, options):
    """Leave out the fields of a named tuple, of which Python says no more than their numbers."""
    return True if str(obj.__doc__).startswith("Alias for field number") else None


def _protect_letters(app, what, name, obj, options, lines):
    """Keep a letter with a dot, such as that of "A. K. Menon", from being read as an item of a list."""
    letter = re.compile(r"^(\s*(?:\.\. \[.+?\] )?)(?=[A-Z]\.( |$))")
    lines[:] = [letter.sub(r"\1\\", line) for line in lines]


def _plain(text, titles, folder):
    """Return a cell's text in the Markdown that every notebook program reads: no roles, no directives."""

    def directive(found):
        kind, argument, body = found.groups()
        if kind == "image":
            image = base64.b64encode((folder / argument).read_bytes()).decode()
            return f"![](data:image/svg+xml;base64,{image})"
        if kind == "literalinclude" and ":start-at:" not in body:
            return f"```text\n{(folder / argument).read_text('utf-8')}```"
        return (folder / argument).read_text("utf-8") if kind == "include" else ""

    def link(found):
        return found[1] or titles.get(found[2], found[2])

    text = re.sub(
        r"^This page runs when the documentation is built.*\n?", "", text, flags=re.M
    )
    text = re.sub(
        r"^```\{([\w-]+)\} ?(\S*)\n(.*?)^```$", directive, text, flags=re.M | re.S
    )
    text = re.sub(r"\[([^]]*)\]\(([\w-]*)(?:\.md)?(?:#[\w-]+)?\)", link, text)
    text = re.sub(r"\{eq\}`(\w+)`", r"the equation (\1)", text)
    text = re.sub(r"\{[\w-]+\}`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"^\$\$ \((\w+)\)$", r"$$\n\n(\1)", text, flags=re.M)


def _write_plain_notebooks(app, exception):
    """Turn the text of the notebooks that the pages offer into plain Markdown."""
    titles = {name: title.astext() for name, title in app.env.titles.items()}
    for path in (Path(app.outdir) / "_downloads").rglob("*.ipynb"):
        notebook = json.loads(path.read_text("utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                source = "".join(cell["source"])
                cell["source"] = _plain(source, titles, Path(app.srcdir))
        path.write_text(json.dumps(notebook, indent=1), "utf-8")


def setup(app):
    """Render mathematics as MathML when the pages are built: no network, no script, no font of the system."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("builder-inited", _write_help)
    app.connect("builder-inited", _draw_vectors)
    app.connect("doctree-read", _drop_citations)
    app.connect(
        "autodoc-process-docstring", _protect_letters, priority=900
    )  # after numpydoc
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("build-finished", _write_plain_notebooks)
