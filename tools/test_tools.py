"""Tests of the tools. Each runs in a process of its own: python tools/test_tools.py test_name"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from run import ROOT, ParameterError, check_parameters, declared, number

TEMPORARY = Path(tempfile.mkdtemp())


def notebook(*cells: tuple[str, str], name: str = "nb.ipynb") -> Path:
    "A notebook file of (kind, source) cells; the kind `parameters` is a code cell with that tag."
    make = lambda kind, source: {"cell_type": "markdown" if kind == "markdown" else "code", "source": source, "id": str(abs(hash(source)))[:8],
                                 "metadata": {"tags": ["parameters"]} if kind == "parameters" else {}} | ({} if kind == "markdown" else {"outputs": [], "execution_count": None})
    path = TEMPORARY / name
    path.write_text(json.dumps({"cells": [make(*c) for c in cells], "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def start(*arguments, **kwargs) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "tools/run.py", *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)


def test_misspelt_parameter_is_an_error():
    path = notebook(("parameters", "preset = 'tiny'\nlr = 1e-3"))
    check_parameters(path, {"lr": 1})
    try: check_parameters(path, {"lrr": 1})
    except ParameterError as e: assert "unknown parameter lrr; it has preset, lr" in str(e), e
    else: raise AssertionError("lrr was accepted")
    process = start(path, TEMPORARY / "out.ipynb", "-p", "presset", "mini")
    said = process.communicate()[0]
    assert process.returncode == 1 and "unknown parameter presset" in said, said


def test_values_of_parameters():
    assert [number(x) for x in ("1e-4", "3", "true", "tiny", "{stage1.epochs: 2}")] == [1e-4, 3, True, "tiny", {"stage1.epochs": 2}]


def test_run_notebooks_declare_parameters():
    paths = sorted((ROOT / "nbs/runs").glob("*.ipynb"))
    assert paths, "no run notebooks"
    for path in paths:
        nb = json.loads(path.read_text())
        assert {"output", "cache"} & declared(path).keys(), f"{path.name} declares {list(declared(path))}"
        tagged = [c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1 and "".join(nb["cells"][0]["source"]).startswith("# "), f"{path.name}: a title and one cell tagged parameters"


def test_stored_outputs_are_small():
    pictures, total = {}, 0
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts): continue
        outputs = [o for c in json.loads(path.read_text())["cells"] for o in c.get("outputs", [])]
        assert not (path.parent.name == "runs" and outputs), f"{path.name}: a run notebook is kept without outputs; clear them"
        pictures |= {f"{path.name} #{i}": len("".join(o["data"]["image/png"])) * 3 // 4 for i, o in enumerate(outputs) if "image/png" in o.get("data", {})}
        total += path.stat().st_size
    assert pictures, "no pictures in the notebooks"
    large = {k: v for k, v in pictures.items() if v >= 200_000}
    assert not large, f"pictures of 200 kB or more: {large}"
    assert total < 10_000_000, f"the notebooks take {total / 1e6:.1f} MB; 10 are allowed"


def test_missing_input_is_named():
    process = start("nbs/runs/pretrain_stage1.ipynb", TEMPORARY / "out.ipynb", "-p", "preset", "mini", "-p", "cache", TEMPORARY / "nothing", "-p", "output", TEMPORARY / "stage1")
    said = process.communicate()[0]
    assert process.returncode == 1 and "FAILED in cell" in said and f"{TEMPORARY}/nothing" in said.split("Error")[-1], said


def test_failing_cell_is_reported():
    path = notebook(("parameters", "x = 1"), ("code", "print('before')"), ("code", "raise ValueError('the reason')"), ("code", "print('after')"))
    process = start(path, TEMPORARY / "out.ipynb", "-p", "x", "2")
    said = process.communicate()[0]
    assert process.returncode == 1, process.returncode
    assert "FAILED in cell" in said and "ValueError: the reason" in said and "as far as it went" in said, said
    assert "before" in (TEMPORARY / "out.ipynb").read_text()


def test_sigterm_leaves_no_process_behind():
    mark = TEMPORARY / "pid"
    path = notebook(("parameters", "x = 1"), ("code", f"import subprocess\np = subprocess.Popen(['sleep', '600'])\nopen({str(mark)!r}, 'w').write(str(p.pid))\np.wait()"))
    process = start(path, TEMPORARY / "out.ipynb")
    for _ in range(300):
        if mark.exists() and mark.read_text(): break
        time.sleep(0.2)
    sleeper, below = psutil.Process(int(mark.read_text())), psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143, process.returncode
    left = [p for p in [sleeper, *below] if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left, left


def test_earlier_run_is_set_aside():
    from quickstart import set_aside
    folder = TEMPORARY / "quickstart"
    assert set_aside(folder) is None
    kept = []
    for _ in range(2):
        folder.mkdir()
        (folder / "table.md").write_text("x")
        os.utime(folder / "table.md", (2e9, 2e9))
        kept.append(set_aside(folder))
    assert not folder.exists() and len(set(kept)) == 2, kept
    assert all(k.name.startswith("quickstart-20330518-") and (k / "table.md").exists() for k in kept), kept


def test_unknown_preset_moves_nothing():
    folder = TEMPORARY / "quickstart"
    folder.mkdir()
    said = subprocess.run([sys.executable, "tools/quickstart.py", "--preset", "huge", "--output", folder], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 1 and said.stderr.startswith("error: unknown preset 'huge': there are paper"), said
    assert folder.exists() and [p.name for p in TEMPORARY.iterdir()] == ["quickstart"], list(TEMPORARY.iterdir())


def test_no_import_runs_upwards():
    from house import broken_floors, graph
    wrong = broken_floors(graph())
    assert not wrong, "\n".join(wrong)


def test_modules_are_short_and_lines_narrow():
    from house import broken_lines
    wrong = broken_lines()
    assert not wrong, "\n".join(wrong)


def test_house_sees_what_breaks_its_rules():
    from house import broken_floors, hard_lines, imported
    known = {"ct.read", "ct.volume", "plots", "cache.text", "models.vit", "metrics.text"}
    relative = imported("ct.read", "def f():\n    from ..models.vit import ViT3D\n    from . import volume", known)
    assert relative == {"models.vit", "ct.volume"}, relative
    assert broken_floors({"ct.read": {"models.vit"}}) == ["ct.read imports models.vit, which is above it"]
    assert broken_floors({"metrics.text": {"models.vit"}}) == ["metrics.text imports models.vit, but metrics stands on the ground alone"]
    assert broken_floors({"models.vit": {"cache.text"}}) == [], "tokenizers are the exception"
    assert broken_floors({"ct.read": {"plots"}}) == ["ct.read imports plots, but ct draws no figures"]
    circle = broken_floors({"ct.read": {"ct.volume"}, "ct.volume": {"ct.read"}})
    assert len(circle) == 1 and circle[0].startswith("a circle: "), circle
    assert hard_lines("files", "__all__ = ['" + "a" * 120 + "']\nx = '" + "a" * 120 + "'") == ["files, line 2 has 126 characters; 110 are allowed"]
    long = "def f():\n" + "    x = 1\n" * 500
    assert hard_lines("files", long) == ["files has 501 lines; 500 are allowed", "files.f has 501 lines; 60 are allowed"], hard_lines("files", long)


def test_failure_of_a_test_is_counted():
    from test import Check
    assert Check("good", [sys.executable, "-c", "print(1)"], "a").run().passed
    bad = Check("bad", [sys.executable, "-c", "raise SystemExit('no')"], "a").run()
    assert not bad.passed and "no" in bad.output
    slow = Check("slow", [sys.executable, "-c", "import time; time.sleep(60)"], "a").run(limit=1)
    assert not slow.passed and "after the limit" in slow.output and slow.seconds < 20


def test_readme_from_front_page():
    from docs import readme
    path = notebook(("markdown", "# T\n\n[a](x.ipynb) [b](../LICENSE) [c](https://d.e) ![p](images/p.svg)"), ("code", "#| hide\nimport os"), ("code", "1 + 1"))
    assert readme(path).split("\n\n", 1)[1] == "# T\n\n[a](nbs/x.ipynb) [b](LICENSE) [c](https://d.e) ![p](nbs/images/p.svg)\n\n```python\n1 + 1\n```\n"


def test_docs_obey_directives():
    from docs import code, directives, only_imports
    assert directives("#| export\n#| echo: false\nx = 1") == ({"export": "", "echo": "false"}, "x = 1")
    cell = lambda source: {"source": source, "outputs": [], "metadata": {}}
    assert code(cell("#| hide\nx = 1")) is None
    assert code(cell("#| export\nx = 1"))["metadata"]["tags"] == ["exported"]
    assert only_imports("import os\nfrom a import b") and not only_imports("import os\nx = 1")


def test_docs_show_each_figure_once():
    from docs import once
    figure = lambda name: {"data": {"image/png": name, "text/plain": "<Figure>"}}
    text = {"output_type": "stream", "text": "x"}
    assert once([figure("a"), text, figure("a again")], True) == [figure("a"), text]
    assert once([figure("a"), figure("b")], False) == [figure("a"), figure("b")]


def test_docs_show_finished_runs_only():
    from docs import finished
    path = TEMPORARY / "run.ipynb"
    for state, wanted in (({"end_time": None}, False), ({"end_time": "x", "exception": True}, False), ({"end_time": "x", "exception": None}, True)):
        path.write_text(json.dumps({"cells": [], "metadata": {"papermill": state}}))
        assert finished(path) == wanted, state
    assert not finished(TEMPORARY / "none.ipynb")


def test_docs_keep_the_order_of_parameters():
    sys.path.insert(0, str(ROOT / "tools/docs"))
    from conf import docments_of
    from hsenet.training.folder import TrainingError
    from hsenet.training.parts import parameter_groups
    assert docments_of(parameter_groups) == {"model": "", "weight_decay": "", "lr": "", "lr_scale": "a tensor's own share of `lr`, by its name"}
    assert docments_of(TrainingError) == {}


def test_lab_runs_run_notebooks_from_the_top():
    code = "import os; print(os.getcwd(), end='')"
    for folder, wanted in (("nbs/runs", ROOT), ("nbs/ct", ROOT / "nbs/ct")):
        said = subprocess.run([sys.executable, "-c", (ROOT / "tools/lab_startup.py").read_text().replace("__file__", repr(str(ROOT / "tools/lab_startup.py"))) + code],
                              cwd=ROOT / folder, capture_output=True, text=True)
        assert said.stdout == str(wanted), said


def test_old_python_is_refused():
    old = TEMPORARY / "python"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo Python 3.9.2\nexit 1\n")
    old.chmod(0o755)
    for name in ("settings.ini", "setup.py"): (TEMPORARY / name).touch()
    said = subprocess.run(["make", "-s", "-f", str(ROOT / "Makefile"), "install", f"PYTHON={old}"], cwd=TEMPORARY, capture_output=True, text=True,
                          env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")})
    assert said.returncode == 2 and "needs Python 3.11 or newer" in said.stdout and "3.9.2" in said.stdout and not (TEMPORARY / ".venv").exists(), said


def test_damaged_files_end_well():
    "A few of `make fuzz`, of each kind, in this process: one that takes too long ends it."
    import logging
    import fuzz
    logging.disable(logging.CRITICAL)
    ends = []
    for kind in fuzz.KINDS:
        work = TEMPORARY / kind
        work.mkdir()
        fuzz.warm(kind, work, fuzz.ours())
        rows = [fuzz.one(kind, number, work, fuzz.ours()) for number in range(500_000, 500_025)]
        assert not [r for r in rows if r["end"].startswith("FAILED")], (kind, rows)
        ends += [r["end"] for r in rows]
    assert len(ends) == 200 and 40 < ends.count("result") < 160, ends


def test_fuzz_sees_a_failure():
    "An error that isn't ours, and one that takes too long, are failures."
    from fuzz import one, ours
    import fuzz
    def wrong(work, rng): raise KeyError("x")
    fuzz.KINDS["wrong"] = wrong
    assert one("wrong", 0, TEMPORARY, ours())["end"].startswith("FAILED KeyError"), "a KeyError passed"
    code = f"import sys; sys.path.insert(0, 'tools'); import fuzz, time; fuzz.SECONDS = 1; fuzz.KINDS['late'] = lambda work, rng: time.sleep(60); fuzz.one('late', 0, fuzz.ROOT, fuzz.ours())"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -14, "a minute passed for 1 s"


if __name__ == "__main__":
    for name in sys.argv[1:] or [n for n in globals() if n.startswith("test_")]: globals()[name]()
