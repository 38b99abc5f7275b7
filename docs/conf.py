"""How Sphinx builds this folder: `make docs`. It uses no network, and every warning is an error there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import perceptual_ops  # noqa: E402
from perceptual_ops import names  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "perceptual_ops"
author = "The perceptual_ops authors"
copyright = author
release = version = perceptual_ops.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_argparse_cli",
]
html_theme = "furo"
html_title = f"perceptual_ops {version}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"
smartquotes_action = "D"  # dashes; quotes stay straight, as in "vgg16", which is to be copied
html_theme_options = {"navigation_with_keys": True}
myst_heading_anchors = 3

# `name` in a docstring links to what has that name, where something has.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "extra_repr"}
# An argument's type is shown by its name in `names`, not by the strings that it stands for; not where it may be None,
# of which Sphinx would show the repr.
OPTIONAL = {"Pooling", "Reduction", "TileSize"}
autodoc_type_aliases = {
    name: f"perceptual_ops.names.{name}" for name in vars(names) if name[0].isupper() and name not in OPTIONAL
}
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88


def is_setting(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leaves out the attributes that a constructor's arguments are kept as: the arguments are described."""
    made_by = getattr(getattr(member, "fget", None), "__module__", "")
    return True if made_by == "perceptual_ops._settings" else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", is_setting)
