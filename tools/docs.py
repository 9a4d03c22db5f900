"""Build the docs site offline with Sphinx, from the notebooks and the modules' docstrings and docments; write README.md and nbs/sidebar.yml.

    python tools/docs.py            outputs/docs, and README.md
    python tools/docs.py --readme   README.md and nbs/sidebar.yml only
"""
import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import yaml

import docs_made
from docs_checks import TEMPORARY, site_problems
from run import ANSI, ROOT

NBS = ROOT / "nbs"
SITE = ROOT / "outputs/docs"
BUILD = ROOT / "outputs/.docs"  # what Sphinx reads, and leaves
SOURCE = BUILD / "source"
QUICKSTARTS = [ROOT / "outputs/quickstart/quickstart.ipynb", ROOT / "outputs/mini/quickstart.ipynb"]
REPOSITORY = "https://github.com/hsenet/hsenet/blob/main/"
SECTIONS = {  # caption in the sidebar → pages, in this order; a page named whole is taken from the patterns of the others
    "Start": ["index", "how_to/install", "runs/quickstart", "reference/quickstart_numbers"],
    "Tutorials": ["tutorials/*", "demo/08_tour"],
    "How to": [
        "how_to/own_ct",
        "tutorials/ct_rate_to_cache",
        "how_to/bimcv_r",
        "how_to/radgenome",
        "how_to/train_one_gpu",
        "how_to/train_ct_rate",
        "how_to/train_*",
        "how_to/evaluate",
        "how_to/*",
    ],
    "Explanation": [
        "explanation/method",
        "explanation/*",
        "tutorials/claims",
        "tutorials/what_the_numbers_mean",
        "16_fidelity",
        "tutorials/what_is_promised",
    ],
    "Reference": ["api/hsenet.cli", "reference/*", "changelog", "citation", "contributing", "house/index", "api/index"],
}
ROOMS = {  # room of the house → what it holds, and its notebooks; house/<room> is a page of the reference
    "ground": (
        "every setting and its bounds; what is said to people; links, folders, full disks; whole files, rows, locks, "
        "checksums; the figures that all share, also while a training runs; how far a job is; processes that end with their parent",
        ["0?_*", "1[0-2]_*"]),
    "ct": (
        "one CT: Hounsfield units along the patient's axes, from NIfTI or DICOM, down to what the encoders see",
        ["ct/*"]),
    "corpora": (
        "what every corpus becomes, a module per corpus, archives, and what doesn't agree in one",
        ["corpora/*"]),
    "phantoms": (
        "synthetic chest CTs with known findings: a body, 18 findings, how they are painted and said, files in any "
        "corpus's layout",
        ["phantoms/*"]),
    "cache": (
        "the job between a corpus and training: slices and their 2D features, volumes, texts, data sets; parallel, "
        "resumable, on one machine or a cluster",
        ["cache/*"]),
    "models": (
        "the 3D ViT and its 2D-enhanced sibling, CLIP, the packer and its rivals, the report model; released weights "
        "in and out",
        ["models/*"]),
    "metrics": (
        "a score is rows and a statistic; retrieval, words, findings, answers, each with interval, baselines and p-value",
        ["metrics/*"]),
    "training": (
        "one loop for every stage, what differs between the stages, many processes; what happens to a run in between",
        ["training/*"]),
    "evaluation": (
        "what a model says about held-out cases, kept, scored, shown as a page, and held beside others",
        ["evaluation/*"]),
    "use": (
        "a CT of one's own → report, answers, findings, similar cases, maps; settings by name; the command `hsenet`",
        ["use/*", "1[3-5]_*"]),
    "demo": ("the web page", ["demo/*"]),
    "commands": (
        "the command `hsenet`: its error line and exit status, then a room per group of commands",
        ["commands/*"]),
    "runs": (
        "each step of the quickstart as a notebook with parameters, for papermill, `hsenet run` or `python tools/run.py`",
        ["runs/preprocess", "runs/pretrain_*", "runs/finetune_*", "runs/evaluate_*", "runs/*"]),
}
TITLES = {  # pages that the sidebar calls otherwise than they call themselves
    "runs/quickstart": "Quickstart, executed",
    "reference/quickstart_numbers": "Its numbers",
    "tutorials/ct_rate_to_cache": "CT-RATE",
    "tutorials/what_the_numbers_mean": "Protocols: what the numbers mean",
    "tutorials/what_is_promised": "What is promised",
    "house/index": "The house: every part in a notebook",
}
DOCUMENTS = {"CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing", "CITATION.cff": "citation"}
MINI_NOTE = (
    "The preset `mini` only shows that everything runs: its models have learnt nothing. "
    "`make quickstart`, then `make docs`, shows a real one.")


