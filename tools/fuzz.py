"""Feed damaged and hostile input to everything that reads files or settings: outputs/fuzz/fuzz.json, fuzz.md.

    python tools/fuzz.py                    1,000 inputs of each kind
    python tools/fuzz.py --n 10             10 of each kind
    python tools/fuzz.py --kinds dicom --first 1234 --n 1     one again

Each input is something good changed by a random generator seeded with its kind and number. It must end in a result or one of our own
errors, within 10 s of computing (and a minute on the clock) and 1 GB beyond what the process holds before. Anything else is listed with its number, and the exit status is 1.

A kind is a function `kind(work, rng)`: it makes its good files in the folder `work` once, changes one of them as `rng` says, reads it,
and puts it back. Its docstring's first line is what the table of results says of it. `KINDS` of a module in tools/fuzzing names its kinds.
"""
import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from fuzzing import corpora, dicoms, own, scans, settings, tables

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10
LONGER = {"roads": 60}  # a kind that trains three models on the way
GIGABYTES = 1.0
KINDS = scans.KINDS | dicoms.KINDS | corpora.KINDS | tables.KINDS | settings.KINDS | own.KINDS
SLOW = {"roads": 20, "run": 5, "bundle": 3, "evaluation": 2, "cache": 2}  # kinds with a 20th, a 5th … of the inputs


def is_ours(error: Exception) -> bool:
    "An error for people: raised by the package on purpose, in one printable line."
    from hsenet.files import PlainError, printable
    message = str(error)
    if not message or len(message) > 2100 or message != printable(message, most=10**6): return False
    if isinstance(error, PlainError): return True
    if not isinstance(error, (ValueError, OSError, RuntimeError)): return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    in_package = str(ROOT / "hsenet") in last.filename
    return in_package and last.line.startswith("raise ")


def memory(key: str) -> float:
    "A line of /proc/self/status in GiB."
    lines = Path("/proc/self/status").read_text().splitlines()
    found = [line for line in lines if line.startswith(key)][0]
    return int(found.split()[1]) / 2**20


def one(kind: str, number: int, work: Path) -> dict:
    "The outcome of one input."
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
    held = memory("VmRSS")
    start = time.process_time()
    seconds = LONGER.get(kind, SECONDS)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of computing: other work on the machine doesn't count
    signal.alarm(6 * seconds)
    end = outcome(kind, number, work)
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    grown = memory("VmHWM") - held
    if grown > GIGABYTES: end = f"FAILED {grown:.2f} GB (then {end})"
    seconds = round(time.process_time() - start, 3)
    return {"number": number, "end": end, "seconds": seconds, "gb": round(grown, 3)}


def outcome(kind: str, number: int, work: Path) -> str:
    "`result`, one of our errors by name, or FAILED and why."
    rng = np.random.default_rng([zlib.crc32(kind.encode()), number])
    try:
        KINDS[kind](work, rng)
    except Exception as e:
        if is_ours(e): return type(e).__name__
        place = traceback.format_exc().splitlines()[-3].strip()
        return f"FAILED {type(e).__name__}: {str(e)[:200]} at {place}"
    return "result"


def worker(kind: str, first: int, n: int):
    "Inputs one after the other, a line for each; the alarm ends this process."
    import logging
    import torch
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(warm(kind, Path(work))), flush=True)
        for number in range(first, first + n):
            signal.alarm(0)
            print(json.dumps(one(kind, number, Path(work))), flush=True)


def warm(kind: str, work: Path, n: int = 8) -> dict:
    "Some inputs without limits, to make the good files and load what is loaded once; not counted."
    for number in range(10**6, 10**6 + n):
        try:
            KINDS[kind](work, np.random.default_rng(number))
        except Exception:
            continue
    return {"number": -1}


def run_kind(kind: str, first: int, n: int) -> list[dict]:
    "All inputs of a kind; a worker that died is started again after the input that killed it."
    rows = []
    stop = first + n
    while first < stop:
        command = [sys.executable, __file__, "--worker", kind]
        command += ["--first", str(first), "--n", str(stop - first)]
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        env = os.environ | threads | {"PYTHONPATH": str(ROOT)}
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT,
            stderr=subprocess.DEVNULL)
        new = [json.loads(line) for line in process.stdout.splitlines()]
        if not new: raise SystemExit(f"{kind}: the worker didn't start (status {process.returncode})")
        rows += new[1:]
        first = max(first, new[-1]["number"] + 1)
        if first < stop:
            late = process.returncode in (-signal.SIGALRM, -signal.SIGPROF)
            seconds = LONGER.get(kind, SECONDS)
            why = f"more than {seconds} s" if late else f"the process died ({process.returncode})"
            rows.append({"number": first, "end": f"FAILED {why}", "seconds": seconds, "gb": 0})
            first += 1
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="inputs of each kind")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--output", type=Path, default=ROOT / "outputs/fuzz")
    parser.add_argument("--worker", choices=list(KINDS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker: return worker(args.worker, args.first, args.n)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "fuzz.json"
    facts = json.loads(path.read_text()) if path.is_file() else {"kinds": {}}
    for kind in args.kinds:  # other kinds stay as they were measured
        rows = run_kind(kind, args.first, max(1, args.n // SLOW.get(kind, 1)))
        facts["kinds"][kind] = {"what": what(kind), **summary(rows), **circumstances()}
        facts["kinds"][kind]["failed"] = [row for row in rows if row["end"].startswith("FAILED")]
        print(kind, json.dumps(facts["kinds"][kind]["ends"]), flush=True)
        path.write_text(json.dumps(facts, indent=1) + "\n")
        (args.output / "fuzz.md").write_text(table(facts["kinds"]))
    failures = 0
    for kind in args.kinds:
        for failure in facts["kinds"][kind]["failed"]:
            print(f"{kind} {failure['number']}: {failure['end']}")
            failures += 1
    print(f"{failures} failed")
    return 1 if failures else 0


def circumstances() -> dict:
    "When, where and on which commit; with a + where files differ from it."
    asked = ["git", "describe", "--always", "--dirty=+"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": done.stdout.strip() or "unknown",
    }


def what(kind: str) -> str:
    "What of a kind is changed."
    return KINDS[kind].__doc__.splitlines()[0].rstrip(".")


def table(kinds: dict[str, dict]) -> str:
    "The results as Markdown, a row for each kind."
    lines = [
        "| kind | what is changed | n | result | refused | failed | slowest, s | most memory, GB | date, commit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, result in kinds.items():
        good = result["ends"].get("result", 0)
        failed = result["ends"].get("FAILED", 0)
        counts = f"{result['n']:,} | {good:,} | {result['n'] - good - failed:,} | {failed:,}"
        cost = f"{result['slowest_s']:.1f} | {result['most_gb']:.2f}"
        when = f"{result['date']}, {result['commit']}"
        lines.append(f"| `{kind}` | {result['what']} | {counts} | {cost} | {when} |")
    return "\n".join(lines) + "\n"


def summary(rows: list[dict]) -> dict:
    "How the inputs of one kind ended."
    ends = Counter("FAILED" if row["end"].startswith("FAILED") else row["end"] for row in rows)
    return {
        "n": len(rows),
        "ends": dict(ends),
        "slowest_s": max(row["seconds"] for row in rows),
        "most_gb": max(row["gb"] for row in rows),
    }


if __name__ == "__main__":
    sys.exit(main())
