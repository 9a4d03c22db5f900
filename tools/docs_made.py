"""Pages of the docs that are no notebooks: the rooms of the house, the list of modules, changelog, citation, contributing."""
import json
import re
from pathlib import Path

import yaml

from run import ROOT

NBS = ROOT / "nbs"
MADE = ["house/index", "api/index", "api/hsenet.cli", "changelog", "contributing", "citation", "reference/gpu"]  # that SECTIONS can list
GPU = """# On a GPU

What `make bench-gpu` measures: training steps, generation, the loader, 2D features and the preset `gpu`, on one machine in at most 8 minutes, each beside a
plain way in the same run (MONAI's blocks with explicit attention; texts padded to 800 with logits everywhere; generation without a cache). "H200 before" is the
same on one NVIDIA H200 on 2026-11-26, at commit ce43c7b; "wanted" is what is demanded since. How to run it on a machine without a registry stands at the
top of `tools/bench_gpu.py`.
"""
NO_GPU = """```{important}
**It has not been run on a GPU.** No machine with one was to be had since the rows were last measured (2026-11-26), so whether what is wanted is reached isn't
known. On a CPU its rows run in reduced size as part of `make test`, which shows that they run and nothing about speed.
```
"""
REDUCED = """```{important}
**These figures are of a CPU, in reduced sizes**: they show that every row runs, and nothing about speed.
```
"""
HOUSE = """# The house: every part in a notebook

The package is written as notebooks. Each is the source of one module of the same name: it opens with what its part is for, and alternates
prose, a short piece of the module, a look at it working, and a test. They stand in rooms, one above the other: a room looks into those before
it, and never the other way (`make test` reads the imports). Data walks down this list once.
"""
API = """# API

Every module of the package, in the order in which a CT walks through them. A module's page lists what it defines; its notebook explains it, shows
it working and tests it. The command line has [a page of its own](/api/hsenet.cli.md).
"""


def heading(path: Path) -> tuple[str, str]:
    "Title of a notebook, and the sentence under it that says what it is for ('' where there is none)."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells[:3] if cell["cell_type"] == "markdown")
    title = re.search(r"^# (.+)$", text, re.M)
    purpose = re.search(r"^> (.+)$", text, re.M)
    return title[1] if title else path.stem, purpose[1] if purpose else ""


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(head: list[str], rows: list[list[str]]) -> str:
    "A Markdown table."
    return "\n".join([row(*head), row(*["---"] * len(head)), *(row(*cells) for cells in rows)])


def toctree(pages: list[str], caption: str = "", titles: dict[str, str] | None = None) -> str:
    "A table of contents that isn't shown in the page, only in the sidebar; `titles` stand for a page's own."
    options = [":hidden:"] + ([f":caption: {caption}"] if caption else [])
    lines = []
    for name in pages:
        title = (titles or {}).get(name)
        lines.append(f"{title} </{name}>" if title else f"/{name}")
    return "\n".join(["```{toctree}", *options, "", *lines, "```", ""])


def house(rooms: dict[str, tuple[str, list[str]]]) -> dict[str, str]:
    "The page of all rooms and a page per room, of room → (what it holds, names of its notebooks)."
    overview = [[f"[{room}](/house/{room}.md)", holds, str(len(names))] for room, (holds, names) in rooms.items()]
    listed = table(["room", "holds", "notebooks"], overview)
    pages = {"house/index": "\n\n".join([HOUSE, listed, toctree([f"house/{room}" for room in rooms])])}
    for room, (holds, names) in rooms.items():
        rows = []
        for name in names:
            title, purpose = heading(NBS / f"{name}.ipynb")
            rows.append([f"[{title}](/{name}.ipynb)", purpose])
        parts = [f"# {room}", f"{holds[0].upper()}{holds[1:]}.", table(["notebook", "what it is for"], rows), toctree(names)]
        pages[f"house/{room}"] = "\n\n".join(parts)
    return pages


def api(modules: list[str], notebooks: dict[str, str]) -> str:
    "The list of all modules, of module → its notebook (both by name, the package's name left out)."
    folders: dict[str, list[str]] = {}
    for module in modules:
        parts = module.split(".")
        folders.setdefault(parts[1] if len(parts) > 2 else "ground and top", []).append(module)
    parts = [API]
    for folder, members in folders.items():
        rows = []
        for module in members:
            notebook = notebooks.get(module.removeprefix("hsenet."))
            purpose = heading(NBS / f"{notebook}.ipynb")[1] if notebook else ""
            rows.append([f"[{module}](/api/{module}.md)", purpose])
        parts += [f"## {folder}", table(["module", "what it is for"], rows)]
    parts.append(toctree([f"api/{module}" for module in modules if module != "hsenet.cli"]))
    return "\n\n".join(parts)


def gpu(path: Path = NBS / "results/gpu.json") -> str:
    "The page of `make bench-gpu`: the table of its record, or that there is none."
    from bench_gpu import table as measured
    from benching.goals import BEFORE, WANTED
    if path.is_file():
        facts = json.loads(path.read_text(encoding="utf-8"))
        return "\n\n".join([GPU, *([REDUCED] if facts["small"] else []), measured(facts)])
    rows = [[name, BEFORE.get(name, ""), "not run", WANTED.get(name, "")] for name in dict.fromkeys([*BEFORE, *WANTED])]
    return "\n\n".join([GPU, NO_GPU, table(["row", "H200 before", "now", "wanted"], rows)])


def document(name: str) -> str:
    "A page of the project's own, as it stands there: CHANGELOG.md, CONTRIBUTING.md."
    return (ROOT / name).read_text(encoding="utf-8")


def citation() -> str:
    "How to cite, from CITATION.cff."
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = cff["preferred-citation"]
    people = [f"{person['family-names']}, {person['given-names']}" for person in paper["authors"]]
    entry = "\n".join([
        "@article{shi2025hsenet,",
        f"  title   = {{{paper['title']}}},",
        f"  author  = {{{' and '.join(people)}}},",
        f"  journal = {{{paper['journal']}}},",
        f"  year    = {{{paper['year']}}}",
        "}",
    ])
    software = "\n".join([
        "@software{hsenet,",
        f"  title   = {{{cff['title']}}},",
        f"  author  = {{{{{cff['authors'][0]['name']}}}}},",
        f"  version = {{{cff['version']}}},",
        f"  url     = {{{cff['repository-code']}}}",
        "}",
    ])
    return "\n\n".join([
        "# Citation",
        cff["message"] + " Both are in `CITATION.cff`, which GitHub and reference managers read.",
        "The method:", f"```bibtex\n{entry}\n```",
        "This software, which its authors didn't write:", f"```bibtex\n{software}\n```",
        f"Licence: {cff['license']}. No code of the authors' release is used.",
    ]) + "\n"