# --- notebooks ------------------------------------------------------------------------------------------------------

def read(path: Path) -> dict:
    "A notebook, with the text of cells as strings."
    nb = json.loads(Path(path).read_text(encoding="utf-8"))
    for cell in nb["cells"]:
        cell["source"] = "".join(cell["source"])
    return nb


def shown_notebooks() -> Iterator[Path]:
    "Every notebook that isn't hidden by a leading `_` or `.` of its name or folder."
    for path in sorted(NBS.rglob("*.ipynb")):
        parts = path.relative_to(NBS).parts
        if not any(part.startswith(("_", ".")) for part in parts):
            yield path


def page_name(path: Path) -> str:
    "`nbs/ct/00_volume.ipynb` → `ct/00_volume`."
    return path.relative_to(NBS).with_suffix("").as_posix()


def directives(source: str) -> tuple[dict[str, str], str]:
    "The `#|` lines of a cell, and the lines beside them: `#| echo: false` → {'echo': 'false'}."
    marks, lines = {}, []
    for line in source.splitlines():
        match = re.match(r"#\|\s*([\w-]+):?\s*(.*)", line)
        if match:
            marks[match[1]] = match[2].strip()
        else:
            lines.append(line)
    return marks, "\n".join(lines).strip("\n")


def default_exp(nb: dict) -> str | None:
    "The module that a notebook exports, below the package; None for one that exports nothing."
    for cell in nb["cells"]:
        module = directives(cell["source"])[0].get("default_exp")
        if module: return module
    return None


def only_imports(source: str) -> bool:
    "Nothing but imports, docstrings and a logger."
    try:
        tree = ast.parse(source).body
    except SyntaxError:
        return False
    imports = [isinstance(x, (ast.Import, ast.ImportFrom)) for x in tree]
    loggers = [ast.unparse(x).startswith("logger = ") for x in tree]
    return any(imports) and all(a or b for a, b in zip(imports, loggers))


def rich(outputs: list[dict], kind: str) -> list[str]:
    "The outputs of one kind (`text/markdown`), as strings."
    return ["".join(o["data"][kind]) for o in outputs if kind in o.get("data", {})]


