"""Feed damaged and hostile files to everything that reads files: outputs/fuzz/fuzz.json.

    python tools/fuzz.py                    16,000 inputs, 2,000 of each kind
    python tools/fuzz.py --n 10             10 of each kind
    python tools/fuzz.py --kinds dicom --first 1234 --n 1     one again

Each input is a good file changed by a random generator seeded with its kind and number. It must end in a result or one of our own
errors, within 10 s and 1 GB beyond what the process holds before. Anything else is listed with its number, and the exit status is 1.
"""
import argparse
import gzip
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10
GIGABYTES = 1.0


# --- mutations ------------------------------------------------------------------------------------------------------

EXTREMES = [
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff",
    b"\xff\x7f",
    b"\x00\x80",
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\x00" * 8,
    b"\x00\x00\xc0\x7f",  # NaN
    b"\x00\x00\x80\x7f",  # infinity
    b"\xff" * 8,
]
NUMBERS = ["nan", "-inf", "1e999", "-1", "0", "99999999999999999999", "[0.7]", "null", "true"]
PATHS = ["../../etc/passwd", "/etc/passwd"]
MARKS = ['"', "'", "[", "{", "}", "\\", "\x00", "\ufeff", "[[[[", ",", ",,,,", "\n", "\r", "é", "\ud7ff", "{x}"]
WORDS = [*NUMBERS, *PATHS, *MARKS, "A" * 5000, "[" * 5000]


def mutate(data: bytes, rng: np.random.Generator, text: bool, head: int = 600) -> bytes:
    "One to four random changes; half of them near the start, where headers are."
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        size = len(data)
        near_start = rng.random() < 0.5
        last = min(size, head) if near_start else size
        at = int(rng.integers(0, max(1, last)))
        to = at + int(rng.geometric(0.05))
        words = [word.encode() for word in WORDS] if text else EXTREMES
        word = words[rng.integers(len(words))]
        match rng.integers(7):
            case 0: data[at : at + 1] = bytes([(data[at] if size else 0) ^ 1 << int(rng.integers(8))])
            case 1: data[at : at + len(word)] = word
            case 2: data[at:at] = word
            case 3: del data[at:to]
            case 4: data[at:at] = data[at:to] * int(rng.integers(1, 20))
            case 5: data[at:to] = rng.bytes(to - at)
            case 6: del data[int(rng.integers(at, size + 1)) :]
    return bytes(data)


# --- kinds: write good files once, then change one and read -----------------------------------------------------------

def body() -> np.ndarray:
    "A small chest, (z, x, y) HU."
    axes = [np.linspace(-1, 1, n) for n in (6, 20, 18)]
    z, x, y = np.meshgrid(*axes, indexing="ij")
    hu = np.full(z.shape, -1000, np.int16)
    hu[x**2 + y**2 < 0.8] = 40
    hu[(x - 0.3) ** 2 + y**2 < 0.1] = -800
    noise = np.random.default_rng(0).integers(-9, 10, z.shape)
    return hu + noise.astype(np.int16)


def good_nifti(path: Path) -> Path:
    "The small chest as a file; written once."
    import nibabel as nib
    if not path.is_file():
        affine = np.diag([-15.0, -15, 30, 1])
        nib.save(nib.Nifti1Image(body().transpose(1, 2, 0), affine), path)
    return path


def plane_by_plane(path: Path, given: tuple):
    "The same, as a large file is read; whether it ends in an error too is asked of the reading that comes after."
    from hsenet.config import SliceConfig, VolumeConfig
    from hsenet.ct.planes import encode_ct
    from hsenet.ct.volume import VolumeError
    volume = VolumeConfig(size=(4, 16, 16), spacing=(30.0, 15.0, 15.0))
    facts = given or (None, None, None)
    try:
        encode_ct(path, *facts, None, volume, SliceConfig(n=4), large=0)
    except VolumeError:
        pass


