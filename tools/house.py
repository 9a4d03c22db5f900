"""The house: which room may look into which, whether its lines can be read once, and in which order its notebooks are read.

    python tools/house.py      the rooms floor by floor, and what breaks a rule
"""
import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from run import ROOT

PACKAGE = ROOT / "hsenet"
NBS = ROOT / "nbs"
FLOORS = [  # a floor may import what is below it, and its own rooms
    ("messages", "links", "disk", "files", "inventory", "ranges", "config", "plots", "viewer", "live", "places", "processes", "progress"),
    ("ct",),
    ("corpora",),
    ("phantoms",),
    ("cache",),
    ("models",),
    ("metrics",),
    ("training",),
    ("evaluation",),
    ("use",),
    ("inference", "options"),
    ("demo",),
    ("commands",),
    ("cli",),
]
GROUND = FLOORS[0]
APART = {  # floors that stand on the ground alone, and the rooms between that they may use all the same
    "models": {"cache.text"},
    "metrics": set(),
}
NO_FIGURES = ("ct", "corpora", "phantoms", "cache", "models", "metrics")  # these never import `plots`
MODULE_LINES = 500
FUNCTION_LINES = 60
LINE_WIDTH = 110


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    "Name below the package (`ct.volume`) → file."
    found = {}
    for path in sorted(package.rglob("*.py")):
        if path.name.startswith("_"): continue
        found[".".join(path.relative_to(package).with_suffix("").parts)] = path
    return found


def imported(name: str, source: str, known: set[str]) -> set[str]:
    "The modules of the package that a module imports, at its top or inside functions."
    out = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(name, node.module or "", node.level)
            targets = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        out |= {t.removeprefix("hsenet.") for t in targets if t.startswith("hsenet.")} & known
    return out - {name}


def _absolute(name: str, module: str, level: int) -> str:
    "`from ..ct import read` in `cache.slices` → `hsenet.ct`."
    if level == 0:
        return module
    parents = ["hsenet", *name.split(".")][:-level]
    return ".".join([*parents, module] if module else parents)


def graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    "Module → the modules that it imports."
    files = modules(package)
    return {name: imported(name, path.read_text(encoding="utf-8"), set(files)) for name, path in files.items()}


def floor_of(name: str) -> int:
    "The floor of a module, 0 at the bottom. Raises `ValueError` for a room that no floor has."
    room = name.split(".")[0]
    for number, rooms in enumerate(FLOORS):
        if room in rooms: return number
    raise ValueError(f"{name}: no floor has the room {room}; add it to FLOORS in tools/house.py")


def broken_floors(arrows: dict[str, set[str]]) -> list[str]:
    "Every import that runs upwards, out of a floor that stands apart, or to figures; every circle."
    out = []
    for name, targets in arrows.items():
        room = name.split(".")[0]
        for target in sorted(targets):
            other = target.split(".")[0]
            if floor_of(target) > floor_of(name):
                out.append(f"{name} imports {target}, which is above it")
            elif room in APART and other not in (room, *GROUND) and target not in APART[room]:
                out.append(f"{name} imports {target}, but {room} stands on the ground alone")
            if room in NO_FIGURES and target == "plots":
                out.append(f"{name} imports plots, but {room} draws no figures")
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as e:
        out.append("a circle: " + " → ".join(e.args[1]))
    return out


def hard_lines(name: str, source: str) -> list[str]:
    "What makes a module hard to read: its length, its longest functions, lines that are too wide."
    out = []
    lines = source.splitlines()
    if len(lines) > MODULE_LINES:
        out.append(f"{name} has {len(lines)} lines; {MODULE_LINES} are allowed")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                out.append(f"{name}.{node.name} has {length} lines; {FUNCTION_LINES} are allowed")
    written_by_nbdev = ()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            written_by_nbdev = range(node.lineno, node.end_lineno + 1)
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_WIDTH and number not in written_by_nbdev:
            out.append(f"{name}, line {number} has {len(line)} characters; {LINE_WIDTH} are allowed")
    return out


def _words(tree: ast.AST | None) -> set[str]:
    "The words in quotes of an expression: names in an annotation, or in `__all__`."
    words = set()
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Constant): words |= set(re.findall(r"\w+", str(node.value)))
    return words


def unused_imports(source: str) -> list[str]:
    "Names that are imported and never used; sorted."
    tree = ast.parse(source)
    bound = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            used |= _words(annotation)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("__all__", "_all_"):
            used |= _words(node.value)  # handed on to whoever imports this module
    return sorted(bound - used)


def broken_lines(package: Path = PACKAGE) -> list[str]:
    "`hard_lines` of every module."
    out = []
    for name, path in modules(package).items():
        out += hard_lines(name, path.read_text(encoding="utf-8"))
    return out


def module_of(notebook: str) -> str:
    "The module that a notebook makes, if it makes one: `ct/09_dicom` → `ct.dicom`."
    return re.sub(r"(^|/)\d+_", r"\1", notebook).replace("/", ".")


def broken_numbers(notebooks: list[str], arrows: dict[str, set[str]]) -> list[str]:
    "Numbers that two notebooks of a folder (`ct/09_dicom`) share, and notebooks that stand before one whose module they import."
    out = []
    numbered = {}
    for notebook in sorted(notebooks):
        number = re.match(r"(?:.*/)?\d+_", notebook)
        if number: numbered.setdefault(number[0], []).append(notebook)
    for same in numbered.values():
        if len(same) > 1: out.append(f"{' and '.join(same)} share a number")
    places = {module_of(notebook): notebook for notebook in notebooks}
    for name, targets in arrows.items():
        if name not in places: continue
        here = Path(places[name])
        for target in sorted(targets & set(places)):
            there = Path(places[target])
            if there.parent == here.parent and there.name > here.name:
                out.append(f"{here} imports what {there} makes, and stands before it")
    return out


def notebooks(nbs: Path = NBS) -> list[str]:
    "The notebooks below a folder, as `ct/09_dicom`."
    return [path.relative_to(nbs).with_suffix("").as_posix() for path in nbs.rglob("*.ipynb")]


def main() -> int:
    arrows = graph()
    for rooms in FLOORS:
        for name in arrows:
            if name.split(".")[0] in rooms:
                print(f"{name:25s} ← {', '.join(sorted(arrows[name]))}")
        print()
    wrong = broken_floors(arrows) + broken_lines() + broken_numbers(notebooks(), arrows)
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
