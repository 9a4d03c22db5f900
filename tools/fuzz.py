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


def files_below(root: Path, *suffixes: str) -> list[Path]:
    "Files of some kinds below a folder, in a fixed order."
    return sorted(p for p in root.rglob("*") if p.is_file() and p.suffix in suffixes)


def one_of(things: list, rng): return things[rng.integers(len(things))]


def tables(work: Path, rng):
    "Tables of CT-RATE and RadGenome-ChestCT."
    from hsenet.cache.preprocess import check_cases
    from hsenet.corpora.ct_rate import read_ct_rate
    from hsenet.corpora.radgenome import read_questions
    root = corpus(work)

    def read():
        check_cases(read_ct_rate(root))
        for split in ("train", "validation"):
            read_questions(root, split)

    changed(one_of(files_below(root, ".csv", ".txt"), rng), rng, read)


def jsons(work: Path, rng):
    "What a cache says of itself, and question templates."
    from hsenet.cache.datasets import CLIPDataset
    from hsenet.cache.manifest import open_cache
    from hsenet.cache.preprocess import preprocess_corpus, read_journal
    from hsenet.config import preset
    from hsenet.corpora.radgenome import read_templates
    from hsenet.files import read_lines
    root = corpus(work)
    cache = work / "cache"
    config = preset("mini")
    if not cache.is_dir(): preprocess_corpus(root, config, cache, workers=0, progress=False)

    def read():
        open_cache(cache, config)
        read_journal(cache)
        read_templates(root)
        read_lines(cache / "manifest.jsonl")
        CLIPDataset(cache, "train")[0]

    paths = [cache / name for name in ("manifest.jsonl", "journal.jsonl", "preprocess.yaml")]
    changed(one_of([*paths, *files_below(root, ".json")], rng), rng, read)


def zips(work: Path, rng):
    "An archive."
    from hsenet.corpora.archives import unpack
    good = work / "good.zip"
    if not good.is_file():
        with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(3):
                archive.writestr(f"CT{i}/ct/a{i}.txt", "some text " * 50 * i)
    as_text = rng.random() < 0.3
    (work / "a.zip").write_bytes(mutate(good.read_bytes(), rng, as_text, head=200))
    try:
        unpack(work / "a.zip", work / "unpacked" / "here", most=1)
    finally:
        shutil.rmtree(work / "unpacked", ignore_errors=True)
    outside = {p.name for p in work.iterdir()} - {"good.zip", "a.zip"}
    if outside: raise AssertionError(f"unpacked outside of its folder: {outside}")


def examples(work: Path) -> dict[str, Path]:
    "Phantoms in every layout but archives."
    from hsenet.phantoms.layouts import EXAMPLES, write_example
    roots = {name: work / name for name in EXAMPLES if name != "bimcv_original"}
    for name, root in roots.items():
        if not root.is_dir(): write_example(root, name, few_phantoms(), workers=1, progress=False)
    return roots


def split_file(work: Path, root: Path) -> Path:
    "A split of a corpus as a table: every second case for training."
    from hsenet.corpora.layouts import read_corpus
    path = work / "split.csv"
    if not path.is_file():
        lines = ["case,split"]
        for i, case in enumerate(read_corpus(root).case):
            lines.append(f"{case},{'train' if i % 2 else 'valid'}")
        path.write_text("\n".join(lines) + "\n")
    return path


def layouts(work: Path, rng):
    "Tables, manifests and split files of corpora other than CT-RATE."
    from hsenet.cache.preprocess import check_cases
    from hsenet.corpora.layouts import read_corpus, read_corpus_questions
    roots = examples(work)
    split = split_file(work, roots["bimcv"])
    name = one_of(["bimcv", "folder", "dicom", "released", "radgenome"], rng)
    root = roots[name]
    paths = files_below(root, ".csv", ".json")
    options = {}
    if name == "bimcv":
        paths.append(split)
        options["split"] = one_of([split, "rows", "patient"], rng)

    def read():
        cases = read_corpus(root, **options)
        check_cases(cases)
        read_corpus_questions(root)
        for path in cases.path:
            if not Path(path).resolve().is_relative_to(work.resolve()):
                raise AssertionError(f"reads outside of the corpus: {path}")

    changed(one_of(paths, rng), rng, read)


