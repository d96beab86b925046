"""The site: README, labs and the other pages as committed, nothing executed. `make site` builds it in out/site.

Formulas are drawn while it is built, so that a page loads nothing from elsewhere and looks the same everywhere.
"""

import re
import shutil
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert as latex2mathml
from ziamath import Latex

project = html_title = "LLM Course Labs"
copyright = "text CC BY 4.0, code Apache 2.0"
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "labs/*.ipynb", "labs/*.md", "data/README.md",
                    "data/models/tiny/README.md", "data/models/judge/README.md"]
CHAPTERS = {"Labs": "labs/[0-9]*", "For instructors": "labs/[A-Z]*",
            "Reference": "data/README\ndata/models/tiny/README\ndata/models/judge/README\nCONTRIBUTING"}

extensions = ["myst_nb", "sphinx_revealjs"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js = {}
html_math_renderer = "svg"
highlight_language = "text"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
revealjs_style_theme = "white"
revealjs_static_path = ["static"]
revealjs_css_files = ["slides.css"]
revealjs_script_conf = {"width": 1280, "height": 720, "margin": 0.02, "center": False, "hash": True}
nb_mime_priority_overrides = [("revealjs", kind, i) for i, kind in enumerate(["image/png", "text/html", "text/plain"])]
html_copy_source = html_show_sphinx = html_use_index = False


def adapt_source(app, name, source):
    """A folder has no page: of a link to one, its text is left. The README's end gets the list of pages."""
    source[0] = re.sub(r"\[([^\]]+)\]\([^):]+/\)", r"\1", source[0])
    if name == root_doc:
        for caption, pages in CHAPTERS.items():
            source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{pages}\n```\n"


def add_index(app, error):
    if not error:
        shutil.copy(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def picture(tex, **options):
    """A formula as svg, in the text's color, on its baseline, with its TeX as title. Raises ValueError for a command
    that latex2mathml does not know and would print as it stands."""
    tex = re.sub(r"\\math(bb|cal) (\w)", r"\\math\1{\2}", tex)  # ziamath overlooks the letter's style without braces
    if unknown := re.search(r">(\\\w+)<", latex2mathml(tex)):
        raise ValueError(f"unknown command {unknown[1]} in the formula {tex}")
    drawn = Latex(tex, size=17, color="currentColor", title=tex, **options)
    return drawn.svg().replace("<svg", f'<svg role="img" style="vertical-align: {drawn.getyofst():.2f}px"', 1)


def inline_formula(translator, node):
    translator.body.append(picture(node.astext(), inline=True))
    raise SkipNode


def formula(translator, node):
    translator.body.append(f'<div class="math">{picture(node.astext())}</div>')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("svg", (inline_formula, None), (formula, None))
    app.connect("source-read", adapt_source)
    app.connect("build-finished", add_index)
