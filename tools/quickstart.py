"""`make quickstart`: the whole road once, then where to look and what to try."""
import argparse
import os
import sys
import time
from pathlib import Path

from run import ROOT, KernelDied, Progress, ending_children_on_signals, report_failure, run_notebook

NOTEBOOK = Path("nbs/runs/quickstart.ipynb")


def set_aside(folder: Path) -> Path | None:
    "Rename a folder that is there to `<folder>-<time of its newest file>`, so that nothing is lost; gives the new name."
    if not folder.exists(): return None
    newest = max([folder, *folder.rglob("*")], key=lambda p: p.lstat().st_mtime)
    name = f"{folder}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(newest.lstat().st_mtime))}"
    target, i = Path(name), 1
    while target.exists(): target, i = Path(f"{name}-{i}"), i + 1
    return folder.rename(target)


def farewell(output: Path) -> str:
    "What there is to look at and to try."
    table, model = output / "table.md", f"--model {output}/model"
    return "\n".join([
        "", table.read_text(encoding="utf-8").strip() if table.is_file() else f"(no {table})", "",
        "Phantoms are synthetic: these numbers say nothing about patients.", "",
        "Where to look",
        f"  {output}/quickstart.ipynb    the run, with curves, cases and tables (`make docs` shows it as a page)",
        f"  {output}/metrics.json        every number, with n and baselines",
        f"  {output}/evaluation/         every prediction",
        f"  {output}/sections.json       what each section cost, in seconds: by the clock, and of CPU time in all processes", "",
        "Try it, on a phantom that the models have never seen or on a chest CT of your own (.nii.gz)",
        f"  .venv/bin/hsenet report {output}/example.nii.gz {model}",
        f'  .venv/bin/hsenet ask {output}/example.nii.gz "Where is the pleural effusion?" {model}'])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    args = parser.parse_args()
    from hsenet.config import ConfigError, preset
    try: preset(args.preset)  # before anything is moved
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    if moved := set_aside(args.output): print(f"{args.output} was there already: it is now {moved}; starting over in {args.output}")
    for made in sorted(args.data.glob(f"*-{args.preset}-{args.seed}")): print(f"using again what is complete in {made}")
    from papermill.exceptions import PapermillExecutionError
    executed, progress = args.output / "quickstart.ipynb", Progress()
    values = {"preset": args.preset, "seed": args.seed, "output": str(args.output), "data": str(args.data)}
    with ending_children_on_signals():
        try: run_notebook(NOTEBOOK, executed, values, progress)
        except PapermillExecutionError as e:
            report_failure(e, executed)
            return 1
        except KernelDied as e:
            print(f"error: {e}", file=sys.stderr)
            return 1
    progress.line(f"{progress.clock()}  done")
    from hsenet.files import write_json
    write_json(args.output / "sections.json", progress.costs)
    print(f"\n{progress.table()}\n{farewell(args.output)}")
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
