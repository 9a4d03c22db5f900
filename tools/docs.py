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
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

import yaml

from run import ANSI, ROOT

NBS, SITE = ROOT / "nbs", ROOT / "outputs/docs"
BUILD = ROOT / "outputs/.docs"  # what Sphinx reads, and leaves
SOURCE = BUILD / "source"
QUICKSTARTS = [ROOT / "outputs/quickstart/quickstart.ipynb", ROOT / "outputs/mini/quickstart.ipynb"]
REPOSITORY = "https://github.com/hsenet/hsenet/blob/main/"
SECTIONS = {"Start": ["index", "runs/quickstart"], "Guide": ["tutorials/*"], "Ground": ["00_config", "01_files", "02_plots"], "CT": ["ct/*"], "Phantoms": ["phantoms/*"], "Corpora": ["corpora/*"],
            "Cache": ["cache/*"], "Models": ["models/*"], "Metrics": ["metrics/*"], "Training": ["training/*"], "Evaluation": ["evaluation/*"], "Use": ["0[3-9]_*"],
            "Runs": ["runs/preprocess", "runs/pretrain_*", "runs/finetune_*", "runs/evaluate_*", "runs/*"]}


# --- notebooks ------------------------------------------------------------------------------------------------------

def read(path: Path) -> dict:
    "A notebook, with the text of cells and of streams as strings."
    nb = json.loads(Path(path).read_text(encoding="utf-8"))
    for cell in nb["cells"]: cell["source"] = "".join(cell["source"])
    return nb


def directives(source: str) -> tuple[dict[str, str], str]:
    "The `#|` lines of a cell, and the rest of it: `#| echo: false` → {'echo': 'false'}."
    lines = source.splitlines()
    found = [re.match(r"#\|\s*([\w-]+):?\s*(.*)", line) for line in lines]
    return {m[1]: m[2].strip() for m in found if m}, "\n".join(line for line, m in zip(lines, found) if not m).strip("\n")


def only_imports(source: str) -> bool:
    "Nothing but imports, docstrings and a logger."
    try: tree = ast.parse(source).body
    except SyntaxError: return False
    return any(isinstance(x, (ast.Import, ast.ImportFrom)) for x in tree) and all(
        isinstance(x, (ast.Import, ast.ImportFrom)) or ast.unparse(x).startswith("logger = ") for x in tree)


def rich(outputs: list[dict], kind: str) -> list[str]:
    "The outputs of one kind (`text/markdown`), as strings."
    return ["".join(o["data"][kind]) for o in outputs if kind in o.get("data", {})]


def readme(index: Path = NBS / "index.ipynb") -> str:
    "README.md from the front page: its prose, its code, and what its cells printed; links reach into nbs/."
    parts = []
    for cell in read(index)["cells"]:
        marks, source = directives(cell["source"])
        if cell["cell_type"] == "markdown": parts.append(cell["source"])
        elif cell["cell_type"] == "code" and "hide" not in marks:
            if marks.get("echo") != "false": parts.append(f"```python\n{source}\n```")
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
        self.modules, self.places = {}, {}
        for path in sorted(NBS.rglob("*.ipynb")):
            for cell in read(path)["cells"]:
                if module := directives(cell["source"])[0].get("default_exp"): self.modules[module] = str(path.relative_to(NBS).with_suffix(""))
        for module in modules():
            for name in symbols(module): self.places.setdefault(name, []).append(f"{module}.{name}")

    def link(self, name: str, module: str | None) -> str | None:
        "The MyST link for `name` as the page of `module` uses it; None where it is unknown or ambiguous."
        bare = name.removeprefix("hsenet.")
        if bare in self.modules and bare != module: return f"[`{name}`](/{self.modules[bare]}.ipynb)" if "." in bare else None
        places = [p for p in self.places.get(name, []) if p.startswith(f"hsenet.{module}.")] or self.places.get(name, [])
        return f"{{py:obj}}`{name} <{places[0]}>`" if len(places) == 1 and not name.startswith("_") else None

    def linked(self, text: str, module: str | None) -> str:
        "Prose with links on the names it has in backticks; headings and fenced code stay."
        out, fenced = [], False
        for line in text.split("\n"):
            fenced ^= line.lstrip().startswith("```")
            plain = fenced or line.startswith("#") or line.lstrip().startswith("```")
            out.append(line if plain else re.sub(r"(?<![\[`\w}])`([A-Za-z_][\w.]*)`(?![`\]])", lambda m: self.link(m[1], module) or m[0], line))
        return "\n".join(out)


