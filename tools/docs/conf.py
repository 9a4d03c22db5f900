"""Sphinx's settings; tools/docs.py copies this file beside the pages that it makes."""
import inspect
import logging
import re
from functools import cached_property

logging.getLogger("torch").setLevel(logging.ERROR)

project, author, copyright = "hsenet", "hsenet contributors", "2026 onwards, hsenet contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
smartquotes_action = "qe"  # leave `--option` alone
html_theme, html_title = "furo", "hsenet"
html_static_path, html_css_files, html_extra_path = ["_static"], ["custom.css"], ["extra"]
html_show_sphinx, html_copy_source, html_show_sourcelink = False, False, False
html_theme_options = {"navigation_with_keys": True}
suppress_warnings = ["misc.highlighting_failure"]  # code with "…" in it
pygments_style, pygments_dark_style = "friendly", "github-dark"

nb_render_markdown_format = "myst"  # tables in outputs are tables
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "imports", "imports"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
mathjax_path = "mathjax/tex-svg.js"

autodoc_typehints, autodoc_typehints_format, autodoc_typehints_description_target = "description", "short", "all"
autodoc_inherit_docstrings, autodoc_member_order, autoclass_content = False, "bysource", "class"
autodoc_preserve_defaults = True
add_module_names, python_use_unqualified_type_names, toc_object_entries_show_parents = False, True, "hide"


def as_rst(text: str) -> str:
    "Markdown code in docstrings and comments as reStructuredText; nothing else in them is markup."
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(f"`{p}`" if i % 2 else re.sub(r"([*|_\\])", r"\\\1", p) for i, p in enumerate(parts))


def docments_of(obj) -> dict[str, str]:
    "The comments beside a function's parameters, or a dataclass's fields; empty where there is none, so that the order is the code's."
    from fastcore.docments import docments
    try: found = docments(obj, full=True)
    except (TypeError, ValueError, OSError): return {}
    told = {name: (str(d.get("docment") or ""), d.get("anno", inspect.Parameter.empty)) for name, d in found.items() if isinstance(d, dict)}
    return {name: text for name, (text, kind) in told.items() if text or (name != "return" and kind is not inspect.Parameter.empty)}


def process(app, what, name, obj, options, lines):
    "Docstring, then the docments as a list of parameters."
    if what == "data":
        lines[:] = []
        return
    if len(lines) > 30: lines[:] = lines[: lines.index("")]  # ours are short: this one came with a base class of the library
    lines[:] = [as_rst(line) for line in lines]
    if what not in ("function", "method", "class") or (what == "class" and not inspect.isclass(obj)): return
    fields = []
    for parameter, text in docments_of(obj).items():
        text = as_rst(" ".join(text.split()))
        fields.append(f":returns: {text}" if parameter == "return" else f":param {parameter}: {text}")
    lines += ["", *fields, ""]


def skip(app, what, name, obj, skipped, options) -> bool | None:
    "Of a class only its methods and properties: no `config_class = …`."
    return None if isinstance(obj, (property, cached_property)) or (callable(obj) and not inspect.isclass(obj)) else True


def widen_front_page(app, env) -> None:
    "The front page has no list of its own headings."
    env.metadata["index"]["hide-toc"] = True


def setup(app):
    app.connect("env-updated", widen_front_page)
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-skip-member", skip)
