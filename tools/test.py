"""Everything that guards the project; the last line is `N passed, N failed`.

    python tools/test.py              all
    python tools/test.py models/00    only what has this in its name
    python tools/test.py --slow       notebooks with cells marked slow, those cells included
"""
import faulthandler
import filecmp
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from run import ROOT, declared, end_children

NBS = ROOT / "nbs"
MINI = Path("outputs/mini")
LIMIT = 300  # seconds per notebook
SLOW_LIMIT = 3600  # with its slow cells
SLOW_CELL = "#| slow"
WORKERS = 2
ENVIRONMENT = {  # one thread per process, no hub, no leftovers
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "JUPYTER_PLATFORM_DIRS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
RUNS = [  # each goes on from the ones before it
    "quickstart",
    "controls",
    "preprocess",
    "pretrain_stage1",
    "pretrain_stage2",
    "finetune_mrg",
    "finetune_vqa",
    "evaluate_retrieval",
    "evaluate_zero_shot",
    "evaluate_mrg",
    "evaluate_vqa",
    "claims",
]


@dataclass
class Check:
    "A command whose exit status says whether it passed; those with the same `lane` run one after the other."
    name: str
    command: list[str]
    lane: str
    limit: float = LIMIT  # seconds
    passed: bool | None = None
    seconds: float = 0.0
    output: str = field(default="", repr=False)

    def start(self, log) -> subprocess.Popen:
        "The command in a session of its own, writing to `log`."
        return subprocess.Popen(
            self.command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )

    def run(self) -> "Check":
        "Run it; its session is ended with it."
        start = time.monotonic()
        with tempfile.NamedTemporaryFile("w+") as log:
            process = self.start(log)
            try:
                status = process.wait(self.limit)
                end = f"ended with status {status}"
            except subprocess.TimeoutExpired:
                status = None
                end = f"ended after the limit of {self.limit:.0f} s"
                _ask_to_end(process)
            finally:
                _end_group(process.pid)
            self.seconds = time.monotonic() - start
            log.seek(0)
            self.output = f"{log.read()}\n{end}"
        self.passed = status == 0
        return self


class ForkedProcess:
    """A notebook's test forked from a Python with all libraries imported; waits like a `Popen`.

    The child sends its verdict itself. `exitcode` can't be trusted here: whenever one thread starts a process,
    `multiprocessing` polls the children of all threads, and of two that read one exit status the second reports 255."""

    def __init__(self, path: str, log: str):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tools.warm"])  # found from ROOT
        self.verdict, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_in_fork, args=(path, log, sender))
        self.process.start()
        sender.close()
        self.pid = self.process.pid

    def wait(self, limit: float | None = None) -> int:
        "0 where the notebook passed. A child that died has sent nothing: then what is known of its end."
        self.process.join(limit)
        if self.process.exitcode is None: raise subprocess.TimeoutExpired(self.process.name, limit)
        try:
            if self.verdict.poll(): return self.verdict.recv()
        except EOFError:
            pass
        return self.process.exitcode or 1


def _in_fork(path: str, log: str, verdict: Connection):
    "What the forked process does: a session and a log of its own, then the notebook."
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as in a Python of its own; else workers know no notebook
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    os.chdir(ROOT)
    passed = check_notebook(path)
    verdict.send(int(not passed))


@dataclass
class ForkedCheck(Check):
    "A notebook's check, `command[-1]`, that is forked: worth it where many are run."

    def start(self, log) -> ForkedProcess:
        return ForkedProcess(self.command[-1], log.name)


def _ask_to_end(process: subprocess.Popen | ForkedProcess):
    "Ten seconds to tidy up."
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass


def _end_group(group: int):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def notebooks() -> list[Path]:
    "Notebooks that `nbdev_test` takes, the run notebooks aside."
    out = []
    for path in sorted(NBS.rglob("*.ipynb")):
        parts = path.relative_to(NBS).parts
        hidden = any(part.startswith(("_", ".")) for part in parts)
        if parts[0] != "runs" and not hidden: out.append(path)
    return out


def run_parameters(name: str) -> dict:
    "What the miniature run passes to a run notebook, as far as the notebook declares it: the folders of the runs before it."
    road = MINI / "quickstart"
    values = {
        "preset": "mini",
        "data": road / "data",
        "corpus": road / "data/phantoms-mini-42",
        "cache": MINI / "cache",
        "stage1": MINI / "stage1",
        "stage2": MINI / "stage2",
        "mrg": MINI / "mrg",
        "vqa": MINI / "vqa",
        "output": OUTPUTS.get(name, MINI / "evaluation" / name),
        "model": MODELS.get(name),
        "seeds": "[1]",
        "rows": "[slices]",
    }
    known = declared(NBS / f"runs/{name}.ipynb")
    return {key: str(value) for key, value in values.items() if key in known}


