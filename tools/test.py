"""Everything that guards the project; the last line is `N passed, N failed`.

    python tools/test.py              all
    python tools/test.py models/00    only what has this in its name
"""
import filecmp
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from run import ROOT, declared, end_children

NBS, MINI = ROOT / "nbs", Path("outputs/mini")
LIMIT = 300  # seconds per notebook
WORKERS = 2
ENVIRONMENT = {  # one thread per process, no hub, no leftovers
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1", "JUPYTER_PLATFORM_DIRS": "1", "TQDM_DISABLE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
RUNS = "quickstart controls preprocess pretrain_stage1 pretrain_stage2 finetune_mrg finetune_vqa evaluate_retrieval evaluate_zero_shot evaluate_mrg evaluate_vqa".split()


@dataclass
class Check:
    "A command whose exit status says whether it passed; those with the same `lane` run one after the other."
    name: str
    command: list[str]
    lane: str
    passed: bool | None = None
    seconds: float = 0.0
    output: str = field(default="", repr=False)

    def run(self, limit: float = LIMIT) -> "Check":
        "Run it in a session of its own, which is ended with it."
        start = time.monotonic()
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | ENVIRONMENT, start_new_session=True)
            try: self.passed = process.wait(limit) == 0
            except subprocess.TimeoutExpired:
                self.passed = False
                os.killpg(process.pid, signal.SIGTERM)
                try: process.wait(10)
                except subprocess.TimeoutExpired: pass
            finally: _end_group(process.pid)
            self.seconds = time.monotonic() - start
            log.seek(0)
            self.output = log.read() + (f"\nended after the limit of {limit:.0f} s" if self.seconds >= limit else "")
        return self


def _end_group(group: int):
    try: os.killpg(group, signal.SIGKILL)
    except ProcessLookupError: pass


def notebooks() -> list[Path]:
    "Notebooks that `nbdev_test` takes, the run notebooks aside."
    parts = lambda p: p.relative_to(NBS).parts
    return sorted(p for p in NBS.rglob("*.ipynb") if parts(p)[0] != "runs" and not any(x.startswith(("_", ".")) for x in parts(p)))


def run_parameters(name: str) -> dict:
    "What the miniature run passes to a run notebook, as far as the notebook declares it: the folders of the runs before it."
    road = MINI / "quickstart"
    values = {"preset": "mini", "data": road / "data", "corpus": road / "data/phantoms-mini-42", "cache": MINI / "cache"}
    values |= {stage: MINI / stage for stage in ("stage1", "stage2", "mrg", "vqa")}
    outputs = {"quickstart": road / "run", "controls": road / "run", "pretrain_stage1": MINI / "stage1", "pretrain_stage2": MINI / "stage2",
               "finetune_mrg": MINI / "mrg", "finetune_vqa": MINI / "vqa"}
    models = {"evaluate_retrieval": MINI / "stage2", "evaluate_zero_shot": MINI / "stage2", "evaluate_mrg": MINI / "mrg", "evaluate_vqa": MINI / "vqa"}
    values |= {"output": outputs.get(name, MINI / "evaluation" / name), "model": models.get(name)}
    known = declared(NBS / f"runs/{name}.ipynb")
    return {k: str(v) for k, v in values.items() if k in known}


def run_checks() -> list[Check]:
    "Each run notebook on the miniature preset, alone, on the outputs of the one before."
    python, checks = sys.executable, []
    for name in RUNS:
        source = NBS / f"runs/{name}.ipynb"
        if not source.exists():
            checks.append(Check(f"runs/{name}", [python, "-c", f"raise SystemExit('no {source}')"], "runs"))
            continue
        given = [x for k, v in run_parameters(name).items() for x in ("-p", k, v)]
        checks.append(Check(f"runs/{name}", [python, "tools/run.py", str(source.relative_to(ROOT)), str(MINI / f"{name}.ipynb"), *given], "runs"))
    return checks


def all_checks() -> list[Check]:
    "What there is to check."
    python, me = sys.executable, str(Path(__file__).relative_to(ROOT))
    unit = [n for n in (ROOT / "tools/test_tools.py").read_text().split("def ") if n.startswith("test_")]
    return [
        *run_checks(),
        *(Check(f"nbs/{p.relative_to(NBS).with_suffix('')}", [python, me, "--notebook", str(p)], str(p)) for p in notebooks()),
        *(Check(f"in sync: {n}", [python, me, "--" + n], n) for n in ("modules", "clean", "readme")),
        *(Check(f"tools: {n.split('(')[0][5:]}", [python, "tools/test_tools.py", n.split("(")[0]], "tools") for n in unit)]