def checks(work: Path, rng):
    "Any file of any layout changed: the check says so, or sees nothing, and goes on to the end."
    from hsenet.corpora.check import check_corpus
    root = one_of(list(examples(work).values()), rng)
    texts = [p for p in files_below(root, ".csv", ".json", ".txt") if p.name != "phantom.json"]
    volumes = files_below(root, ".gz", ".dcm")
    path = one_of(texts if rng.random() < 0.7 else [*texts, *volumes], rng)
    changed(path, rng, lambda: str(check_corpus(root, sample=2)))


KINDS = {
    "nifti": nifti,
    "gzip": gz,
    "dicom": dicom,
    "csv": tables,
    "json": jsons,
    "zip": zips,
    "layouts": layouts,
    "check": checks,
}


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
    lines = Path("/proc/self/status").read_text().splitlines()
    found = [line for line in lines if line.startswith(key)][0]
    return int(found.split()[1]) / 2**20


def one(kind: str, number: int, work: Path, errors: tuple[type, ...]) -> dict:
    "The outcome of one input."
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
    held = memory("VmRSS")
    start = time.perf_counter()
    signal.alarm(SECONDS)
    end = outcome(kind, number, work, errors)
    signal.alarm(0)
    grown = memory("VmHWM") - held
    if grown > GIGABYTES: end = f"FAILED {grown:.2f} GB (then {end})"
    seconds = round(time.perf_counter() - start, 3)
    return {"number": number, "end": end, "seconds": seconds, "gb": round(grown, 3)}


def outcome(kind: str, number: int, work: Path, errors: tuple[type, ...]) -> str:
    "`result`, one of our errors by name, or FAILED and why."
    rng = np.random.default_rng([zlib.crc32(kind.encode()), number])
    try:
        KINDS[kind](work, rng)
    except errors as e:
        return type(e).__name__
    except FileNotFoundError as e:
        return "FileNotFoundError" if "expected" in str(e) else f"FAILED {e!r}"
    except Exception as e:
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
    errors = ours()
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(warm(kind, Path(work), errors)), flush=True)
        for number in range(first, first + n):
            signal.alarm(0)
            print(json.dumps(one(kind, number, Path(work), errors)), flush=True)


def warm(kind: str, work: Path, errors: tuple[type, ...]) -> dict:
    "Some inputs without limits, to make the good files and load what is loaded once; not counted."
    for number in range(10**6, 10**6 + 8):
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
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)
        new = [json.loads(line) for line in process.stdout.splitlines()]
        if not new: raise SystemExit(f"{kind}: the worker didn't start (status {process.returncode})")
        rows += new[1:]
        first = max(first, new[-1]["number"] + 1)
        if first < stop:
            late = process.returncode == -signal.SIGALRM
            why = f"more than {SECONDS} s" if late else f"the process died ({process.returncode})"
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
    results = {}
    failures = []
    for kind in args.kinds:
        rows = run_kind(kind, args.first, args.n)
        failures += [{"kind": kind, **row} for row in rows if row["end"].startswith("FAILED")]
        results[kind] = summary(rows)
        print(kind, json.dumps(results[kind]), flush=True)
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "n": sum(result["n"] for result in results.values()),
        "kinds": results,
        "failed": failures,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "fuzz.json").write_text(json.dumps(facts, indent=1) + "\n")
    for failure in failures[:20]:
        print(f"{failure['kind']} {failure['number']}: {failure['end']}")
    print(f"{facts['n']:,} inputs, {len(failures)} failed")
    return 1 if failures else 0


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