def readme(index: Path = NBS / "index.ipynb") -> str:
    "README.md from the front page: its prose, its code, and what its cells printed; links reach into nbs/."
    parts = []
    for cell in read(index)["cells"]:
        marks, source = directives(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
        elif cell["cell_type"] == "code" and "hide" not in marks:
            if marks.get("echo") != "false":
                parts.append(f"```python\n{source}\n```")
            parts += rich(cell["outputs"], "text/markdown")
    text = "\n\n".join(p.strip() for p in parts if p.strip())
    text = re.sub(r"\]\((?!https?:|#|/|\.\./)([^)]+)\)", r"](nbs/\1)", text)
    text = re.sub(r'(src|srcset|href)="(?!https?:|#|/|\.\./)([^"]+)"', r'\1="nbs/\2"', text)
    text = re.sub(r"\]\(\.\./([^)]+)\)", r"](\1)", text)
    return "<!-- Made from nbs/index.ipynb by `make docs`: edit that. -->\n\n" + text + "\n"


# --- links ----------------------------------------------------------------------------------------------------------

class Names:
    "What `name` in prose can link to: exported names, and modules by the name of their notebook."

    def __init__(self):
        self.modules: dict[str, str] = {}  # module below the package → page of its notebook
        self.places: dict[str, list[str]] = {}  # exported name → where it is exported
        for path in sorted(NBS.rglob("*.ipynb")):
            module = default_exp(read(path))
            if module: self.modules[module] = page_name(path)
        for module in modules():
            for name in symbols(module):
                self.places.setdefault(name, []).append(f"{module}.{name}")

    def link(self, name: str, module: str | None) -> str | None:
        "The MyST link for `name` as the page of `module` uses it; None where it is unknown or ambiguous."
        bare = name.removeprefix("hsenet.")
        if bare in self.modules and bare != module:
            return f"[`{name}`](/{self.modules[bare]}.ipynb)" if "." in bare else None
        everywhere = self.places.get(name, [])
        here = [p for p in everywhere if p.startswith(f"hsenet.{module}.")]
        places = here or everywhere
        if len(places) != 1 or name.startswith("_"): return None
        return f"{{py:obj}}`{name} <{places[0]}>`"

    def linked(self, text: str, module: str | None) -> str:
        "Prose with links on the names it has in backticks; headings and fenced code stay."
        out, fenced = [], False
        for line in text.split("\n"):
            fence = line.lstrip().startswith("```")
            fenced ^= fence
            if fenced or fence or line.startswith("#"):
                out.append(line)
            else:
                out.append(self._linked_line(line, module))
        return "\n".join(out)

    def _linked_line(self, line: str, module: str | None) -> str:
        def link(match: re.Match) -> str: return self.link(match[1], module) or match[0]
        return re.sub(r"(?<![\[`\w}])`([A-Za-z_][\w.]*)`(?![`\]])", link, line)


# --- pages ----------------------------------------------------------------------------------------------------------

def page(path: Path, name: str, names: Names, note: str = "") -> dict:
    "A notebook made ready for myst-nb: directives obeyed, names linked, `note` under the title."
    nb = read(path)
    module = default_exp(nb)
    cells = []
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            cells.append(prose(cell, names, module, (NBS / name).parent))
        else:
            cells.append(code(cell))
    cells = [cell for cell in cells if cell]
    pointers = [note] if note else []
    if module:
        api = f"*Module* {{doc}}`hsenet.{module} </api/hsenet.{module}>`"
        source = f"*notebook* [`nbs/{name}.ipynb`]({REPOSITORY}nbs/{name}.ipynb)"
        pointers.append(f"{api} · {source}")
    if pointers:
        cells.insert(1, {"cell_type": "markdown", "metadata": {}, "source": "\n\n".join(pointers)})
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    language = {"name": "python", "pygments_lexer": "ipython3"}
    metadata = {"kernelspec": kernel, "language_info": language}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def prose(cell: dict, names: Names, module: str | None, folder: Path) -> dict:
    "A markdown cell of a notebook in `folder`; links to what is no page go to the repository."
    def elsewhere(match: re.Match) -> str:
        target, _, anchor = match[2].partition("#")
        path = (folder / target).resolve()
        if made := place(path): return f"{match[1]}({made})"
        shown = path.is_relative_to(NBS) and path.suffix in (".ipynb", ".svg", ".png")
        if shown or not target: return match[0]
        anchor = f"#{anchor}" if anchor else ""
        return f"{match[1]}({REPOSITORY}{path.relative_to(ROOT)}{anchor})"
    text = re.sub(r"(\])\((?!https?:|#|mailto:)([^)\s]+)\)", elsewhere, cell["source"])
    return {"cell_type": "markdown", "metadata": {}, "source": names.linked(text, module)}


def place(path: Path) -> str | None:
    "The page that stands for a folder of notebooks, or for a document of the project; None where there is none."
    if path == NBS: return "/house/index.md"
    if path == ROOT / "hsenet": return "/api/index.md"
    if path.parent == NBS and path.is_dir() and path.name in ROOMS: return f"/house/{path.name}.md"
    if path.parent == ROOT and path.name in DOCUMENTS: return f"/{DOCUMENTS[path.name]}.md"
    return None


def code(cell: dict) -> dict | None:
    "A code cell; None where readers needn't see it."
    marks, source = directives(cell["source"])
    if marks.keys() & {"hide", "default_exp"}: return None
    if not source and not cell["outputs"]: return None
    tags = [t for t in cell["metadata"].get("tags", []) if t == "parameters"]
    if marks.keys() & {"export", "exports"}: tags.append("exported")
    if "exporti" in marks or only_imports(source): tags.append("hide-input")
    if marks.get("echo") == "false": tags.append("remove-input")
    outputs = []
    if marks.get("output") != "false":
        tidied = [tidy(output) for output in cell["outputs"]]
        outputs = once([output for output in tidied if output], "display(" in source)
    return {
        "cell_type": "code",
        "metadata": {"tags": tags},
        "source": source,
        "outputs": outputs,
        "execution_count": None,
    }


def once(outputs: list[dict], displayed: bool) -> list[dict]:
    "Figures that a cell displays are drawn again as it ends: keep the first of both."
    figures = [i for i, o in enumerate(outputs) if "image/png" in o.get("data", {})]
    names = ["".join(outputs[i]["data"].get("text/plain", "")) for i in figures]
    half = len(figures) // 2
    twice = displayed and half > 0 and names[:half] == names[half:]
    repeated = figures[half:] if twice else []
    return [o for i, o in enumerate(outputs) if i not in repeated]


NOISE = re.compile(r"\d+%\||\[\d+:\d+.*/s\]|s/it\]|IProgress not found")  # progress bars, and warnings about them


WIDGET = "application/vnd.jupyter.widget-view+json"  # no kernel moves it here, and its script would come from elsewhere


def tidy(output: dict) -> dict | None:
    "An output without widgets, terminal colours, progress bars and places on this machine; None where nothing is left."
    if output["output_type"] != "stream":
        shown = {}
        for kind, data in output.get("data", {}).items():
            if kind != WIDGET: shown[kind] = placeless(data) if kind.startswith("text/") else data
        return output | {"data": shown} if shown else output
    text = ANSI.sub("", "".join(output["text"]))
    lines = [line.split("\r")[-1] for line in text.split("\n")]
    text = "\n".join(line for line in lines if not NOISE.search(line)).strip("\n")
    if not text.strip(): return None
    return {"output_type": "stream", "name": output["name"], "text": placeless(text) + "\n"}


def placeless(text: str | list[str]) -> str:
    "Paths below the project from there on, and temporary folders as `…`."
    return TEMPORARY.sub("…", "".join(text).replace(f"{ROOT}/", ""))


def finished(executed: Path) -> bool:
    "There is such a run, it ended, and not with an error."
    if not executed.is_file(): return False
    papermill = read(executed)["metadata"].get("papermill", {})
    return bool(papermill.get("end_time")) and not papermill.get("exception")


def _sources(path: Path) -> list[str]:
    "The code cells of a notebook, without the parameters that papermill put in."
    cells = [c for c in read(path)["cells"] if c["cell_type"] == "code"]
    return [c["source"] for c in cells if "injected-parameters" not in c["metadata"].get("tags", [])]


def facts(executed: Path, source: Path) -> str:
    "A note on the run that an executed notebook is from."
    papermill = read(executed)["metadata"].get("papermill", {})
    given = papermill.get("parameters", {})
    preset = given.get("preset", "the default")
    seed = given.get("seed", 42)
    day = str(papermill.get("start_time"))[:10]
    minutes = (papermill.get("duration") or 0) / 60
    folder = executed.parent.relative_to(ROOT)
    text = f"This page shows a run of {day}: preset `{preset}`, seed {seed}, {minutes:.1f} minutes, from `{folder}/`."
    if preset == "mini": text += " " + MINI_NOTE
    if _sources(source) != _sources(executed): text += " The notebook has changed since."
    return f"```{{note}}\n{text}\n```"


def pages() -> dict[str, tuple[Path, str]]:
    "Page name → notebook to show, and a note on it. Run notebooks are shown as executed, where they have been."
    out = {}
    for path in shown_notebooks():
        name = page_name(path)
        executed = []
        if name == "runs/quickstart":
            executed = QUICKSTARTS
        elif name.startswith("runs/"):
            executed = [ROOT / f"outputs/mini/{path.name}"]
        done = [run for run in executed if finished(run)]
        out[name] = (done[0], facts(done[0], path)) if done else (path, "")
    return out


# --- the API --------------------------------------------------------------------------------------------------------

def _tree(module: str) -> list[ast.stmt]:
    path = ROOT / (module.replace(".", "/") + ".py")
    return ast.parse(path.read_text(encoding="utf-8")).body


def _targets(node: ast.stmt) -> list[str | None]:
    "The names that a definition or an assignment defines."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return [node.name]
    if isinstance(node, ast.Assign): return [getattr(t, "id", None) for t in node.targets]
    if isinstance(node, ast.AnnAssign): return [getattr(node.target, "id", None)]
    return []


def members(module: str) -> list[tuple[str, str]]:
    "Exported (kind, name) pairs of a module, in the order of its source."
    tree = _tree(module)
    exported = []
    for node in tree:
        if isinstance(node, ast.Assign) and _targets(node) == ["__all__"]:
            exported = ast.literal_eval(node.value)
    kinds = {ast.FunctionDef: "function", ast.ClassDef: "class", ast.Assign: "data", ast.AnnAssign: "data"}
    out = []
    for node in tree:
        for name in _targets(node):
            pair = (kinds[type(node)], name)
            if name in exported and name != "logger" and pair not in out: out.append(pair)
    return out


def symbols(module: str) -> list[str]:
    "Exported names of a module, and `Class.method` of its classes."
    out = [name for _, name in members(module)]
    for node in _tree(module):
        if not isinstance(node, ast.ClassDef) or node.name not in out: continue
        methods = [m.name for m in node.body if isinstance(m, ast.FunctionDef)]
        out += [f"{node.name}.{method}" for method in methods if not method.startswith("_")]
    return out


def api_page(module: str, notebook: str | None) -> str:
    "The reference page of a module."
    directive = {"class": "autoclass", "function": "autofunction", "data": "autodata"}
    options = {
        "class": "   :members:\n   :undoc-members:\n   :show-inheritance:\n",
        "function": "",
        "data": "   :no-value:\n",
    }
    lines = [f"# {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :no-members:", "```", ""]
    if notebook:
        lines += [f"Explained, shown and tested in [{notebook}](/{notebook}.ipynb).", ""]
    for kind, name in members(module):
        lines += ["```{eval-rst}", f".. {directive[kind]}:: {module}.{name}", options[kind], "```", ""]
    return "\n".join(lines)


def command_page(module: str, notebook: str) -> str:
    "The reference page of the command line: each command with its arguments and options."
    from typer.main import get_command
    parts = [
        "# Command line",
        f"Explained, shown and tested in [{notebook}](/{notebook}.ipynb). Every command takes `--help`.",
    ]
    for name, command in _commands(get_command(import_module(module).app), "hsenet"):
        rows = [f"| `{'` `'.join(p.opts)}` | {p.help or ''} | {_default(p)} |" for p in command.params]
        table = "\n".join(["| argument | what it is | default |", "|---|---|---|", *rows])
        parts += [f"## {name}", command.help or "", table]
    return "\n\n".join(parts) + "\n"


def _commands(command, name: str) -> list[tuple[str, object]]:
    "(name, command) of every command below a group."
    below = getattr(command, "commands", None)
    if not below: return [(name, command)]
    out = []
    for key, each in below.items():
        out += _commands(each, f"{name} {key}")
    return out


def _default(parameter) -> str:
    if parameter.required: return "required"
    if parameter.default in (None, [], ()): return ""
    return f"`{parameter.default}`"


def modules() -> list[str]:
    "Every module of the package."
    paths = [p for p in sorted((ROOT / "hsenet").rglob("*.py")) if not p.name.startswith("_")]
    return [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths]


# --- the site -------------------------------------------------------------------------------------------------------

def matching(patterns: list[str], pages: list[str], named: set[str]) -> list[str]:
    "Pages in the order of the patterns; one that is `named` whole somewhere is left to that place."
    out = []
    for pattern in patterns:
        found = [page for page in pages if page == pattern or (fnmatch(page, pattern) and page not in named)]
        out += [page for page in found if page not in out]
    return out


def sections(known: list[str]) -> dict[str, list[str]]:
    "Caption → pages, in the order of `SECTIONS`, with pages that are made."
    named = {pattern for patterns in SECTIONS.values() for pattern in patterns}
    left = [*known, *docs_made.MADE]
    out = {}
    for caption, patterns in SECTIONS.items():
        chosen = matching(patterns, left, named)
        left = [name for name in left if name not in chosen]
        if chosen: out[caption] = chosen
    return out


def rooms(known: list[str]) -> dict[str, tuple[str, list[str]]]:
    "Room → what it holds and its notebooks, of those that no section takes. Stops where a page fits nowhere."
    taken = [name for chosen in sections(known).values() for name in chosen]
    left = [name for name in known if name not in taken]
    out = {}
    for room, (holds, patterns) in ROOMS.items():
        chosen = matching(patterns, left, set())
        left = [name for name in left if name not in chosen]
        if chosen: out[room] = (holds, chosen)
    if left:
        raise SystemExit(f"no section or room of the docs takes {', '.join(left)}; add it in tools/docs.py")
    return out


def sidebar(known: list[str]) -> str:
    "nbs/sidebar.yml, for `nbdev_docs` where there is Quarto."
    def section(caption: str, names: list[str]) -> dict:
        return {"section": caption, "contents": [f"{name}.ipynb" for name in names if name in known]}
    contents = [section(caption, names) for caption, names in sections(known).items()]
    contents = [each for each in contents if each["contents"]]
    house = [section(room, names) for room, (_, names) in rooms(known).items()]
    contents.append({"section": "The house", "contents": house})
    return yaml.safe_dump({"website": {"sidebar": {"contents": contents}}}, sort_keys=False)


def toctrees(known: list[str]) -> str:
    "Hidden tables of contents, which make the site's own sidebar."
    trees = []
    for caption, chosen in sections(known).items():
        trees.append(docs_made.toctree([name for name in chosen if name != "index"], caption, TITLES))
    return "\n".join(trees)


def made_pages(known: list[str], apis: list[str], names: "Names") -> dict[str, str]:
    "Pages that are no notebooks: name → Markdown."
    out = docs_made.house(rooms(known))
    out["api/index"] = docs_made.api(apis, names.modules)
    out["citation"] = docs_made.citation()
    out["reference/gpu"] = docs_made.gpu()
    for document, page in DOCUMENTS.items():
        if document.endswith(".md"): out[page] = docs_made.document(document)
    for module in apis:
        notebook = names.modules.get(module.removeprefix("hsenet."))
        make = command_page if module == "hsenet.cli" else api_page
        out[f"api/{module}"] = make(module, notebook)
    return out


def write_source() -> None:
    "All that Sphinx reads."
    shutil.rmtree(BUILD, ignore_errors=True)
    (SOURCE / "api").mkdir(parents=True)
    (SOURCE / "_static").mkdir()
    (SOURCE / "extra").mkdir()
    names = Names()
    known = pages()
    apis = modules()
    for name, (path, note) in known.items():
        nb = page(path, name, names, note)
        if name == "index":
            contents = toctrees(list(known))
            nb["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": contents})
        _write(SOURCE / f"{name}.ipynb", json.dumps(nb))
    for name, text in made_pages(list(known), apis, names).items():
        _write(SOURCE / f"{name}.md", text)
    for picture in [*NBS.rglob("*.svg"), *NBS.rglob("*.png")]:
        _copy(picture, SOURCE / picture.relative_to(NBS))
    for picture in [*NBS.glob("images/landing*"), *NBS.glob("demo/pictures/*")]:  # named in HTML: Sphinx doesn't look
        _copy(picture, SOURCE / "extra" / picture.relative_to(NBS))
    _copy(ROOT / "tools/docs/conf.py", SOURCE / "conf.py")
    _copy(ROOT / "tools/docs/custom.css", SOURCE / "_static/custom.css")
    _copy(mathjax(), SOURCE / "_static/mathjax/tex-svg.js")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def mathjax() -> Path:
    "MathJax 3 in one file, from a Python package, so that the site needs neither npm nor the internet."
    advice = "no MathJax: expected the package django-static-mathjax; pip install -e '.[dev]'"
    try:
        path = Path(str(files("mathjax") / "static/mathjax/es5/tex-svg.js"))
    except ModuleNotFoundError:
        raise SystemExit(advice) from None
    if not path.is_file(): raise SystemExit(advice)
    return path


