"""Tests of the tools. Each runs in a process of its own: python tools/test_tools.py test_name"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from run import ROOT, ParameterError, Progress, check_parameters, declared, number, run_notebook

TEMPORARY = Path(tempfile.mkdtemp())


def cell(kind: str, source: str) -> dict:
    "A notebook's cell; the kind `parameters` is a code cell with that tag."
    out = {"cell_type": "markdown" if kind == "markdown" else "code", "source": source}
    out["id"] = str(abs(hash(source)))[:8]
    out["metadata"] = {"tags": ["parameters"]} if kind == "parameters" else {}
    if kind != "markdown": out |= {"outputs": [], "execution_count": None}
    return out


def notebook(*cells: tuple[str, str], name: str = "nb.ipynb") -> Path:
    "A notebook file of (kind, source) cells."
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    nb = {"cells": [cell(*c) for c in cells], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path = TEMPORARY / name
    path.write_text(json.dumps(nb), encoding="utf-8")
    return path


def start(*arguments, **kwargs) -> subprocess.Popen:
    "tools/run.py, with both its outputs in one pipe."
    command = [sys.executable, "tools/run.py", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)


def shown_notebooks() -> list[Path]:
    "Notebooks that aren't hidden by a leading `.` or `_`."
    paths = sorted((ROOT / "nbs").rglob("*.ipynb"))
    return [p for p in paths if not any(part.startswith((".", "_")) for part in p.relative_to(ROOT).parts)]


def test_misspelt_parameter_is_an_error():
    path = notebook(("parameters", "preset = 'tiny'\nlr = 1e-3"))
    check_parameters(path, {"lr": 1})
    try:
        check_parameters(path, {"lrr": 1})
    except ParameterError as e:
        assert "unknown parameter lrr; it has preset, lr" in str(e), e
    else:
        raise AssertionError("lrr was accepted")
    process = start(path, TEMPORARY / "out.ipynb", "-p", "presset", "mini")
    output = process.communicate()[0]
    assert process.returncode == 1, process.returncode
    assert "unknown parameter presset" in output, output


def test_a_section_costs_what_its_children_take_too():
    burn = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 2: pass'])"
    idle, busy, last = ("markdown", "## Idle"), ("markdown", "## Busy"), ("markdown", "## Last")
    path = notebook(("parameters", "a = 1"), idle, ("code", "a"), busy, ("code", burn), last, ("code", "1"))
    progress = Progress(quiet=True)
    run_notebook(path, TEMPORARY / "out.ipynb", {}, progress)
    spent = {row["section"]: row["cpu_seconds"] for row in progress.costs}
    assert list(spent) == ["start", "Idle", "Busy", "Last"], spent
    assert 2 <= spent["Busy"] < 3, spent
    assert spent["Idle"] < 1 and spent["Last"] < 1, spent
    assert "in all" in progress.table() and "Busy" in progress.table(), progress.table()


def test_relative_paths_are_of_the_folder_one_stands_in():
    notebook(("parameters", "output = ''"), ("code", "from pathlib import Path\nPath(output).write_text('here')"), name="elsewhere.ipynb")
    there = TEMPORARY / "elsewhere"
    there.mkdir()
    command = [sys.executable, ROOT / "tools/run.py", "../elsewhere.ipynb", "out/executed.ipynb", "-q", "-p", "output", "made.txt"]
    done = subprocess.run(command, cwd=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (there / "made.txt").read_text() == "here", "made somewhere else"
    assert (there / "out/executed.ipynb").is_file(), "the executed copy is somewhere else"


def test_values_of_parameters():
    values = {
        "1e-4": 1e-4,
        "3": 3,
        "true": True,
        "tiny": "tiny",
        "{stage1.epochs: 2}": {"stage1.epochs": 2},
    }
    for text, value in values.items():
        assert number(text) == value, f"{text} was read as {number(text)!r}"


def test_run_notebooks_declare_parameters():
    paths = sorted((ROOT / "nbs/runs").glob("*.ipynb"))
    assert paths, "no run notebooks"
    for path in paths:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
        assert {"output", "cache"} & declared(path).keys(), f"{path.name} declares {list(declared(path))}"
        assert len(tagged) == 1, f"{path.name} has {len(tagged)} cells tagged parameters"
        assert "".join(cells[0]["source"]).startswith("# "), f"{path.name} has no title"


def test_nothing_is_imported_in_vain():
    from house import modules, unused_imports
    sources = {str(path): path.read_text(encoding="utf-8") for path in modules().values()}
    for path in sorted((ROOT / "nbs/runs").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources[str(path)] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    for name, source in sources.items():
        assert not unused_imports(source), f"{name} imports {', '.join(unused_imports(source))} and doesn't use it"
    assert unused_imports("import os\nfrom a import b, c as d\nb(1)") == ["d", "os"]
    quoted = "from a import b, c, d\n__all__ = ['b']\ndef f(x: dict[str, 'c']): return 'd'"
    assert unused_imports(quoted) == ["d"], "a name in __all__ or in an annotation is used"


def test_bars_are_text_in_an_executed_notebook():
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='a bar'): pass"
    done = TEMPORARY / "bars.ipynb"
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    process = start(notebook(("parameters", "a = 1"), ("code", bar), name="bar.ipynb"), done, env=environment)
    process.communicate()
    kinds = [output["output_type"] for output in outputs_of(done)]
    assert kinds == ["stream"], f"a widget's view says nothing where its script isn't: {kinds}"
    text = "".join(outputs_of(done)[0]["text"])
    assert "a bar: 100%" in text and "IProgress" not in text, text


def outputs_of(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for c in cells for output in c.get("outputs", [])]


def test_links_between_notebooks_lead_somewhere():
    broken = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] != "markdown": continue
            for link in re.findall(r"\]\(([^)#:]+\.ipynb)", "".join(cell["source"])):
                if not (path.parent / link).is_file(): broken.append(f"{path.relative_to(ROOT)} → {link}")
    assert not broken, "no notebook there: " + ", ".join(broken)


def test_pictures_that_pages_name_are_there_and_small():
    named = re.compile(r'!\[[^]]*\]\(([^)]+)\)|\b(?:src|srcset)="([^"]+)"')
    broken = []
    for path in shown_notebooks():
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] != "markdown": continue
            for pair in named.findall("".join(cell["source"])):
                name = "".join(pair)
                if name.startswith(("http", "attachment:", "data:")): continue
                picture = path.parent / name
                if not picture.is_file(): broken.append(f"{path.relative_to(ROOT)}: no {name}")
                elif picture.stat().st_size > 200_000: broken.append(f"{name} has more than 200 kB")
    assert not broken, "\n".join(broken)


def test_front_page_shows_the_first_case_with_enough_findings():
    from landing import COLOURS, chosen_case, marked
    def record(split, *present):
        return {"split": split, "labels": {name: int(name in present) for name in "abcde"}}
    records = [record("train", *"abcd"), record("validation", *"ab"), record("validation", *"abc"), record("validation", *"abcde")]
    assert chosen_case(records) is records[2]
    words = marked("The heart is large. No nodule.", "The heart is normal. No nodule.", "added")
    different = [word for word, colour in words if colour == COLOURS["added"]]
    assert different == ["large"] or different == ["large."], words


def test_run_notebooks_are_kept_without_outputs():
    for path in (ROOT / "nbs/runs").glob("*.ipynb"):
        assert not outputs_of(path), f"{path.name}: clear its outputs"


def test_stored_outputs_are_small():
    pictures = {}
    for path in shown_notebooks():
        for i, output in enumerate(outputs_of(path)):
            data = output.get("data", {})
            picture = "".join(data.get("image/png", data.get("image/jpeg", "")))
            if picture: pictures[f"{path.name} #{i}"] = len(picture) * 3 // 4
    large = {name: size for name, size in pictures.items() if size >= 200_000}
    total = sum(path.stat().st_size for path in shown_notebooks())
    assert pictures, "no pictures in the notebooks"
    assert not large, f"pictures of 200 kB or more: {large}"
    assert total < 12_000_000, f"the notebooks take {total / 1e6:.1f} MB; 12 are allowed"


def test_missing_input_is_named():
    nothing = TEMPORARY / "nothing"
    given = ["-p", "preset", "mini", "-p", "cache", nothing, "-p", "output", TEMPORARY / "stage1"]
    process = start("nbs/runs/pretrain_stage1.ipynb", TEMPORARY / "out.ipynb", *given)
    output = process.communicate()[0]
    assert process.returncode == 1, process.returncode
    assert "FAILED in cell" in output, output
    assert str(nothing) in output.split("Error")[-1], output


def test_failing_cell_is_reported():
    path = notebook(
        ("parameters", "x = 1"),
        ("code", "print('before')"),
        ("code", "raise ValueError('the reason')"),
        ("code", "print('after')"))
    process = start(path, TEMPORARY / "out.ipynb", "-p", "x", "2")
    output = process.communicate()[0]
    assert process.returncode == 1, process.returncode
    for words in ("FAILED in cell", "ValueError: the reason", "as far as it went"):
        assert words in output, output
    assert "before" in (TEMPORARY / "out.ipynb").read_text()


def test_sigterm_leaves_no_process_behind():
    mark = TEMPORARY / "pid"
    sleeper = (
        "import subprocess\n"
        "p = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(mark)!r}, 'w').write(str(p.pid))\n"
        "p.wait()")
    path = notebook(("parameters", "x = 1"), ("code", sleeper))
    process = start(path, TEMPORARY / "out.ipynb")
    for _ in range(300):
        if mark.exists() and mark.read_text(): break
        time.sleep(0.2)
    below = psutil.Process(process.pid).children(recursive=True)
    below.append(psutil.Process(int(mark.read_text())))
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143, process.returncode
    left = [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
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
    assert not folder.exists(), "the earlier run is still in its place"
    assert len(set(kept)) == 2, kept
    for moved in kept:
        assert moved.name.startswith("quickstart-20330518-"), moved
        assert (moved / "table.md").exists(), moved


def test_unknown_preset_moves_nothing():
    folder = TEMPORARY / "quickstart"
    folder.mkdir()
    command = [sys.executable, "tools/quickstart.py", "--preset", "huge", "--output", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done
    assert done.stderr.startswith("error: unknown preset 'huge': there are paper"), done
    assert [p.name for p in TEMPORARY.iterdir()] == ["quickstart"], list(TEMPORARY.iterdir())


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
    upwards = broken_floors({"ct.read": {"models.vit"}})
    assert upwards == ["ct.read imports models.vit, which is above it"], upwards
    command = broken_floors({"commands.ask": {"cli", "inference"}})
    assert command == ["commands.ask imports cli, which is above it"], command
    apart = broken_floors({"metrics.text": {"models.vit"}})
    assert apart == ["metrics.text imports models.vit, but metrics stands on the ground alone"], apart
    tokenizer = broken_floors({"models.vit": {"cache.text"}})
    assert tokenizer == [], "tokenizers are the exception"
    figures = broken_floors({"ct.read": {"plots"}})
    assert figures == ["ct.read imports plots, but ct draws no figures"], figures
    circle = broken_floors({"ct.read": {"ct.volume"}, "ct.volume": {"ct.read"}})
    assert len(circle) == 1, circle
    assert circle[0].startswith("a circle: "), circle


def test_notebooks_are_numbered_in_reading_order():
    from house import broken_numbers, graph, notebooks
    wrong = broken_numbers(notebooks(), graph())
    assert not wrong, "\n".join(wrong)


def test_house_sees_numbers_that_mislead():
    from house import broken_numbers
    arrows = {"ct.read": {"ct.volume", "files"}, "ct.volume": set(), "files": set()}
    good = ["00_files", "ct/00_volume", "ct/01_read", "use/00_ct", "tutorials/start", "tutorials/end"]
    assert broken_numbers(good, arrows) == [], "each folder counts for itself, and some don't count"
    twice = broken_numbers(["ct/01_volume", "ct/01_voxels", "ct/02_read"], arrows)
    assert twice == ["ct/01_volume and ct/01_voxels share a number"], twice
    on_the_ground = broken_numbers(["00_disk", "00_files"], arrows)
    assert on_the_ground == ["00_disk and 00_files share a number"], on_the_ground
    early = broken_numbers(["ct/00_read", "ct/01_volume"], arrows)
    assert early == ["ct/00_read imports what ct/01_volume makes, and stands before it"], early


def test_notebooks_named_by_make_and_contributing_exist():
    from house import notebooks
    known = notebooks()
    named = []
    for page in ("Makefile", "CONTRIBUTING.md"):
        named += re.findall(r"\b(?:ONLY|NB)=([a-z_]+/\w+)", (ROOT / page).read_text(encoding="utf-8"))
    assert len(named) >= 4, named
    lost = [name for name in named if not any(notebook.startswith(name) for notebook in known)]
    assert not lost, f"no notebook begins with {', '.join(lost)}"


def test_house_sees_long_and_wide():
    from house import hard_lines
    names = "'" + "a" * 120 + "'"
    wide = hard_lines("files", f"__all__ = [{names}]\nx = {names}")
    assert wide == ["files, line 2 has 126 characters; 110 are allowed"], wide
    long = hard_lines("files", "def f():\n" + "    x = 1\n" * 500)
    assert long == ["files has 501 lines; 500 are allowed", "files.f has 501 lines; 60 are allowed"], long


def test_failure_of_a_test_is_counted():
    from test import Check
    assert Check("good", [sys.executable, "-c", "print(1)"], "a").run().passed
    bad = Check("bad", [sys.executable, "-c", "raise SystemExit('no')"], "a").run()
    assert not bad.passed and "no" in bad.output
    slow = Check("slow", [sys.executable, "-c", "import time; time.sleep(60)"], "a", limit=1).run()
    assert not slow.passed and "after the limit" in slow.output and slow.seconds < 20


def test_forked_notebook_is_judged_like_any():
    from test import ForkedCheck
    good = notebook(("code", "#| hide\nimport torch, sys\nassert 'tools.warm' in sys.modules"), name="good.ipynb")
    bad = notebook(("code", "1 + 1"), ("code", "assert 1 + 1 == 3, 'sums are off'"), name="bad.ipynb")
    slow = notebook(("code", "import time\ntime.sleep(60)"), name="slow.ipynb")
    passed = ForkedCheck("good", ["--notebook", str(good)], "a").run()
    assert passed.passed, passed.output
    failed = ForkedCheck("bad", ["--notebook", str(bad)], "a").run()
    assert not failed.passed and "sums are off" in failed.output, failed.output
    late = ForkedCheck("slow", ["--notebook", str(slow)], "a", limit=2).run()
    assert not late.passed and "after the limit" in late.output and late.seconds < 20, late.output
    died = notebook(("code", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"), name="died.ipynb")
    killed = ForkedCheck("died", ["--notebook", str(died)], "a").run()
    assert not killed.passed and "Segmentation fault" in killed.output, killed.output
    assert "ended with status -11" in killed.output, killed.output


def test_verdict_of_a_fork_is_its_own():
    "Another thread may have read its exit status: `multiprocessing` then says 255 of a test that passed."
    from test import ForkedProcess
    good = notebook(("code", "1 + 1"), name="good.ipynb")
    bad = notebook(("code", "assert False"), name="bad.ipynb")
    for path, expected in ((good, 0), (bad, 1)):
        with tempfile.NamedTemporaryFile("w+") as log:
            forked = ForkedProcess(str(path), log.name)
            os.read(forked.process.sentinel, 8)  # as that thread does
            assert forked.wait(60) == expected
            assert forked.process.exitcode == 255


def test_slow_cells_run_when_asked():
    from test import check_notebook, slow_checks
    path = notebook(("code", "#| slow\nassert False, 'slow ran'"), name="slow_cell.ipynb")
    assert check_notebook(str(path)), "a slow cell ran unasked"
    assert not check_notebook(str(path), slow=True), "the slow cell was skipped"
    names = [check.name for check in slow_checks()]
    assert "slow: nbs/cache/05_kills" in names, names


def test_readme_from_front_page():
    from docs import readme
    links = "[a](x.ipynb) [b](../LICENSE) [c](https://d.e) ![p](images/p.svg)"
    path = notebook(("markdown", f"# T\n\n{links}"), ("code", "#| hide\nimport os"), ("code", "1 + 1"))
    text = readme(path).split("\n\n", 1)[1]
    there = "[a](nbs/x.ipynb) [b](LICENSE) [c](https://d.e) ![p](nbs/images/p.svg)"
    assert text == f"# T\n\n{there}\n\n```python\n1 + 1\n```\n", text


def test_docs_obey_directives():
    from docs import code, directives, only_imports
    marks, source = directives("#| export\n#| echo: false\nx = 1")
    assert marks == {"export": "", "echo": "false"}, marks
    assert source == "x = 1", source
    hidden = {"source": "#| hide\nx = 1", "outputs": [], "metadata": {}}
    assert code(hidden) is None, "a hidden cell is shown"
    exported = {"source": "#| export\nx = 1", "outputs": [], "metadata": {}}
    assert code(exported)["metadata"]["tags"] == ["exported"], code(exported)
    assert only_imports("import os\nfrom a import b")
    assert not only_imports("import os\nx = 1")


def test_widgets_stand_still_in_the_docs():
    from docs import WIDGET, tidy
    shown = {"image/jpeg": "abc", "text/plain": "three planes"}
    viewer = {"output_type": "execute_result", "data": shown | {WIDGET: {"model_id": "1"}}, "metadata": {}}
    assert tidy(viewer)["data"] == shown, "a page shows the picture, and asks nobody for a widget's script"
    for path in shown_notebooks():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert "widgets" not in notebook["metadata"], f"{path}: it holds the state of widgets"
        alive = [output for output in outputs_of(path) if WIDGET in output.get("data", {})]
        assert not alive, f"{path}: it holds a widget that no kernel moves; clear that output, or run the cell without a kernel"


def test_make_lab_opens_the_start_page():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    command = makefile.split("\nlab: ")[1].split("\n\n")[0]
    opened = re.search(r"(nbs/tutorials/\S+\.ipynb)", command)
    assert opened, command
    assert (ROOT / opened[1]).is_file(), f"{opened[1]} isn't there"


def test_docs_show_each_figure_once():
    from docs import once
    def figure(name): return {"data": {"image/png": name, "text/plain": "<Figure>"}}
    text = {"output_type": "stream", "text": "x"}
    assert once([figure("a"), text, figure("a again")], True) == [figure("a"), text]
    assert once([figure("a"), figure("b")], False) == [figure("a"), figure("b")]


def test_docs_say_nothing_of_this_machine():
    from docs import tidy
    path = f"17 cases in {ROOT}/outputs/mini/manifest.jsonl, /tmp/tmpa1b2c3d4/x"
    shown = "17 cases in outputs/mini/manifest.jsonl, …/x"
    stream = tidy({"output_type": "stream", "name": "stdout", "text": [path]})
    assert stream["text"] == shown + "\n", stream
    result = tidy({"output_type": "execute_result", "data": {"text/plain": [path], "image/png": path}})
    assert result["data"] == {"text/plain": shown, "image/png": path}, result


def test_docs_show_finished_runs_only():
    from docs import finished
    path = TEMPORARY / "run.ipynb"
    running = {"end_time": None}
    failed = {"end_time": "x", "exception": True}
    done = {"end_time": "x", "exception": None}
    for state, wanted in ((running, False), (failed, False), (done, True)):
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


def test_docs_have_a_place_for_every_page():
    from docs import page_name, rooms, sections
    known = [page_name(path) for path in shown_notebooks()]
    placed = [name for chosen in sections(known).values() for name in chosen]
    placed += [name for _, chosen in rooms(known).values() for name in chosen]
    assert set(known) <= set(placed), set(known) - set(placed)
    assert len(placed) == len(set(placed)), "a page has two places"
    try:
        rooms([*known, "cellar/00_mice"])
    except SystemExit as error:
        assert "no section or room of the docs takes cellar/00_mice" in str(error), error
    else:
        raise AssertionError("a page without a place went unnoticed")


def test_commands_of_pages_exist():
    from docs_checks import wrong_commands
    wrong = wrong_commands()
    assert not wrong, "\n".join(wrong)


def test_docs_see_commands_that_do_not_exist():
    from docs_checks import commands, problem
    wrong = {
        "hsenet reprot CT.nii.gz --model m": "hsenet has no command reprot",
        "hsenet report CT.nii.gz --modle m": "hsenet report: No such option: --modle",
        "hsenet report CT.nii.gz": "hsenet report needs model",
        "hsenet preprocess data/CT-RATE": "hsenet preprocess needs cache",
        "hsenet config --preset huge": "unknown preset 'huge'",
        "hsenet config --set stage1.lrr=1": "unknown setting 'stage1.lrr'",
        "make quikstart": "the Makefile has no target quikstart",
        "make docs PRSET=tiny": "the Makefile has no setting PRSET",
        "python tools/walk.py": "there is no tools/walk.py",
        "papermill nbs/runs/preprocess.ipynb run.ipynb -p corps x": "preprocess.ipynb has no parameter corps",
        "hsenet run preprocess run.ipynb -p corps x": "preprocess.ipynb has no parameter corps",
        "hsenet run prepare run.ipynb": "there is no nbs/runs/prepare.ipynb",
    }
    for line, expected in wrong.items():
        (words, whole), = commands(f"```sh\n{line}\n```\n")
        found = problem(words, whole)
        assert found and expected in found, f"{line}: {found}"
    assert problem("hsenet evaluate … --every-reconstruction".split(), whole=False) is None
    assert problem("hsenet evaluate … --every-reconstructions".split(), whole=False)
    two = list(commands("```sh\n# a comment\nA=1 .venv/bin/hsenet doctor && make docs  # and more\n```\n`make test ONLY=ct`"))
    assert two == [(["hsenet", "doctor"], True), (["make", "docs"], True), (["make", "test", "ONLY=ct"], False)], two


def test_no_page_has_a_path_of_this_machine():
    from docs_checks import machine_paths, paths_in_notebooks, tidy_outputs
    found = paths_in_notebooks()
    assert not found, "\n".join(found)
    for text in ("see /home/ann/ct.nii.gz", "'/tmp/tmpa1b2c3d4/x'", f"in {ROOT}/nbs", "(/root/.cache/x)"):
        assert machine_paths(text), text
    for text in ("and/or", "https://a.b/home/x", "s3://work/x", "/etc/passwd", "outputs/work/x"):
        assert not machine_paths(text), text
    path = notebook(("code", "1"), name="tidy.ipynb")
    nb = json.loads(path.read_text())
    nb["cells"][0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["/tmp/tmpa1b2c3d4/x: y\n"]}]
    path.write_text(json.dumps(nb))
    assert tidy_outputs(path) and not tidy_outputs(path)
    assert outputs_of(path)[0]["text"] == ["…/x: y\n"], outputs_of(path)


def test_docs_see_links_that_lead_nowhere():
    from docs_checks import site_problems
    site = TEMPORARY / "site"
    site.mkdir()
    (site / "b.html").write_text('<h1 id="there">B</h1>')
    (site / "a.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="c.html">3</a><a href="https://d.e/f">4</a>'
        '<p>/home/ann/x</p>')
    found = site_problems(site)
    assert found == ["a.html: /home/ann/x", "a.html: b.html#gone leads nowhere", "a.html: c.html leads nowhere"], found


def test_lab_runs_run_notebooks_from_the_top():
    startup = ROOT / "tools/lab_startup.py"
    source = startup.read_text(encoding="utf-8").replace("__file__", repr(str(startup)))
    source += "import os; print(os.getcwd(), end='')"
    for folder, wanted in (("nbs/runs", ROOT), ("nbs/ct", ROOT / "nbs/ct")):
        done = subprocess.run([sys.executable, "-c", source], cwd=ROOT / folder, capture_output=True, text=True)
        assert done.stdout == str(wanted), done


def test_bench_gpu_in_small():
    "Each kind of row of `make bench-gpu` at the sizes of a CPU, in this process; a row that fails says so, and the next one is measured."
    import bench_gpu
    from benching import data, language, more, steps
    from benching.measure import Bench, run_row
    rows = []
    for module in (steps, language, data, more):
        bench = Bench(TEMPORARY / module.__name__, small=True, ends=time.monotonic() + 200)
        bench.folder.mkdir()
        for name, measure in module.ROWS:
            if name.startswith("preset gpu"): continue  # trains three models; by `tools/bench_gpu.py --only data`
            rows.append(run_row(bench, name, measure))
    assert not [row for row in rows if "error" in row], rows
    assert len({row["row"] for row in rows}) == len(rows) > 20, rows
    step = [row for row in rows if row["row"].startswith("VLM step, ours, batch 8")][0]
    assert step["samples_per_second"] > 0 and step["tflop_per_sample"] > 0, step

    def fails(bench): raise ValueError("a|b")

    rows.append(run_row(bench, "bad", fails))
    assert rows[-1]["error"].startswith("ValueError: a|b (test_tools.py:"), rows[-1]
    bench.ends = 0
    assert run_row(bench, "late", fails)["error"] == "not run: the time was over"
    facts = bench_gpu.machine() | {"small": True, "rows": rows}
    lines = bench_gpu.table(facts).splitlines()
    assert len(lines) == len(rows) + 2 and len({line.count("|") for line in lines}) == 1, lines
    check_gpu_page(facts, [row["row"] for row in rows[:-1]])


def check_gpu_page(facts: dict, measured: list[str]):
    "The docs page: each row of a record beside what it is held against, and without a record a plain word; no goal for a row that isn't there."
    import docs_made
    from benching import data
    from benching.goals import BASELINES, BEFORE, WANTED
    record = TEMPORARY / "gpu.json"
    record.write_text(json.dumps(facts))
    page = docs_made.gpu(record)
    assert "of a CPU, in reduced sizes" in page and "has not been run on a GPU" not in page
    for name in measured: assert f"| {name} |" in page, name
    row = [line for line in page.splitlines() if line.startswith("| VLM step, ours, batch 8 of")][0].split(" | ")
    assert row[-2:] == ["24.2 samples/s, 25.0 %, 41.0 GiB", "≥ 40 samples/s, ≤ 25 GiB |"] and float(row[-3]) > 0, row
    nothing = docs_made.gpu(TEMPORARY / "no.json")
    assert "It has not been run on a GPU." in nothing and "≥ 250 samples/s, ≥ 45 %" in nothing
    known = {*measured, *[name for name, _ in data.ROWS]}
    lost = {*BEFORE, *WANTED, *BASELINES, *BASELINES.values()} - known
    assert not lost, f"held against something, but not measured: {lost}"


def test_bench_of_training_in_small():
    "The rows of `make bench` that train, at small sizes: both ways agree, and each row says what is wanted and whether it is met."
    from benching import cpu
    row = cpu.vit_bench(1, tokens=33, hidden_size=64, num_heads=4, mlp_dim=128)
    assert row["largest_difference"] < 1e-4 and len(row["cpu_times_faster"]) == 1, row
    own = cpu.loop_bench(3, "mini", 2)
    assert own["n"] == 3 and 0 < own["cpu_share"] < 1 and own["wall_share"] > 0, own
    for facts in (row, own): assert {"wanted", "found", "met"} <= set(facts), facts


def test_wheel_is_whole():
    "From the sources' archive, as `pip install hsenet-….tar.gz` makes it; imported from elsewhere than this folder."
    import tarfile
    import zipfile
    folder = TEMPORARY / "package"
    sources = ["setup.py", "settings.ini", "README.md", "LICENSE", "MANIFEST.in"]
    shutil.copytree(ROOT / "hsenet", folder / "hsenet", ignore=shutil.ignore_patterns("__pycache__"))
    for name in sources:
        shutil.copy(ROOT / name, folder)
    subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=folder, check=True, capture_output=True)
    archive, = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(TEMPORARY, filter="data")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    unpacked = TEMPORARY / archive.name.removesuffix(".tar.gz")
    subprocess.run([*pip, "-w", str(TEMPORARY), str(unpacked)], check=True)
    wheel, = TEMPORARY.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        file.extractall(TEMPORARY / "installed")
    expected = set()
    for path in (ROOT / "hsenet").rglob("*"):
        if path.suffix in (".py", ".html", ".typed"): expected.add(str(path.relative_to(ROOT)))
    assert not expected - names, f"missing in {wheel.name}: {sorted(expected - names)}"
    code = "import hsenet, hsenet.cli; print(hsenet.__file__)"
    environment = os.environ | {"PYTHONPATH": str(TEMPORARY / "installed")}
    shown = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True)
    assert str(TEMPORARY / "installed") in shown.stdout, shown


def test_old_python_is_refused():
    old = TEMPORARY / "python"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo Python 3.9.2\nexit 1\n")
    old.chmod(0o755)
    for name in ("settings.ini", "setup.py"):
        (TEMPORARY / name).touch()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), "install", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=TEMPORARY, capture_output=True, text=True, env=environment)
    assert done.returncode == 2, done
    assert "needs Python 3.11 or newer" in done.stdout, done
    assert "3.9.2" in done.stdout, done
    assert not (TEMPORARY / ".venv").exists(), "an environment was made all the same"


def test_text_in_run_notebooks_stays_text():
    "What is shown as Markdown went through `as_markdown`, or is a table of numbers: a report is no markup."
    safe = ("as_markdown(", "claims_markdown(record)", "runs_table(record)")
    for path in sorted((ROOT / "nbs/runs").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            for line in cell["source"]:
                if "Markdown(" not in line: continue
                assert any([word in line for word in safe]), f"{path.name}: {line.strip()}"


def test_damaged_files_end_well():
    "A few of `make fuzz`, of each kind, in this process: one that takes too long ends it."
    import logging
    import fuzz
    logging.disable(logging.CRITICAL)
    ends = []
    for kind in fuzz.KINDS:
        work = TEMPORARY / ("own" if kind in fuzz.own.KINDS else kind)  # made once for all of these
        work.mkdir(exist_ok=True)
        n = 25 // fuzz.SLOW.get(kind, 1)
        if n == 0: continue  # `make fuzz` only
        fuzz.warm(kind, work, n=1 if kind in fuzz.own.KINDS else 8)
        rows = [fuzz.one(kind, number, work) for number in range(500_000, 500_000 + n)]
        assert not [r for r in rows if r["end"].startswith("FAILED")], (kind, rows)
        ends += [r["end"] for r in rows]
    results = ends.count("result") / len(ends)
    assert 0.2 < results < 0.8, (results, ends)


def test_fuzz_sees_a_failure():
    "An error that isn't ours, and one that takes too long, are failures."
    import fuzz

    def wrong(work, rng): raise KeyError("x")
    fuzz.KINDS["wrong"] = wrong
    end = fuzz.one("wrong", 0, TEMPORARY)["end"]
    assert end.startswith("FAILED KeyError"), end
    late = (
        "import sys; sys.path.insert(0, 'tools'); import fuzz, time; fuzz.SECONDS = 1; "
        "fuzz.KINDS['late'] = lambda work, rng: time.sleep(60); "
        "fuzz.one('late', 0, fuzz.ROOT)")
    status = subprocess.run([sys.executable, "-c", late], cwd=ROOT).returncode
    assert status == -14, f"a minute passed for 1 s: status {status}"


def main():
    every = [name for name in globals() if name.startswith("test_")]
    for name in sys.argv[1:] or every:
        globals()[name]()


if __name__ == "__main__":
    main()