def use_ct(path: Path, *given):
    "All that preprocessing does with a CT."
    from hsenet.ct.read import read_ct
    from hsenet.ct.resample import axial_slices, encoder_volume
    if Path(path).is_file(): plane_by_plane(path, given)
    ct = read_ct(path, *given)
    encoder_volume(ct, (4, 16, 16), spacing=None)
    axial_slices(ct, 4, spacing=None)
    encoder_volume(ct, (4, 16, 16))


def nifti(work: Path, rng, name: str = "a.nii"):
    good = good_nifti(work / "good.nii")
    data = mutate(good.read_bytes(), rng, False, head=360)
    path = work / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
    tables = [(), (1, -1024, (30, 15, 15)), (1, 0, (30, 15, 15))]  # slope, intercept, spacing, if any
    use_ct(path, *tables[rng.integers(3)])


def gz(work: Path, rng):
    "Half: damaged compressed data; half: damaged headers, compressed well."
    if rng.random() < 0.5: return nifti(work, rng, "a.nii.gz")
    good = good_nifti(work / "good.nii.gz")
    path = work / "b.nii.gz"
    path.write_bytes(mutate(good.read_bytes(), rng, False, head=40))
    use_ct(path)


def dicom(work: Path, rng):
    "One file of three changed; some series are run-length encoded."
    from hsenet.ct.dicom import write_series
    series = work / ("rle" if rng.random() < 0.3 else "plain")
    if not series.is_dir():
        import pydicom
        for path in write_series(series, body()[1:4], (30, 15, 15)):
            ds = pydicom.dcmread(path)
            if series.name == "rle":
                ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
            ds.save_as(path)
    path = sorted(series.iterdir())[rng.integers(3)]
    good = path.read_bytes()
    path.write_bytes(mutate(good, rng, False, head=1400))
    try:
        use_ct(series)
    finally:
        path.write_bytes(good)


def corpus(work: Path) -> Path:
    "A CT-RATE corpus of phantoms."
    from hsenet.phantoms.corpus import write_corpus
    root = work / "corpus"
    if not root.is_dir(): write_corpus(root, few_phantoms(), workers=1, progress=False)
    return root


def few_phantoms():
    from hsenet.config import preset
    return preset("mini", **{"phantom.n_train": 3, "phantom.n_valid": 2}).phantom


def changed(path: Path, rng, read):
    "Change a text file, `read()`, restore it."
    good = path.read_bytes()
    path.write_bytes(mutate(good, rng, True, head=200))
    try:
        return read()
    finally:
        path.write_bytes(good)


def tables(work: Path, rng):
    from hsenet.corpora.ct_rate import read_ct_rate
    from hsenet.corpora.radgenome import read_questions
    from hsenet.cache.preprocess import check_cases
    root = corpus(work)
    paths = sorted(p for p in root.rglob("*") if p.suffix in (".csv", ".txt"))
    def read():
        check_cases(read_ct_rate(root))
        for split in ("train", "validation"): read_questions(root, split)
    changed(paths[rng.integers(len(paths))], rng, read)


def jsons(work: Path, rng):
    from hsenet.config import preset
    from hsenet.corpora.radgenome import read_templates
    from hsenet.cache.datasets import CLIPDataset
    from hsenet.cache.manifest import open_cache
    from hsenet.cache.preprocess import preprocess_corpus, read_journal
    from hsenet.files import read_lines
    root, config = corpus(work), preset("mini")
    if not (work / "cache").is_dir(): preprocess_corpus(root, config, work / "cache", workers=0, progress=False)
    paths = [*(work / "cache" / n for n in ("manifest.jsonl", "journal.jsonl", "preprocess.yaml")), *sorted(root.rglob("*.json"))]
    def read():
        open_cache(work / "cache", config), read_journal(work / "cache"), read_templates(root), read_lines(work / "cache/manifest.jsonl")
        CLIPDataset(work / "cache", "train")[0]
    changed(paths[rng.integers(len(paths))], rng, read)


