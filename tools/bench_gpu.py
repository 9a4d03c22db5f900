"""`make bench-gpu`: steps, generation, loader, 2D features and the preset `gpu` on this machine, in at most 8 minutes.

    python tools/bench_gpu.py                       all rows: outputs/bench/gpu.json, gpu.md; on a CPU in reduced size
    python tools/bench_gpu.py --only language       one group (steps, language, data, more)
    python tools/bench_gpu.py --table FILE.json     the table of such a file, for the docs

Each group runs in a process of its own, most important rows first; a row that fails or finds no memory is a row that says so, and gpu.json is written
after every row. What stands beside a row is measured in the same run: MONAI's blocks with explicit attention, padding to 800 with logits everywhere,
generation without a cache. Phantoms for the last rows are made on the CPU meanwhile, so rows bound by Python may be slower than on an idle machine.

On a machine that is lent for 15 minutes and has no registry (what it has: ../shared/GPU.md), with the tool `run`, from the repository's root:

1. Here, once: the wheels that such a machine lacks, and rouge-score, of which there is no wheel.
       mkdir -p outputs/carry && .venv/bin/pip download --only-binary :all: --no-deps --python-version 3.12 -d outputs/carry \\
           nibabel isal open-clip-torch ftfy wcwidth nltk defusedxml fastcore nvidia-ml-py
       cp -r .venv/lib/python3.*/site-packages/rouge_score outputs/carry/
       for wheel in outputs/carry/*.whl; do .venv/bin/python -m zipfile -e $wheel outputs/carry; rm $wheel; done
2. There, in one call (`carry`: ["outputs/carry"], timeout_s 540):
       export PYTHONPATH=$PWD:$PWD/outputs/carry; python tools/bench_gpu.py --minutes 8; cp outputs/bench/gpu.* $OUT
3. `give_back` at once. Should a group have failed as a whole, the rest of the 15 minutes is enough for it alone:
       export PYTHONPATH=$PWD:$PWD/outputs/carry; python tools/bench_gpu.py --only language --minutes 4; cp outputs/bench/gpu.* $OUT
4. Here: copy gpu.json to nbs/results/gpu.json. The docs page "On a GPU" (docs_made.gpu) draws its table from it, beside what was measured before and what is
   wanted (benching/goals.py); while there is none it says so. --table shows the same table.
"""
import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "outputs/bench"
GROUPS = ("steps", "language", "data", "more")
MINUTES = 8.0
COLUMNS = {  # of the table: key of a row → heading, format
    "batch": ("batch", "d"),
    "samples_per_second": ("samples/s", ".1f"),
    "cases_per_second": ("samples/s", ".1f"),
    "pictures_per_second": ("samples/s", ".1f"),
    "tokens_per_second": ("tokens/s", ",.0f"),
    "ms_per_token": ("ms per token", ".1f"),
    "mfu": ("MFU", ".1%"),
    "peak_gib": ("peak GiB", ".1f"),
    "memory_gb": ("peak GiB", ".1f"),
    "data_wait": ("data wait", ".0%"),
}


def machine() -> dict:
    "What this was measured on, and when."
    import torch
    import transformers
    facts = {"date": time.strftime("%Y-%m-%d %H:%M"), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    facts |= {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    if not torch.cuda.is_available(): return {"machine": f"{platform.machine()}, no GPU, reduced sizes"} | facts
    properties = torch.cuda.get_device_properties(0)
    return {"machine": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1), "cuda": torch.version.cuda} | facts


def run_group(name: str, folder: Path, small: bool, seconds: float, most: int | None) -> None:
    "In a process of its own: the rows of a group, a JSON line each on stdout."
    from benching.measure import Bench, run_row
    module = importlib.import_module(f"benching.{name}")
    bench = Bench(folder, small, time.monotonic() + seconds)
    for title, measure in module.ROWS[:most]:
        print(json.dumps(run_row(bench, title, measure)), flush=True)


def start(arguments: list[str], gpu: bool = True, **how) -> subprocess.Popen:
    "This script again, in a process of its own."
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "TQDM_DISABLE": "1"}
    env |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"} | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})
    return subprocess.Popen([sys.executable, __file__, *arguments], env=env, cwd=ROOT, **how)


