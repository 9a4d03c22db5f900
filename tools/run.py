"""Run a parameterised notebook: papermill, with the parameter names checked, progress shown, and no kernel left behind.

    python tools/run.py nbs/runs/pretrain_stage1.ipynb outputs/stage1/run.ipynb -p preset tiny -p seed 1
"""
import argparse
import logging
import os
import re
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class ParameterError(ValueError):
    "A parameter that the notebook doesn't declare."


class KernelDied(RuntimeError):
    "The notebook's process ended before the notebook."


def declared(notebook: Path) -> dict:
    "The parameters of a run notebook and their defaults' source. Raises where no cell is tagged `parameters`."
    from papermill import inspect_notebook
    if not Path(notebook).is_file(): raise FileNotFoundError(f"no notebook at {notebook}")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    names = inspect_notebook(str(notebook))
    if not names: raise ParameterError(f"{notebook}: no cell is tagged `parameters` (or it declares none)")
    return {name: p["default"] for name, p in names.items()}


def check_parameters(notebook: Path, parameters: dict) -> None:
    "Papermill only warns of a name that the notebook doesn't declare; this raises."
    known = declared(notebook)
    if unknown := sorted(set(parameters) - set(known)):
        raise ParameterError(f"{notebook}: unknown parameter{'s' * (len(unknown) > 1)} {', '.join(unknown)}; it has {', '.join(known)}")


def end_children(grace: float = 5) -> None:
    "End every process below this one: the kernel and what it started."
    children = psutil.Process().children(recursive=True)
    for child in children:
        try: child.terminate()
        except psutil.NoSuchProcess: pass
    for child in psutil.wait_procs(children, timeout=grace)[1]:
        try: child.kill()
        except psutil.NoSuchProcess: pass


@contextmanager
def ending_children_on_signals():
    "On SIGTERM, SIGINT or SIGHUP, end the children first and leave with 128 + the signal's number."
    def stop(number, frame):
        print(f"\nstopped by {signal.Signals(number).name}; ending the notebook's processes", file=sys.stderr, flush=True)
        end_children()
        os._exit(128 + number)
    before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try: yield
    finally:
        for s, handler in before.items(): signal.signal(s, handler)


def cpu_seconds() -> float:
    "CPU seconds so far of this process and of all that it started, those that have ended included."
    this = psutil.Process()
    total = 0.0
    for process in [this, *this.children(recursive=True)]:
        try: times = process.cpu_times()
        except psutil.NoSuchProcess: continue
        # of a process that has ended, its parent knows the times as soon as it has waited for it
        total += times.user + times.system + times.children_user + times.children_system
    return total


def minutes(seconds: float) -> str: return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"


class Progress:
    "A line per section of the notebook, and what each cost; on a terminal also the progress bar of the cell that runs."

    def __init__(self, quiet: bool = False):
        self.quiet, self.start, self.section, self.live = quiet, time.monotonic(), None, sys.stdout.isatty() and not quiet
        self.costs = []  # of each section that has ended: its name, wall and CPU seconds
        self.spent = (0.0, 0.0)  # at its start

    def end_section(self):
        "Note what the section that ends has cost; before the first one: to start the notebook."
        wall, cpu = time.monotonic() - self.start, cpu_seconds()
        row = {"section": self.section or "start", "wall_seconds": wall - self.spent[0], "cpu_seconds": cpu - self.spent[1]}
        self.costs.append({name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()})
        self.spent = (wall, cpu)

    def table(self) -> str:
        "Wall and CPU time of each section, and of all."
        rows = [(row["section"], row["wall_seconds"], row["cpu_seconds"]) for row in self.costs]
        rows.append(("in all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
        lines = [f"  {name:44}{minutes(wall)}    {minutes(cpu)}" for name, wall, cpu in rows]
        return "\n".join([f"{'What it cost, minutes:seconds':46}  time       CPU", *lines])

    def cell(self, nb, index: int):
        "A cell starts."
        heading = None
        for cell in nb.cells[: index + 1]:
            if cell.cell_type == "markdown" and (m := re.match(r"#{1,2} (.+)", cell.source)): heading = m[1]
        if heading == self.section: return
        self.end_section()
        self.section = heading
        if self.quiet: return
        self.line(f"{self.clock()}  {heading}")

    def clock(self) -> str: return minutes(time.monotonic() - self.start)

    def line(self, text: str): print(("\r\x1b[K" if self.live else "") + text, flush=True)

    def write(self, text: str):
        "What the notebook says on stderr: of its progress bars the last state, on a terminal only."
        parts = [p.strip() for p in re.split(r"[\r\n]", ANSI.sub("", text)) if p.strip()]
        if self.live and parts and "%|" in parts[-1]:
            width = os.get_terminal_size().columns
            print("\r\x1b[K" + f"        {parts[-1]}"[: width - 1], end="", flush=True)

    def flush(self): pass


def _register():
    "Papermill's own engine, which tells `watch` of each cell."
    from papermill.engines import NBClientEngine, papermill_engines

    class Watched(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, watch=None, **kwargs):
            start = nb_man.cell_start
            def cell_start(cell, cell_index=None, **kw):
                watch.cell(nb_man.nb, cell_index)
                return start(cell, cell_index, **kw)
            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    papermill_engines.register("watched", Watched)


def run_notebook(
    notebook: Path,
    output: Path,  # the executed notebook
    parameters: dict,
    progress: Progress | None = None,
) -> Path:
    "Execute `notebook` from the current folder. Raises `ParameterError`, `KernelDied`, papermill's `PapermillExecutionError`."
    import papermill
    from nbclient.exceptions import DeadKernelError
    check_parameters(notebook, parameters)
    _register()
    os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
    os.environ["PYTHONSTARTUP"] = str(ROOT / "tools" / "run_startup.py")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:IProgress not found"]))
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    progress = progress or Progress()
    try:
        papermill.execute_notebook(str(notebook), str(output), parameters, engine_name="watched", watch=progress, kernel_name="python3",
                                   progress_bar=False, log_output=False, stderr_file=progress, coalesce_streams=True,
                                   extra_arguments=["--IPKernelApp.log_level=40", "--matplotlib=inline"])
        progress.end_section()
    except DeadKernelError as e:
        raise KernelDied(f"{notebook}: its kernel died (killed, or out of memory?); the notebook as far as it went: {output}") from e
    finally: end_children()
    return output


def report_failure(error: Exception, output: Path, out=sys.stderr) -> None:
    "Say which cell failed, with what, and where the executed notebook is."
    print(f"\n{'-' * 78}\nFAILED in cell {error.cell_index}:\n\n{error.source}\n", file=out)
    text = "\n".join(error.traceback)
    print(text if out.isatty() else ANSI.sub("", text), file=out)
    print(f"{'-' * 78}\nThe notebook as far as it went: {output}", file=out, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path, help="the executed notebook")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter; VALUE is read as YAML")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing unless it fails")
    args = parser.parse_args()
    from papermill.exceptions import PapermillExecutionError
    with ending_children_on_signals():
        try: run_notebook(args.notebook, args.output, {k: number(v) for k, v in args.p}, Progress(args.quiet))
        except PapermillExecutionError as e:
            report_failure(e, args.output)
            return 1
        except (ParameterError, FileNotFoundError, KernelDied) as e:
            print(f"error: {e}", file=sys.stderr)
            return 1
    return 0


def number(text: str):
    "A parameter's value from the command line: YAML, and `1e-4` is a number too."
    try: return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text) else yaml.safe_load(text)
    except yaml.YAMLError: return text


if __name__ == "__main__":
    sys.exit(main())