def execute(checks: list[Check], workers: int = WORKERS) -> None:
    "Run the lanes in `workers` threads, each check in its own process; says how each went."
    lanes, lock = {}, threading.Lock()
    for check in checks: lanes.setdefault(check.lane, []).append(check)
    def lane(members):
        for check in members:
            check.run()
            with lock:
                print(f"{'ok' if check.passed else 'FAILED':7s}{check.seconds:6.1f} s  {check.name}", flush=True)
                if not check.passed: print(f"{'-' * 78}\n{check.output.strip()[-6000:]}\n{'-' * 78}", flush=True)
    with ThreadPoolExecutor(workers) as pool: list(pool.map(lane, lanes.values()))


# --- what the checks do, each in a process of its own ---------------------------------------------------------------

def check_notebook(path: str) -> bool:
    "The notebook's cells run, those marked slow or cuda aside."
    from nbdev.config import get_config
    from nbdev.test import test_nb
    return test_nb(Path(path), skip_flags=get_config().tst_flags.split(), basepath=ROOT)[0]


def _copy(folder: Path) -> Path:
    "The parts of the project that nbdev reads and writes, elsewhere, so that the working tree is never touched."
    shutil.copytree(NBS, folder / "nbs", ignore=shutil.ignore_patterns("fixtures", ".ipynb_checkpoints"))
    shutil.copytree(ROOT / "hsenet", folder / "hsenet", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "settings.ini", folder)
    return folder


def different(a: Path, b: Path, glob: str) -> list[str]:
    "Files matching `glob` that aren't the same in both folders."
    names = sorted({p.relative_to(x) for x in (a, b) for p in x.rglob(glob) if "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts})
    return [str(n) for n in names if not ((a / n).is_file() and (b / n).is_file() and filecmp.cmp(a / n, b / n, shallow=False))]


def _in_copy(command: str, glob: str, folder: str, advice: str, prepare=lambda copy: None) -> bool:
    with tempfile.TemporaryDirectory() as temporary:
        copy = _copy(Path(temporary).resolve())
        prepare(copy)
        subprocess.run([Path(sys.executable).parent / command], cwd=copy, check=True)
        changed = different(ROOT / folder, copy / folder, glob)
    if changed: print(f"`{command}` would change {', '.join(f'{folder}/{c}' for c in changed)}; {advice}")
    return not changed


def check_modules() -> bool:
    "The modules are what the notebooks export, no more and no less."
    def delete_generated(copy):
        for p in (copy / "hsenet").rglob("*.py"):
            if p.name == "_modidx.py" or "AUTOGENERATED! DO NOT EDIT!" in p.read_text(encoding="utf-8"): p.unlink()
    return _in_copy("nbdev_export", "*.py", "hsenet", "edit the notebook, not the module, then `make clean-notebooks`", delete_generated)


def check_clean() -> bool:
    "The notebooks hold nothing that `nbdev_clean` strips."
    return _in_copy("nbdev_clean", "*.ipynb", "nbs", "run `make clean-notebooks`, and `make hooks` to have it done for you")


def check_readme() -> bool:
    "README.md says what nbs/index.ipynb says, whose outputs are what it gives now; the docs' sidebar has every page."
    from docs import directives, read, written
    stale = [p for p, text in written().items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    for p in stale: print(f"{p.relative_to(ROOT)} is not what the notebooks give; run `make docs`, or `python tools/docs.py --readme`")
    scope, index = {}, read(NBS / "index.ipynb")
    os.chdir(NBS)
    for cell in index["cells"]:
        if cell["cell_type"] == "code": exec(directives(cell["source"])[1], scope)
    shown = ["".join(o["data"].get("text/markdown", "")) for c in index["cells"] for o in c.get("outputs", [])]
    if scope["table"] not in shown: print("nbs/index.ipynb shows other results than nbs/results/quickstart.json holds; execute it, then `make docs`")
    return not stale and scope["table"] in shown


def main() -> int:
    only = [a for a in sys.argv[1:] if a]
    if only[:1] == ["--notebook"]: return not check_notebook(only[1])
    if only and only[0].startswith("--"): return not {"--modules": check_modules, "--clean": check_clean, "--readme": check_readme}[only[0]]()
    checks = [c for c in all_checks() if not only or any(o in c.name for o in only)]
    if not checks: print(f"nothing to test has {' or '.join(only)} in its name; there are:\n  " + "\n  ".join(c.name for c in all_checks()))
    if any(c.name == "runs/quickstart" for c in checks): shutil.rmtree(ROOT / MINI, ignore_errors=True)  # the others go on from it
    signal.signal(signal.SIGTERM, lambda *_: (end_children(), os._exit(143)))
    start = time.monotonic()
    try: execute(checks)
    except KeyboardInterrupt:
        end_children()
        return 130
    failed = [c.name for c in checks if not c.passed]
    print(f"{time.monotonic() - start:.0f} s" + "".join(f"\nfailed: {name}" for name in failed))
    print(f"{len(checks) - len(failed)} passed, {len(failed)} failed", flush=True)
    return bool(failed) or not checks


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