def zips(work: Path, rng):
    from hsenet.corpora.archives import unpack
    good = work / "good.zip"
    if not good.is_file():
        with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as z:
            for i in range(3): z.writestr(f"CT{i}/ct/a{i}.txt", "some text " * 50 * i)
    (work / "a.zip").write_bytes(mutate(good.read_bytes(), rng, rng.random() < 0.3, head=200))
    try: unpack(work / "a.zip", work / "unpacked" / "here", most=1)
    finally: shutil.rmtree(work / "unpacked", ignore_errors=True)
    outside = {p.name for p in work.iterdir()} - {"good.zip", "a.zip"}
    if outside: raise AssertionError(f"unpacked outside of its folder: {outside}")


def examples(work: Path) -> dict[str, Path]:
    "Phantoms in every layout but archives."
    from hsenet.config import preset
    from hsenet.phantoms.layouts import EXAMPLES, write_example
    phantom = preset("mini", **{"phantom.n_train": 3, "phantom.n_valid": 2}).phantom
    names = [n for n in EXAMPLES if n != "bimcv_original"]
    return {n: work / n if (work / n).is_dir() else write_example(work / n, n, phantom, workers=1, progress=False) for n in names}


def layouts(work: Path, rng):
    "Tables, manifests and split files of corpora other than CT-RATE."
    from hsenet.corpora.layouts import read_corpus, read_corpus_questions
    from hsenet.cache.preprocess import check_cases
    roots, split = examples(work), work / "split.csv"
    if not split.is_file(): split.write_text("case,split\n" + "".join(f"{c},{'train' if i % 2 else 'valid'}\n" for i, c in enumerate(read_corpus(roots["bimcv"]).case)))
    name = ["bimcv", "folder", "dicom", "released", "radgenome"][rng.integers(5)]
    paths = sorted(p for p in roots[name].rglob("*") if p.suffix in (".csv", ".json")) + [split] * (name == "bimcv")
    how = {"split": [split, "rows", "patient"][rng.integers(3)]} if name == "bimcv" else {}
    def read():
        cases = read_corpus(roots[name], **how)
        check_cases(cases), read_corpus_questions(roots[name])
        if outside := [p for p in cases.path if not Path(p).resolve().is_relative_to(work.resolve())]: raise AssertionError(f"reads outside of the corpus: {outside[0]}")
    changed(paths[rng.integers(len(paths))], rng, read)


def checks(work: Path, rng):
    "Any file of any layout changed: the check says so, or sees nothing, and goes on to the end."
    from hsenet.corpora.check import check_corpus
    roots = examples(work)
    root = roots[list(roots)[rng.integers(len(roots))]]
    paths = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix in (".csv", ".json", ".txt", ".gz", ".dcm") and p.name != "phantom.json")
    texts = [p for p in paths if p.suffix in (".csv", ".json", ".txt")]
    path = texts[rng.integers(len(texts))] if rng.random() < 0.7 else paths[rng.integers(len(paths))]
    changed(path, rng, lambda: str(check_corpus(root, sample=2)))


KINDS = {"nifti": nifti, "gzip": gz, "dicom": dicom, "csv": tables, "json": jsons, "zip": zips, "layouts": layouts, "check": checks}


# --- running --------------------------------------------------------------------------------------------------------

def ours() -> tuple[type, ...]:
    "The errors that may come."
    from hsenet.corpora.archives import ArchiveError
    from hsenet.corpora.table import CorpusError
    from hsenet.cache.manifest import DatasetError, PreprocessError
    from hsenet.ct.volume import VolumeError
    from hsenet.files import FileError
    return ArchiveError, CorpusError, DatasetError, FileError, PreprocessError, VolumeError


def memory(key: str) -> float:
    "A line of /proc/self/status in GiB."
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)) / 2**20