def ensure_run() -> None:
    "The site shows an executed quickstart: without one, run the miniature."
    notebook = NBS / "runs/quickstart.ipynb"
    if any(map(finished, QUICKSTARTS)) or not notebook.exists(): return
    print("no executed quickstart in outputs/: running the miniature (about a minute)", flush=True)
    command = [sys.executable, "tools/run.py", "nbs/runs/quickstart.ipynb", "outputs/mini/quickstart.ipynb"]
    command += ["-p", "preset", "mini"]
    command += ["-p", "output", "outputs/mini/quickstart/run"]
    command += ["-p", "data", "outputs/mini/quickstart/data"]
    subprocess.run(command, check=True, cwd=ROOT)


def written() -> dict[Path, str]:
    "Files of the project that this script writes from others."
    return {ROOT / "README.md": readme(), NBS / "sidebar.yml": sidebar(list(pages()))}


def build() -> int:
    "Run Sphinx on what `write_source` wrote; gives its exit status. A warning is an error."
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "2"]
    command += ["-b", "html", "-d", str(BUILD / "doctrees"), str(SOURCE), str(BUILD / "html")]
    environment = os.environ | {"JUPYTER_PLATFORM_DIRS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--readme", action="store_true", help="write README.md and nbs/sidebar.yml, and stop")
    args = parser.parse_args()
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
    if args.readme: return 0
    start = time.monotonic()
    ensure_run()
    write_source()
    status = build()
    if status:
        print("the docs have warnings: see above", file=sys.stderr)
        return status
    problems = site_problems(BUILD / "html")
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    shutil.rmtree(SITE, ignore_errors=True)
    (BUILD / "html").rename(SITE)
    n = len(list(SITE.rglob("*.html")))
    print(f"{n} pages in {time.monotonic() - start:.0f} s: {SITE.relative_to(ROOT)}/index.html")
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