def measure_group(name: str, options: list[str], ends: float, keep) -> None:
    "Start a group, hand each of its rows to `keep` as it comes, and end it when the time is over."
    seconds = max(1.0, ends - time.monotonic())
    with tempfile.TemporaryFile("w+") as errors:
        process = start(["--group", name, "--seconds", str(seconds), *options], stdout=subprocess.PIPE, stderr=errors, text=True)
        timer = threading.Timer(seconds + 30, process.kill)  # a row may be longer than what was left
        timer.start()
        for line in process.stdout:
            if line.startswith('{"row"'): keep(json.loads(line) | {"group": name})
        code = process.wait()
        timer.cancel()
        if code == 0: return
        if code == -9 and time.monotonic() > ends: return keep({"row": f"{name}: the rest", "group": name, "error": "ended: the time was over"})
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:] or ["no message"]
        keep({"row": f"{name}: the rest", "group": name, "error": f"its process ended with {code}: {last[0][:300]}"})


def table(facts: dict) -> str:
    "The rows as Markdown."
    from benching.goals import BEFORE, WANTED, times_faster
    headings = [*dict.fromkeys(heading for heading, _ in COLUMNS.values()), "× plain way", "H200 before", "wanted"]
    faster = times_faster(facts["rows"])
    lines = [f"| {facts['machine']}, torch {facts['torch']}, {facts['date']} | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    for row in facts["rows"]:
        shown = dict.fromkeys(headings, "")
        for key, (heading, how) in COLUMNS.items():
            if key in row: shown[heading] = format(row[key], how)
        if "tflop_per_second" in row: shown[headings[0]] = f"{row['tflop_per_second']:.0f} TFLOP/s"
        if row["row"] in faster: shown["× plain way"] = f"{faster[row['row']]:.1f}"
        shown |= {"H200 before": BEFORE.get(row["row"], ""), "wanted": WANTED.get(row["row"], "")}
        if "error" in row: shown[headings[0]] = row["error"].replace("|", "/")
        lines.append(f"| {row['row']} | {' | '.join(shown.values())} |")
    return "\n".join(lines) + "\n"


def bench(groups: list[str], minutes: float, small: bool, most: int | None, output: Path) -> dict:
    "All groups, one after the other; gpu.json and gpu.md after every row."
    ends = time.monotonic() + 60 * minutes
    facts = machine() | {"small": small, "rows": []}
    output.mkdir(parents=True, exist_ok=True)

    def keep(row: dict):
        facts["rows"].append(row)
        (output / "gpu.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        (output / "gpu.md").write_text(table(facts), encoding="utf-8")
        print(json.dumps(row), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        options = ["--folder", folder] + (["--small"] if small else []) + ([] if most is None else ["--most", str(most)])
        background = None
        if "data" in groups and not small: background = start(["--prepare", *options], gpu=False)
        for name in groups: measure_group(name, options, ends, keep)
        if background and background.poll() is None: background.kill()
    facts["minutes"] = round((60 * minutes - ends + time.monotonic()) / 60, 1)
    (output / "gpu.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=GROUPS, action="append", help="a group; may be given again")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--small", action="store_true", help="reduced sizes; always on a machine without a GPU")
    parser.add_argument("--most", type=int, help="rows of each group")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", type=Path, help="show the table of a gpu.json")
    for hidden in ("--group", "--seconds", "--folder"): parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text(encoding="utf-8"))), end="")
    elif args.group:
        run_group(args.group, Path(args.folder), args.small, float(args.seconds), args.most)
    elif args.prepare:
        from benching.data import prepare_preset
        from benching.measure import Bench
        prepare_preset(Bench(Path(args.folder), args.small, float("inf")))
    else:
        import torch
        facts = bench(args.only or list(GROUPS), args.minutes, args.small or not torch.cuda.is_available(), args.most, args.output)
        print("\n" + table(facts) + f"\n{facts['minutes']} minutes; {args.output / 'gpu.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
