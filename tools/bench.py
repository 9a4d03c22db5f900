"""Time the preprocessing of one large CT, and its memory: outputs/bench/preprocess.json and a chart.

    python tools/bench.py                 512 × 512 × 300, then 768² and 1024² × 800 (two files of 1 to 2 GB, unpacked), then 100 to 10,000 small cases
    python tools/bench.py --quick         the first only
    python tools/bench.py --search        exact search of 50,000 embeddings among 50,000, and its memory: outputs/bench/search.json

(a) decompress and read only, with zlib; (b) ours, both branches, without the 2D encoder; (c) the method's steps with the usual
tools: nibabel's float64, torch's trilinear, MONAI's crop and resize, a JPEG per slice. One run, each way in turn, medians.
Ours and (c) must give the same arrays, or the comparison stops.
"""
import argparse
import gzip
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from run import ROOT

OUTPUT, THREADS = ROOT / "outputs/bench", 1
WAYS = {"a": "decompress and read, zlib", "b": "ours, both branches", "b_jpeg": "ours, with JPEG in memory", "c": "plain steps, usual tools"}


# --- files ----------------------------------------------------------------------------------------------------------

def make_file(shape: tuple[int, int, int]) -> tuple[Path, tuple[float, ...]]:
    "A phantom of `shape` (z, x, y) as CT-RATE's first release has it, and its spacing; larger ones repeat voxels and draw new noise."
    import nibabel as nib

    from hsenet.phantoms.findings import draw
    from hsenet.phantoms.render import acquire, render
    path = OUTPUT / f"ct_{'x'.join(map(str, shape))}.nii.gz"
    times = max(1, shape[1] // 512)
    size = (min(shape[0], 300), shape[1] // times, shape[2] // times)
    someone = draw("valid_1_a", "subtle", 1)
    scanner = acquire(someone, size, seed=1)
    spacing = tuple(s * n / m for s, n, m in zip(scanner.spacing, size, shape))
    if path.is_file(): return path, spacing
    OUTPUT.mkdir(parents=True, exist_ok=True)
    hu, noise = np.rint(render(someone, scanner)).astype(np.int16), np.random.default_rng(0)
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).header
    header.set_data_shape((shape[1], shape[2], shape[0])); header["vox_offset"] = 352; header["magic"] = b"n+1"
    with gzip.open(path.with_suffix(".part"), "wb", compresslevel=1) as f:
        f.write(header.binaryblock + bytes(4))
        for z in range(shape[0]):
            plane = hu[z * size[0] // shape[0]].T.repeat(times, 0).repeat(times, 1)
            if times > 1 or shape[0] > size[0]: plane = plane + noise.integers(-10, 11, plane.shape, dtype=np.int16)
            f.write((plane + np.int16(1024)).tobytes())
    os.replace(path.with_suffix(".part"), path)
    return path, spacing


# --- ways -----------------------------------------------------------------------------------------------------------

def zlib_only(path: Path, spacing) -> int:
    with gzip.open(path) as f: return len(f.read())


def ours(path: Path, spacing, jpeg: bool = False):
    from hsenet.config import preset
    from hsenet.ct.planes import encode_ct
    from hsenet.ct.resample import jpeg_round_trip
    paper = preset("paper")
    volume, slices, _ = encode_ct(path, 1, -1024, spacing, None, paper.volume, paper.slices)
    return volume, jpeg_round_trip(slices) if jpeg else slices


def plain(path: Path, spacing):
    "The steps of the method, one after the other, each branch from the file."
    import nibabel as nib
    import torch
    from monai.transforms import CropForeground, Resize
    from PIL import Image

    def resampled(low, high):
        hu = np.clip(nib.load(path).get_fdata() * 1 - 1024, low, high).transpose(2, 0, 1)
        size = [int(n * s / t) for n, s, t in zip(hu.shape, spacing, (1.5, 0.75, 0.75))]
        return torch.nn.functional.interpolate(torch.tensor(hu, dtype=torch.float32)[None, None], size=size, mode="trilinear", align_corners=False)[0]

    volume = resampled(-1000, 200)
    volume = (volume - volume.min()) / (volume.max() - volume.min())
    volume = Resize((32, 256, 256), mode="trilinear")(CropForeground(allow_smaller=False)(volume))
    stack, slices = resampled(-1000, 1000)[0].numpy(), []
    for z in np.linspace(0, len(stack) - 1, 32).astype(int):
        plane = stack[z]
        picture = np.rot90(((plane - plane.min()) / (plane.max() - plane.min()) * 255).astype(np.uint8), -1)
        Image.fromarray(picture).save(buffer := io.BytesIO(), format="JPEG", quality=95)
        slices.append(np.asarray(Image.open(buffer)))
    return np.asarray(volume), np.stack(slices)


RUN = {"a": zlib_only, "b": ours, "b_jpeg": lambda p, s: ours(p, s, jpeg=True), "c": plain}


def peak_gb() -> float:
    "Largest resident memory of this process so far (Linux), in GiB; that of its parent, which getrusage would count, is left out."
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) / 2**20


def worker(way: str, path: Path, spacing: tuple[float, ...]):
    "A process of its own: one run for each line on stdin; answers seconds and peak memory."
    import torch
    torch.set_num_threads(THREADS)
    for _ in sys.stdin:
        start = time.perf_counter()
        RUN[way](path, spacing)
        print(json.dumps({"seconds": time.perf_counter() - start, "peak_gb": peak_gb()}), flush=True)


# --- measuring ------------------------------------------------------------------------------------------------------

def measure(shape: tuple[int, int, int], ways: list[str], repeats: int) -> dict:
    "Medians of `repeats` runs of each way, in turn; one warm-up run of each is not counted."
    path, spacing = make_file(shape)
    command = [sys.executable, __file__, "--spacing", *map(str, spacing), "--file", str(path), "--worker"]
    env = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
    processes = {w: subprocess.Popen([*command, w], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT / "tools") for w in ways}
    rows = {w: [] for w in ways}
    for i in range(repeats + 1):
        for w, p in processes.items():
            p.stdin.write("go\n"); p.stdin.flush()
            row = json.loads(p.stdout.readline())
            if i: rows[w].append(row)
    for p in processes.values(): p.stdin.close(); p.wait()
    out = {w: {"what": WAYS[w], "median_s": statistics.median(r["seconds"] for r in rs), "seconds": [round(r["seconds"], 3) for r in rs], "peak_gb": round(max(r["peak_gb"] for r in rs), 2)} for w, rs in rows.items()}
    return {"shape": shape, "file_mb": round(path.stat().st_size / 1e6), "unpacked_mb": round(2 * np.prod(shape) / 1e6), "n": repeats, **out}


def check_same(shape: tuple[int, int, int]) -> dict:
    "Largest differences of ours from the plain steps; stops where they aren't the same work."
    path, spacing = make_file(shape)
    (a, b), (c, d) = ours(path, spacing, jpeg=True), plain(path, spacing)
    found = {"volume": float(np.abs(a - c).max()), "slices_share_changed": float((b != d).mean())}
    if found["volume"] > 1e-5 or found["slices_share_changed"] > 1e-3: raise SystemExit(f"not the same result: {found}")
    return found


def scale(numbers: tuple[int, ...] = (100, 1000, 10_000), repeats: int = 3) -> dict:
    "Milliseconds per case of a whole job on small phantoms in one process, and of the same job again with nothing left to do; medians."
    import logging

    import pandas as pd
    from hsenet.config import preset
    from hsenet.corpora.layouts import read_corpus
    from hsenet.phantoms.corpus import write_corpus
    from hsenet.cache.preprocess import preprocess
    logging.disable(logging.WARNING)
    config, rows = preset("mini", **{"phantom.n_train": 90, "phantom.n_valid": 0, "phantom.second_reconstruction": 0.0}), {n: [] for n in numbers}
    with tempfile.TemporaryDirectory() as folder:
        some = read_corpus(write_corpus(Path(folder) / "corpus", config.phantom, workers=1, progress=False))
        for _ in range(repeats):
            for n in numbers:
                copies = [some.assign(case=some.case + f"_{i}") for i in range(-(-n // len(some)))]
                cases, cache = pd.concat(copies, ignore_index=True)[:n], Path(folder) / "cache"
                first, again = (preprocess(cases, config, cache, workers=0, progress=False) for _ in range(2))
                assert (first.made, again.reused) == (n, n), "not the same work"
                rows[n].append((1000 * first.seconds / n, 1000 * again.seconds / n))
                shutil.rmtree(cache)
    return {str(n): {"n": repeats, "first_ms": round(statistics.median(a for a, _ in r), 2), "again_ms": round(statistics.median(b for _, b in r), 3)} for n, r in rows.items()}


def chart(results: list[dict], path: Path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    first = results[0]
    ways = [w for w in WAYS if w in first]
    fig, ax = plt.subplots(figsize=(6, 2.2), dpi=100, layout="constrained")
    ax.barh([WAYS[w] for w in ways], [first[w]["median_s"] for w in ways], color=["#999999", "#1f77b4", "#6baed6", "#d62728"][:len(ways)])
    for y, w in enumerate(ways): ax.text(first[w]["median_s"], y, f"  {first[w]['median_s']:.2f} s, {first[w]['peak_gb']:.1f} GB", va="center", fontsize=8)
    ax.invert_yaxis(); ax.margins(x=0.25); ax.set(xlabel=f"seconds per CT of {' × '.join(map(str, first['shape'][::-1]))}, one core, median of {first['n']}")
    fig.savefig(path)


def search() -> list[dict]:
    "The search of `metrics.retrieval`, each way in a process of its own."
    rows = []
    for settings in ({"precision": "float32"}, {"precision": "float64"}, {"what": "recall"}):
        call = f"import json; from hsenet.metrics.retrieval import benchmark_search; print(json.dumps(benchmark_search(**{settings!r})))"
        rows.append(json.loads(subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True).stdout) | {"load_before": os.getloadavg()[0]})
        print(rows[-1], flush=True)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    facts = {"date": time.strftime("%Y-%m-%d %H:%M"), "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "results": rows}
    (OUTPUT / "search.json").write_text(json.dumps(facts, indent=1) + "\n")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    for name, kind in (("worker", str), ("file", Path)): parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--spacing", type=float, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.search:
        search()
        return
    if args.worker: return worker(args.worker, args.file, tuple(args.spacing))
    same = check_same((300, 512, 512))
    results = [measure((300, 512, 512), ["a", "b", "b_jpeg", "c"], args.repeats)]
    if not args.quick: results += [measure(shape, ["a", "b"], args.repeats) for shape in ((800, 768, 768), (800, 1024, 1024))]
    for r in results: r["b_by_a"] = round(r["b"]["median_s"] / r["a"]["median_s"], 3)
    results[0]["c_by_b"] = round(results[0]["c"]["median_s"] / results[0]["b"]["median_s"], 1)
    results[0]["c_by_b_jpeg"] = round(results[0]["c"]["median_s"] / results[0]["b_jpeg"]["median_s"], 1)
    facts = {"date": time.strftime("%Y-%m-%d %H:%M"), "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {THREADS} used", "same_result": same, "results": results} | ({} if args.quick else {"ms_per_small_case": scale()})
    (OUTPUT / "preprocess.json").write_text(json.dumps(facts, indent=1) + "\n")
    chart(results, OUTPUT / "preprocess.png")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__": main()
