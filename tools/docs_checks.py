"""What the docs must not hold: commands that don't exist, paths of the machine they were made on, links that lead nowhere.

    python tools/docs_checks.py            commands and paths in the notebooks and the project's own pages
    python tools/docs_checks.py FOLDER     links and paths of a built site
    python tools/docs_checks.py --tidy     take names of temporary folders out of stored outputs
"""
import argparse
import html
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from run import ROOT, declared

NBS = ROOT / "nbs"
OWN_PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
SHELL = re.compile(r"^ *```(?:sh|bash|console|shell)\n(.*?)^ *```", re.M | re.S)
FENCED = re.compile(r"^ *```.*?^ *```", re.M | re.S)
INLINE = re.compile(r"(?<!`)`((?:hsenet|make) [^`\n]+)`(?!`)")
TEMPORARY = re.compile(r"/tmp/tmp\w{8}\b")  # as `tempfile.mkdtemp` names them
MACHINE = re.compile(r"(?<![\w.:/…])/(?:(?:home|root|Users|work|workspace|scratch|var/folders)/|tmp/tmp)[\w.][\w./-]*")
UNKNOWN = "…"  # stands for what a reader has to fill in


# --- commands -------------------------------------------------------------------------------------------------------

def pages() -> Iterator[tuple[str, str]]:
    "(name, Markdown) of every page: the prose of each notebook, and the project's own documents."
    for path in sorted(NBS.rglob("*.ipynb")):
        if any(part.startswith((".", "_")) for part in path.relative_to(NBS).parts): continue
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        yield str(path.relative_to(ROOT)), "\n\n".join(prose)
    for name in OWN_PAGES:
        yield name, (ROOT / name).read_text(encoding="utf-8")


def commands(text: str) -> Iterator[tuple[list[str], bool]]:
    "(words, whole?) of each command: whole ones of shell blocks, and those named in a sentence."
    for block in SHELL.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _of_line(line)
    for span in INLINE.findall(FENCED.sub("", text)):
        yield _words(span), False


def _of_line(line: str) -> Iterator[tuple[list[str], bool]]:
    "The commands of a line of shell, from `hsenet`, `make`, `papermill` or `python` on."
    words = _words(line.strip().removeprefix("$ "))
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in (";", "&&", "||", "|", "&", "(", ")"):
            command.append(word)
            continue
        names = [Path(each).name for each in command]
        starts = [i for i, name in enumerate(names) if name in ("hsenet", "make", "papermill", "python")]
        if starts and names[0] not in ("cd", "git", "pip"): yield [names[starts[0]], *command[starts[0] + 1 :]], True
        command = []


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
    lexer.whitespace_split, lexer.commenters = True, "#"
    return list(lexer)


def problem(words: list[str], whole: bool = True) -> str | None:
    "What is wrong with a command; None where nothing is."
    try:
        if words[0] == "hsenet": return _hsenet_problem(words[1:], whole)
        if words[0] == "make": return _make_problem(words[1:])
        return _notebook_problem(words)
    except ValueError as error:
        return str(error)


@cache
def _cli():
    from typer.main import get_command

    from hsenet.cli import app
    return get_command(app)


def _hsenet_problem(words: list[str], whole: bool) -> str | None:
    command, path = _cli(), "hsenet"
    words = [word for word in words if word not in ("-q", "--quiet", "--debug")]
    while hasattr(command, "commands"):
        if not words: return f"{path} needs a command" if whole else None
        if words[0].startswith("-"): return _group_option(command, path, words[0])
        if words[0] == UNKNOWN: return _somewhere(command, path, words[1:])
        name, *words = words
        if name not in command.commands: return f"{path} has no command {name}"
        command, path = command.commands[name], f"{path} {name}"
    return _options_problem(command, path, words, whole)


def _group_option(command, path: str, option: str) -> str | None:
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    return None if option in known else f"{path} has no option {option}"


def _somewhere(command, path: str, words: list[str]) -> str | None:
    "Of `hsenet evaluate … --every-reconstruction`: is there such an option in a command below?"
    known = {name for each in command.commands.values() for parameter in each.params for name in parameter.opts}
    wrong = [word for word in words if word.startswith("-") and word not in known]
    return f"no command of {path} has the option {wrong[0]}" if wrong else None


def _options_problem(command, path: str, words: list[str], whole: bool) -> str | None:
    context = command.make_context(path, [], resilient_parsing=True)  # without looking at values
    context.resilient_parsing = False
    if not whole: words = [word for word in words if word != UNKNOWN]
    if path == "hsenet run": return _run_problem(words)
    try:
        given, rest, _ = command.make_parser(context).parse_args(list(words))
    except Exception as error:  # of typer's own copy of click, or of click itself
        kind = type(error).__name__
        if kind == "BadOptionUsage" and not whole: return None  # an option named without its value
        if kind not in ("BadOptionUsage", "NoSuchOption", "BadArgumentUsage"): raise
        return f"{path}: {error.format_message()}"
    if rest: return f"{path} takes no {rest[0]}"
    if "--help" in words: return None
    for parameter in command.params:
        value = given.get(parameter.name)
        missing = value is None or value == () or (isinstance(value, tuple) and None in value)
        if whole and parameter.required and missing: return f"{path} needs {parameter.name}"
    return _preset_problem(given)


def _run_problem(words: list[str]) -> str | None:
    "Of `hsenet run`: the notebook is there, and has the parameters."
    from hsenet.commands.run import in_pairs
    if not words or words[0].isupper(): return None
    notebook = NBS / f"runs/{words[0]}.ipynb"
    if not notebook.is_file(): return f"there is no nbs/runs/{words[0]}.ipynb"
    paired = in_pairs(words)
    names = [paired[i + 1].partition("=")[0] for i, word in enumerate(paired[:-1]) if word in ("-p", "--parameter")]
    return _unknown_parameters(notebook, names)


