"""A Python that has already imported what the package needs: a test forked from it starts at once.

`multiprocessing`'s fork server imports this module once; half of what a notebook's test took was these imports."""
import ast
import importlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "hsenet"


def libraries(source: str) -> set[tuple[str, str | None]]:
    "What a module imports from outside the package, also inside functions: (module, name or None)."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {(node.module, alias.name) for alias in node.names}
    return found


def import_library(module: str, name: str | None) -> None:
    "Import it, if it is installed: extras may be missing."
    try:
        loaded = importlib.import_module(module)
        if name: getattr(loaded, name, None)  # some libraries import a part when it is first asked for
    except ImportError:
        pass


def import_libraries() -> None:
    "Every library that a module of the package names."
    wanted = {("nbdev.test", None), ("nbdev.config", None), ("matplotlib.pyplot", None)}
    for path in PACKAGE.rglob("*.py"):
        wanted |= libraries(path.read_text(encoding="utf-8"))
    for module, name in sorted(wanted, key=str):
        if module.split(".")[0] != "hsenet": import_library(module, name)


import_libraries()
