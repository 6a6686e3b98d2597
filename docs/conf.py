"""Sphinx: `make docs` builds the pages of this folder into docs/_build/html. Nothing is fetched from the network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent / "src")]

import lanczos_saddle  # noqa: E402  the source beside these pages

project = "lanczos_saddle"
author = "The authors of lanczos_saddle"
project_copyright = author
release = version = lanczos_saddle.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "plain_docstrings", "api_pages", "outside_pages"]
exclude_patterns = ["_build", "extensions"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # the names that GitHub gives to headings

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!lanczos_saddle\.).*"), ("py:.*", r"lanczos_saddle\.\w+\..*")]
"""Types of other libraries have no pages here, nor have private ones; what is public must be found."""

html_theme = "furo"
html_title = "lanczos_saddle"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
smartquotes = False  # x' is a transpose
highlight_language = "text"  # of blocks that name none: output, formulas, shell
pygments_style = "friendly"
pygments_dark_style = "monokai"