OUTPUTS = {  # run notebook → its folder, where that isn't an evaluation's
    "quickstart": MINI / "quickstart/run",
    "controls": MINI / "quickstart/run",
    "pretrain_stage1": MINI / "stage1",
    "pretrain_stage2": MINI / "stage2",
    "finetune_mrg": MINI / "mrg",
    "finetune_vqa": MINI / "vqa",
}
MODELS = {  # evaluation → the run that it evaluates
    "evaluate_retrieval": MINI / "stage2",
    "evaluate_zero_shot": MINI / "stage2",
    "evaluate_mrg": MINI / "mrg",
    "evaluate_vqa": MINI / "vqa",
}


def run_checks() -> list[Check]:
    "Each run notebook on the miniature preset, alone, on the outputs of the one before."
    checks = []
    for name in RUNS:
        source = NBS / f"runs/{name}.ipynb"
        command = [sys.executable, "tools/run.py", str(source.relative_to(ROOT)), str(MINI / f"{name}.ipynb")]
        if source.exists():
            for key, value in run_parameters(name).items():
                command += ["-p", key, value]
        else:
            command = [sys.executable, "-c", f"raise SystemExit('no {source}')"]
        checks.append(Check(f"runs/{name}", command, "runs"))
    checks.append(ablated_run())
    return checks


def ablated_run() -> Check:
    "Settings reach the model through papermill too: another projector, on one encoder."
    given = run_parameters("finetune_mrg") | {
        "output": str(MINI / "ablated"),
        "settings": "{packer.kind: qformer, vlm.branches: [stage2]}",
    }
    command = [sys.executable, "tools/run.py", "nbs/runs/finetune_mrg.ipynb", str(MINI / "ablated.ipynb")]
    for key, value in given.items():
        command += ["-p", key, value]
    return Check("runs/finetune_mrg with a Q-Former on one encoder", command, "runs")


def slow_checks() -> list[Check]:
    "Notebooks that have slow cells, each with all its cells."
    checks = []
    for path in notebooks():
        if SLOW_CELL not in path.read_text(encoding="utf-8"): continue
        name = f"slow: nbs/{path.relative_to(NBS).with_suffix('')}"
        command = [sys.executable, str(Path(__file__).relative_to(ROOT)), "--whole-notebook", str(path)]
        checks.append(Check(name, command, lane=str(path), limit=SLOW_LIMIT))
    return checks


def all_checks() -> list[Check]:
    "What there is to check."
    python = sys.executable
    me = str(Path(__file__).relative_to(ROOT))
    checks = run_checks()
    for path in notebooks():
        name = f"nbs/{path.relative_to(NBS).with_suffix('')}"
        checks.append(Check(name, [python, me, "--notebook", str(path)], lane=str(path)))
    for name in IN_SYNC:
        checks.append(Check(f"in sync: {name}", [python, me, f"--{name}"], lane=name))
    source = (ROOT / "tools/test_tools.py").read_text(encoding="utf-8")
    for name in re.findall(r"^def (test_\w+)", source, re.M):
        checks.append(Check(f"tools: {name.removeprefix('test_')}", [python, "tools/test_tools.py", name], lane="tools"))
    return checks


def execute(checks: list[Check], workers: int = WORKERS) -> None:
    "Run the lanes in `workers` threads, each check in its own process; says how each went."
    lanes: dict[str, list[Check]] = {}
    for check in checks:
        lanes.setdefault(check.lane, []).append(check)
    lock = threading.Lock()

    def run_lane(members: list[Check]):
        for check in members:
            check.run()
            with lock:
                report(check)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run_lane, lanes.values()))


def report(check: Check) -> None:
    "A line; and of one that failed, the end of what it printed."
    print(f"{'ok' if check.passed else 'FAILED':7s}{check.seconds:6.1f} s  {check.name}", flush=True)
    if check.passed: return
    line = "-" * 78
    print(f"{line}\n{check.output.strip()[-6000:]}\n{line}", flush=True)


# --- what the checks do, each in a process of its own ---------------------------------------------------------------

def check_notebook(path: str, slow: bool = False) -> bool:
    "The notebook's cells run, those marked slow or cuda aside; with `slow`, only those marked cuda aside."
    from nbdev.config import get_config
    from nbdev.test import test_nb
    skipped = get_config().tst_flags.split()
    if slow: skipped.remove("slow")
    return test_nb(Path(path), skip_flags=skipped, basepath=ROOT)[0]


def _copy(folder: Path) -> Path:
    "The parts of the project that nbdev reads and writes, elsewhere, so that the working tree is never touched."
    shutil.copytree(NBS, folder / "nbs", ignore=shutil.ignore_patterns("fixtures", ".ipynb_checkpoints"))
    shutil.copytree(ROOT / "hsenet", folder / "hsenet", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "settings.ini", folder)
    return folder


def matching(folder: Path, glob: str) -> set[Path]:
    "Files below a folder, without caches and Jupyter's checkpoints; relative."
    ignored = {"__pycache__", ".ipynb_checkpoints"}
    return {p.relative_to(folder) for p in folder.rglob(glob) if not ignored & set(p.parts)}


def different(a: Path, b: Path, glob: str) -> list[str]:
    "Files matching `glob` that aren't the same in both folders."
    out = []
    for name in sorted(matching(a, glob) | matching(b, glob)):
        both = (a / name).is_file() and (b / name).is_file()
        if not both or not filecmp.cmp(a / name, b / name, shallow=False):
            out.append(str(name))
    return out