# --- pages ----------------------------------------------------------------------------------------------------------

def page(path: Path, name: str, names: Names, note: str = "") -> dict:
    "A notebook made ready for myst-nb: directives obeyed, names linked, `note` under the title."
    nb, cells = read(path), []
    module = next((m for c in nb["cells"] if (m := directives(c["source"])[0].get("default_exp"))), None)
    for cell in nb["cells"]:
        cell = prose(cell, names, module, (NBS / name).parent) if cell["cell_type"] == "markdown" else code(cell)
        if cell: cells.append(cell)
    pointers = [note] if note else []
    if module: pointers.append(f"*Module* {{doc}}`hsenet.{module} </api/hsenet.{module}>` · *notebook* [`nbs/{name}.ipynb`]({REPOSITORY}nbs/{name}.ipynb)")
    if pointers: cells.insert(1, {"cell_type": "markdown", "metadata": {}, "source": "\n\n".join(pointers)})
    for i, cell in enumerate(cells): cell["id"] = f"cell-{i}"
    language = {"name": "python", "pygments_lexer": "ipython3"}
    return {"cells": cells, "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}, "language_info": language}, "nbformat": 4, "nbformat_minor": 5}


def prose(cell: dict, names: Names, module: str | None, folder: Path) -> dict:
    "A markdown cell of a notebook in `folder`; links to what is no page go to the repository."
    def elsewhere(match):
        target, _, anchor = match[2].partition("#")
        path = (folder / target).resolve()
        page_or_picture = path.is_relative_to(NBS) and path.suffix in (".ipynb", ".svg", ".png")
        return match[0] if page_or_picture or not target else f"{match[1]}({REPOSITORY}{path.relative_to(ROOT)}{'#' * bool(anchor)}{anchor})"
    text = re.sub(r"(\])\((?!https?:|#|mailto:)([^)\s]+)\)", elsewhere, cell["source"])
    return {"cell_type": "markdown", "metadata": {}, "source": names.linked(text, module)}


def code(cell: dict) -> dict | None:
    "A code cell; None where readers needn't see it."
    marks, source = directives(cell["source"])
    if marks.keys() & {"hide", "default_exp"} or not (source or cell["outputs"]): return None
    tags = [t for t in cell["metadata"].get("tags", []) if t == "parameters"]
    if "export" in marks or "exports" in marks: tags.append("exported")
    if "exporti" in marks or only_imports(source): tags.append("hide-input")
    if marks.get("echo") == "false": tags.append("remove-input")
    outputs = [tidy(o) for o in cell["outputs"]] if marks.get("output") != "false" else []
    outputs = once([o for o in outputs if o], "display(" in source)
    return {"cell_type": "code", "metadata": {"tags": tags}, "source": source, "outputs": outputs, "execution_count": None}


def once(outputs: list[dict], displayed: bool) -> list[dict]:
    "Figures that a cell displays are drawn again as it ends: keep the first of both."
    figures = [i for i, o in enumerate(outputs) if "image/png" in o.get("data", {})]
    names = ["".join(outputs[i]["data"].get("text/plain", "")) for i in figures]
    half = len(figures) // 2
    again = figures[half:] if displayed and half and names[:half] == names[half:] else []
    return [o for i, o in enumerate(outputs) if i not in again]


def tidy(output: dict) -> dict | None:
    "An output without terminal colours, progress bars and warnings about progress bars."
    if output["output_type"] == "stream":
        text = ANSI.sub("", "".join(output["text"]))
        lines = [line.split("\r")[-1] for line in text.split("\n")]
        lines = [line for line in lines if not re.search(r"\d+%\||\[\d+:\d+.*/s\]|s/it\]|IProgress not found", line)]
        text = "\n".join(lines).strip("\n")
        return {"output_type": "stream", "name": output["name"], "text": text + "\n"} if text.strip() else None
    return output


def finished(executed: Path) -> bool:
    "There is such a run, it ended, and not with an error."
    papermill = read(executed)["metadata"].get("papermill", {}) if executed.is_file() else {}
    return bool(papermill.get("end_time")) and not papermill.get("exception")


def facts(executed: Path, source: Path) -> str:
    "A note on the run that an executed notebook is from."
    nb = read(executed)
    papermill = nb["metadata"].get("papermill", {})
    given = papermill.get("parameters", {})
    preset = given.get("preset", "the default")
    when, seconds = str(papermill.get("start_time"))[:10], papermill.get("duration") or 0
    text = f"This page shows a run of {when}: preset `{preset}`, seed {given.get('seed', 42)}, {seconds / 60:.1f} minutes, from `{executed.parent.relative_to(ROOT)}/`."
    if preset == "mini": text += " The preset `mini` only shows that everything runs: its models have learnt nothing. `make quickstart`, then `make docs`, shows a real one."
    now, then = ([c["source"] for c in read(p)["cells"] if c["cell_type"] == "code" and "injected-parameters" not in c["metadata"].get("tags", [])] for p in (source, executed))
    if now != then: text += " The notebook has changed since."
    return f"```{{note}}\n{text}\n```"


def pages() -> dict[str, tuple[Path, str]]:
    "Page name → notebook to show, and a note on it. Run notebooks are shown as executed, where they have been."
    out = {}
    for path in sorted(NBS.rglob("*.ipynb")):
        parts = path.relative_to(NBS).with_suffix("").parts
        if any(p.startswith(("_", ".")) for p in parts): continue
        done = [p for p in (QUICKSTARTS if parts[-1] == "quickstart" else [ROOT / f"outputs/mini/{parts[-1]}.ipynb"]) if finished(p)] if parts[0] == "runs" else []
        out["/".join(parts)] = (done[0], facts(done[0], path)) if done else (path, "")
    return out


# --- the API --------------------------------------------------------------------------------------------------------

def members(module: str) -> list[tuple[str, str]]:
    "Exported (kind, name) pairs of a module, in the order of its source."
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")).body
    exported = next((ast.literal_eval(x.value) for x in tree if isinstance(x, ast.Assign) and getattr(x.targets[0], "id", "") == "__all__"), [])
    kinds = {ast.FunctionDef: "function", ast.ClassDef: "class", ast.Assign: "data", ast.AnnAssign: "data"}
    out = []
    for x in tree:
        if type(x) not in kinds: continue
        targets = [x.name] if hasattr(x, "name") else [getattr(t, "id", None) for t in getattr(x, "targets", [getattr(x, "target", None)])]
        out += [(kinds[type(x)], t) for t in targets if t in exported and t != "logger" and (kinds[type(x)], t) not in out]
    return out


def symbols(module: str) -> list[str]:
    "Exported names of a module, and `Class.method` of its classes."
    exported = [name for _, name in members(module)]
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")).body
    classes = [x for x in tree if isinstance(x, ast.ClassDef) and x.name in exported]
    return exported + [f"{c.name}.{m.name}" for c in classes for m in c.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]


def api_page(module: str, notebook: str | None) -> str:
    "The reference page of a module."
    kinds = {"class": "autoclass", "function": "autofunction", "data": "autodata"}
    options = {"class": "   :members:\n   :undoc-members:\n   :show-inheritance:\n", "data": "   :no-value:\n"}
    lines = [f"# {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :no-members:", "```", ""]
    if notebook: lines += [f"Explained, shown and tested in [{notebook}](/{notebook}.ipynb).", ""]
    for kind, name in members(module): lines += ["```{eval-rst}", f".. {kinds[kind]}:: {module}.{name}", options.get(kind, ""), "```", ""]
    return "\n".join(lines)


def command_page(module: str, notebook: str) -> str:
    "The reference page of the command line: each command with its arguments and options."
    from importlib import import_module

    from typer.main import get_command

    def walk(command, name):
        if sub := getattr(command, "commands", None): return [part for key, c in sub.items() for part in walk(c, f"{name} {key}")]
        rows = [f"| `{'` `'.join(p.opts)}` | {p.help or ''} | {shown(p)} |" for p in command.params]
        return [f"## {name}", command.help or "", "| argument | what it is | default |\n|---|---|---|\n" + "\n".join(rows)]

    def shown(p): return "required" if p.required else f"`{p.default}`" if p.default not in (None, [], ()) else ""
    lines = [f"# {module}", f"Explained, shown and tested in [{notebook}](/{notebook}.ipynb). Every command takes `--help`."]
    return "\n\n".join([*lines, *walk(get_command(import_module(module).app), "hsenet")]) + "\n"


def modules() -> list[str]:
    "Every module of the package."
    found = (p.relative_to(ROOT).with_suffix("") for p in sorted((ROOT / "hsenet").rglob("*.py")) if not p.name.startswith("_"))
    return [".".join(p.parts) for p in found]


# --- the site -------------------------------------------------------------------------------------------------------

def sections(known: list[str]) -> dict[str, list[str]]:
    "Caption → pages, in the order of `SECTIONS`. Stops where a page fits nowhere."
    left, out = list(known), {}
    for caption, patterns in SECTIONS.items():
        out[caption] = [k for pattern in patterns for k in left if fnmatch(k, pattern)]
        left = [k for k in left if k not in out[caption]]
    if left: raise SystemExit(f"no section of the docs takes {', '.join(left)}; add it to SECTIONS in tools/docs.py")
    return {caption: list(dict.fromkeys(chosen)) for caption, chosen in out.items() if chosen}


def sidebar(known: list[str]) -> str:
    "nbs/sidebar.yml, for `nbdev_docs` where there is Quarto."
    contents = [{"section": caption, "contents": [f"{c}.ipynb" for c in chosen]} for caption, chosen in sections(known).items()]
    return yaml.safe_dump({"website": {"sidebar": {"contents": contents}}}, sort_keys=False)


def toctrees(known: list[str], apis: list[str]) -> str:
    "Hidden tables of contents, which make the site's own sidebar."
    trees = sections(known) | {"API": [f"api/{a}" for a in apis]}
    tree = lambda caption, chosen: "```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(f"/{c}" for c in chosen if c != "index") + "\n```\n"
    return "\n".join(tree(*item) for item in trees.items())


def write_source() -> None:
    "All that Sphinx reads."
    shutil.rmtree(BUILD, ignore_errors=True)
    (SOURCE / "api").mkdir(parents=True)
    (SOURCE / "_static").mkdir()
    names, known, apis = Names(), pages(), modules()
    by_module = {f"hsenet.{m}": nb for m, nb in names.modules.items()}
    for name, (path, note) in known.items():
        nb = page(path, name, names, note)
        if name == "index": nb["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": toctrees(list(known), apis)})
        (SOURCE / f"{name}.ipynb").parent.mkdir(exist_ok=True)
        (SOURCE / f"{name}.ipynb").write_text(json.dumps(nb), encoding="utf-8")
    for module in apis: (SOURCE / f"api/{module}.md").write_text(command_page(module, by_module[module]) if module == "hsenet.cli" else api_page(module, by_module.get(module)), encoding="utf-8")
    for picture in [*NBS.rglob("*.svg"), *NBS.rglob("*.png")]: _copy(picture, SOURCE / picture.relative_to(NBS))
    for file in ("conf.py", "custom.css"): _copy(ROOT / "tools/docs" / file, SOURCE / ("_static" if file.endswith("css") else "") / file)
    _copy(mathjax(), SOURCE / "_static/mathjax/tex-svg.js")


def _copy(source: Path, target: Path):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def mathjax() -> Path:
    "MathJax 3 in one file, from a Python package, so that the site needs neither npm nor the internet."
    try: path = Path(str(files("mathjax") / "static/mathjax/es5/tex-svg.js"))
    except ModuleNotFoundError: path = None
    if path is None or not path.is_file(): raise SystemExit("no MathJax: expected the package django-static-mathjax; pip install -e '.[dev]'")
    return path


def ensure_run() -> None:
    "The site shows an executed quickstart: without one, run the miniature."
    if any(map(finished, QUICKSTARTS)) or not (NBS / "runs/quickstart.ipynb").exists(): return
    print("no executed quickstart in outputs/: running the miniature (about a minute)", flush=True)
    given = ["-p", "preset", "mini", "-p", "output", "outputs/mini/quickstart/run", "-p", "data", "outputs/mini/quickstart/data"]
    subprocess.run([sys.executable, "tools/run.py", "nbs/runs/quickstart.ipynb", "outputs/mini/quickstart.ipynb", *given], check=True, cwd=ROOT)


def written() -> dict[Path, str]:
    "Files of the project that this script writes from others."
    return {ROOT / "README.md": readme(), NBS / "sidebar.yml": sidebar(list(pages()))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--readme", action="store_true", help="write README.md and nbs/sidebar.yml, and stop")
    args = parser.parse_args()
    for path, text in written().items(): path.write_text(text, encoding="utf-8")
    if args.readme: return 0
    start = time.monotonic()
    ensure_run()
    write_source()
    environment = os.environ | {"JUPYTER_PLATFORM_DIRS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "2", "-b", "html", "-d", str(BUILD / "doctrees"), str(SOURCE), str(BUILD / "html")]
    status = subprocess.run(command, cwd=ROOT, env=environment).returncode
    if status:
        print("the docs have warnings: see above", file=sys.stderr)
        return status
    shutil.rmtree(SITE, ignore_errors=True)
    (BUILD / "html").rename(SITE)
    print(f"{len(list(SITE.rglob('*.html')))} pages in {time.monotonic() - start:.0f} s: {SITE.relative_to(ROOT)}/index.html")
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