def one(kind: str, number: int, work: Path, errors: tuple[type, ...]) -> dict:
    "The outcome of one input."
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
    held, start = memory("VmRSS"), time.perf_counter()
    signal.alarm(SECONDS)
    try: KINDS[kind](work, np.random.default_rng([zlib.crc32(kind.encode()), number])); end = "result"
    except errors as e: end = type(e).__name__
    except FileNotFoundError as e: end = "FileNotFoundError" if "expected" in str(e) else f"FAILED {e!r}"
    except Exception as e: end = f"FAILED {type(e).__name__}: {str(e)[:200]} at {traceback.format_exc().splitlines()[-3].strip()}"
    signal.alarm(0)
    grown = memory("VmHWM") - held
    if grown > GIGABYTES: end = f"FAILED {grown:.2f} GB (then {end})"
    return {"number": number, "end": end, "seconds": round(time.perf_counter() - start, 3), "gb": round(grown, 3)}


def worker(kind: str, first: int, n: int):
    "Inputs one after the other, a line for each; the alarm ends this process."
    import logging
    import torch
    torch.set_num_threads(1), logging.disable(logging.CRITICAL), warnings.simplefilter("ignore")
    errors = ours()
    with tempfile.TemporaryDirectory() as work:
        for number in [-1, *range(first, first + n)]:  # -1: to make the good files and load what is loaded once, not counted
            signal.alarm(0)
            row = one(kind, number, Path(work), errors) if number >= 0 else warm(kind, Path(work), errors)
            print(json.dumps(row), flush=True)


def warm(kind: str, work: Path, errors: tuple[type, ...]) -> dict:
    "Some inputs without limits."
    for number in range(10**6, 10**6 + 8):
        try: KINDS[kind](work, np.random.default_rng(number))
        except Exception: continue
    return {"number": -1}


def run_kind(kind: str, first: int, n: int) -> list[dict]:
    "All inputs of a kind; a worker that died is started again after the input that killed it."
    rows, stop = [], first + n
    while first < stop:
        command = [sys.executable, __file__, "--worker", kind, "--first", str(first), "--n", str(stop - first)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)
        new = [json.loads(line) for line in process.stdout.splitlines()]
        if not new: raise SystemExit(f"{kind}: the worker didn't start (status {process.returncode})")
        rows += new[1:]
        first = max(first, new[-1]["number"] + 1)
        if first < stop:
            why = f"more than {SECONDS} s" if process.returncode == -signal.SIGALRM else f"the process died ({process.returncode})"
            rows.append({"number": first, "end": f"FAILED {why}", "seconds": SECONDS, "gb": 0})
            first += 1
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000, help="inputs of each kind")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--output", type=Path, default=ROOT / "outputs/fuzz")
    parser.add_argument("--worker", choices=list(KINDS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker: return worker(args.worker, args.first, args.n)
    results, bad = {}, []
    for kind in args.kinds:
        rows = run_kind(kind, args.first, args.n)
        bad += [{"kind": kind, **r} for r in rows if r["end"].startswith("FAILED")]
        ends = Counter("FAILED" if r["end"].startswith("FAILED") else r["end"] for r in rows)
        results[kind] = {"n": len(rows), "ends": dict(ends), "slowest_s": max(r["seconds"] for r in rows), "most_gb": max(r["gb"] for r in rows)}
        print(kind, json.dumps(results[kind]), flush=True)
    facts = {"date": time.strftime("%Y-%m-%d %H:%M"), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "n": sum(r["n"] for r in results.values()), "kinds": results, "failed": bad}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "fuzz.json").write_text(json.dumps(facts, indent=1) + "\n")
    for b in bad[:20]: print(f"{b['kind']} {b['number']}: {b['end']}")
    print(f"{facts['n']:,} inputs, {len(bad)} failed")
    return 1 if bad else 0


if __name__ == "__main__": sys.exit(main())