def _in_copy(command: str, glob: str, folder: str, advice: str, prepare=lambda copy: None) -> bool:
    "Would an nbdev command, in a copy of the project, leave the files of a folder as they are?"
    with tempfile.TemporaryDirectory() as temporary:
        copy = _copy(Path(temporary).resolve())
        prepare(copy)
        subprocess.run([Path(sys.executable).parent / command], cwd=copy, check=True)
        changed = different(ROOT / folder, copy / folder, glob)
    if changed:
        names = ", ".join(f"{folder}/{name}" for name in changed)
        print(f"`{command}` would change {names}; {advice}")
    return not changed


def check_modules() -> bool:
    "The modules are what the notebooks export, no more and no less."
    def delete_generated(copy: Path):
        for path in (copy / "hsenet").rglob("*.py"):
            generated = "AUTOGENERATED! DO NOT EDIT!" in path.read_text(encoding="utf-8")
            if generated or path.name == "_modidx.py": path.unlink()

    advice = "edit the notebook, not the module, then `make clean-notebooks`"
    return _in_copy("nbdev_export", "*.py", "hsenet", advice, delete_generated)


def check_clean() -> bool:
    "The notebooks hold nothing that `nbdev_clean` strips."
    advice = "run `make clean-notebooks`, and `make hooks` to have it done for you"
    return _in_copy("nbdev_clean", "*.ipynb", "nbs", advice)


def check_readme() -> bool:
    "README.md says what nbs/index.ipynb says, whose outputs are what it gives now; the docs' sidebar has every page."
    from docs import directives, read, rich, written
    fresh = True
    for path, text in written().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text: continue
        fresh = False
        print(f"{path.relative_to(ROOT)} is not what the notebooks give; run `make docs`, or `python tools/docs.py --readme`")
    for name, tables in SHOWING_RESULTS.items():
        page = read(NBS / f"{name}.ipynb")
        scope = {}
        shown = []
        os.chdir((NBS / name).parent)
        for cell in page["cells"]:
            if cell["cell_type"] != "code": continue
            exec(directives(cell["source"])[1], scope)
            shown += rich(cell["outputs"], "text/markdown")
        for table in tables:
            if scope[table] in shown: continue
            fresh = False
            print(f"nbs/{name}.ipynb shows other results ({table}) than nbs/results holds; execute it, then `make docs`")
    return fresh


SHOWING_RESULTS = {  # notebook → its variables with Markdown of recorded numbers
    "index": ("table", "claims"),
    "reference/quickstart_numbers": ("seven", "eighteen"),
    "explanation/claims": ("claims", "runs", "by_size"),
}
IN_SYNC = {"modules": check_modules, "clean": check_clean, "readme": check_readme}


FORK_FROM = 4  # so many notebooks, before the libraries are imported once for all


def forked(checks: list[Check]) -> list[Check]:
    "The same checks, with notebooks forked if there are several."
    names = {check.name for check in checks if "--notebook" in check.command}
    if len(names) < FORK_FROM: return checks
    out = []
    for check in checks:
        if check.name in names: check = ForkedCheck(check.name, check.command, check.lane)
        out.append(check)
    return out


def chosen(words: list[str], every: list[Check]) -> list[Check]:
    "The checks that have one of the words in their name; all without words. Says which there are where none has."
    checks = [c for c in every if not words or any(word in c.name for word in words)]
    if not checks:
        print(f"nothing to test has {' or '.join(words)} in its name; there are:")
        print("\n".join(f"  {c.name}" for c in every))
    return checks


def stop(*_):
    end_children()
    os._exit(143)


def main() -> int:
    words = [word for word in sys.argv[1:] if word]
    if words[:1] == ["--notebook"]: return not check_notebook(words[1])
    if words[:1] == ["--whole-notebook"]: return not check_notebook(words[1], slow=True)
    if words[:1] == ["--slow"]: return run_checks_and_report(chosen(words[1:], slow_checks()))
    if words and words[0].startswith("--"):
        in_sync = IN_SYNC.get(words[0].removeprefix("--"))
        if in_sync: return not in_sync()
        print(__doc__.strip())
        return 0 if words[0] == "--help" else 2
    return run_checks_and_report(forked(chosen(words, all_checks())))


def run_checks_and_report(checks: list[Check]) -> int:
    "Runs them and says how it went; the exit status."
    os.environ.update(ENVIRONMENT)  # the fork server's too
    if any(c.name == "runs/quickstart" for c in checks):  # the other runs go on from it
        shutil.rmtree(ROOT / MINI, ignore_errors=True)
    signal.signal(signal.SIGTERM, stop)
    start = time.monotonic()
    try:
        execute(checks)
    except KeyboardInterrupt:
        end_children()
        return 130
    failed = [c.name for c in checks if not c.passed]
    print(f"{time.monotonic() - start:.0f} s")
    for name in failed:
        print(f"failed: {name}")
    print(f"{len(checks) - len(failed)} passed, {len(failed)} failed", flush=True)
    return bool(failed) or not checks


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