def _unknown_parameters(notebook: Path, names: list[str]) -> str | None:
    unknown = set(names) - declared(notebook).keys()
    return f"{notebook.name} has no parameter {', '.join(sorted(unknown))}" if unknown else None


def _preset_problem(given: dict) -> str | None:
    "Presets and settings that a command names are there."
    from hsenet.config import ConfigError
    from hsenet.options import chosen_config
    named = given.get("preset") or "tiny"
    if UNKNOWN in named or named.isupper(): return None
    if named.endswith((".yaml", ".yml")): named = "tiny"
    settings = [setting for setting in given.get("settings") or [] if UNKNOWN not in setting]
    try:
        chosen_config(named, None, settings)
    except ConfigError as error:
        return str(error)
    return None


def _make_problem(words: list[str]) -> str | None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, re.M))
    variables = set(re.findall(r"^([A-Z]+) \?=", text, re.M))
    for word in words:
        name, equals, _ = word.partition("=")
        if word == UNKNOWN: continue
        if equals and name not in variables: return f"the Makefile has no setting {name}"
        if not equals and name not in targets: return f"the Makefile has no target {name}"
    return None


def _notebook_problem(words: list[str]) -> str | None:
    "Of papermill, `python tools/run.py` and other scripts: the file is there, and a run notebook has the parameters."
    files = [word for word in words[1:] if word.startswith(("nbs/", "tools/"))]
    for name in files:
        if not (ROOT / name).is_file(): return f"there is no {name}"
    notebooks = [ROOT / name for name in files if name.endswith(".ipynb")]
    given = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "-p"]
    return _unknown_parameters(notebooks[0], given) if notebooks and given else None


def wrong_commands() -> list[str]:
    "Every command of a page that the command line, the Makefile or a notebook doesn't know."
    out = []
    for name, text in pages():
        for words, whole in commands(text):
            found = problem(words, whole)
            if found: out.append(f"{name}: `{' '.join(words)}`: {found}")
    return out


# --- paths of a machine ---------------------------------------------------------------------------------------------

def machine_paths(text: str) -> list[str]:
    "Absolute paths that only the machine which made the text has."
    found = MACHINE.findall(text)
    return found + [str(ROOT)] * (str(ROOT) in text)


def paths_in_notebooks() -> list[str]:
    "Paths of a machine in the text of cells and of stored outputs."
    out = []
    for path in sorted(NBS.rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            texts = ["".join(cell["source"]), *(text for _, _, text in _texts(cell))]
            found = machine_paths("\n".join(texts))
            if found: out.append(f"{path.relative_to(ROOT)}: {found[0]} (`make clean-notebooks` takes temporary ones out)")
    return out


def _texts(cell: dict) -> Iterator[tuple[dict, str, str]]:
    "(where it is kept, under which name, text) of the outputs of a cell, pictures aside."
    for output in cell.get("outputs", []):
        for key in ("text", "traceback"):
            if key in output: yield output, key, "".join(output[key])
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/"): yield output["data"], kind, "".join(data)


def tidy_outputs(path: Path) -> bool:
    "Put `…` for temporary folders in the stored outputs of a notebook; was there any?"
    nb = json.loads(path.read_text(encoding="utf-8"))
    changed = False
    for cell in nb["cells"]:
        for where, key, text in _texts(cell):
            if not TEMPORARY.search(text): continue
            where[key] = TEMPORARY.sub(UNKNOWN, text).splitlines(keepends=True)
            changed = True
    if changed:
        path.write_text(json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return changed


# --- a built site ---------------------------------------------------------------------------------------------------

def site_problems(site: Path) -> list[str]:
    "Links to files or places that aren't in the site, and paths of a machine."
    out = []
    files = {os.path.normpath(path) for path in site.rglob("*") if path.is_file()}
    texts = {path: Path(path).read_text(encoding="utf-8") for path in sorted(files) if path.endswith(".html")}
    anchors = {path: set(re.findall(r'\b(?:id|name)="([^"]+)"', text)) for path, text in texts.items()}
    for path, text in texts.items():
        name = os.path.relpath(path, site)
        out += [f"{name}: {found}" for found in sorted(set(machine_paths(re.sub(r"<[^>]+>", " ", text))))]
        for link in sorted(set(re.findall(r'\b(?:href|src|srcset)="([^"]+)"', text))):
            if not _leads_somewhere(html.unescape(link), path, files, anchors): out.append(f"{name}: {link} leads nowhere")
    return out


def _leads_somewhere(link: str, page: str, files: set[str], anchors: dict[str, set[str]]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or link in ("#", ""): return True
    target = os.path.normpath(os.path.join(os.path.dirname(page), unquote(parts.path))) if parts.path else page
    if target not in files: return False
    if not parts.fragment or target not in anchors: return True
    return unquote(parts.fragment) in anchors[target]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("site", type=Path, nargs="?", help="a built site; else the notebooks are read")
    parser.add_argument("--tidy", action="store_true", help="take names of temporary folders out of stored outputs")
    args = parser.parse_args()
    if args.tidy:
        changed = [path for path in sorted(NBS.rglob("*.ipynb")) if tidy_outputs(path)]
        print(f"tidied {len(changed)} notebooks")
        return 0
    found = site_problems(args.site.resolve()) if args.site else wrong_commands() + paths_in_notebooks()
    for line in found:
        print(line)
    return bool(found)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
