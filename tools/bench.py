"""Time the preprocessing of one large CT, and its memory: outputs/bench/preprocess.json and a chart.

    python tools/bench.py                 512 × 512 × 300, then 768² and 1024² × 800 (two files of 1 to 2 GB, unpacked), then 100 to 10,000 small cases
    python tools/bench.py --quick         the first only
    python tools/bench.py --search        exact search of 50,000 embeddings among 50,000, and its memory: outputs/bench/search.json
    python tools/bench.py --loader        the loader alone, 32 × 256 × 256 from a warm cache, a step that does nothing: outputs/bench/loader.json
    python tools/bench.py --vit           three ViT blocks at 2,049 tokens, forward and backward, beside explicit attention: outputs/bench/vit.json
    python tools/bench.py --loop          the loop's own work between two steps, beside a step: outputs/bench/loop.json

Rows with a demand say it (`wanted`), what was found, and whether that is enough (`met`). Set OMP_NUM_THREADS=1 for one core, on a quiet machine.

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

OUTPUT = ROOT / "outputs/bench"
THREADS = 1
LOADER_WANTED = 150  # samples a second of two cores, 32 × 256 × 256 from a warm cache
WAYS = {
    "a": "decompress and read, zlib",
    "b": "ours, both branches",
    "b_jpeg": "ours, with JPEG in memory",
    "c": "plain steps, usual tools",
}
COLOURS = {"a": "#999999", "b": "#1f77b4", "b_jpeg": "#6baed6", "c": "#d62728"}


# --- files ----------------------------------------------------------------------------------------------------------

def make_file(shape: tuple[int, int, int]) -> tuple[Path, tuple[float, ...]]:
    "A phantom of `shape` (z, x, y) as CT-RATE's first release has it, and its spacing; larger ones repeat voxels and draw new noise."
    from hsenet.phantoms.findings import draw
    from hsenet.phantoms.render import acquire, render
    path = OUTPUT / f"ct_{'x'.join(map(str, shape))}.nii.gz"
    times = max(1, shape[1] // 512)
    size = (min(shape[0], 300), shape[1] // times, shape[2] // times)
    phantom = draw("valid_1_a", "subtle", 1)
    scanner = acquire(phantom, size, seed=1)
    spacing = tuple(s * n / m for s, n, m in zip(scanner.spacing, size, shape))
    if path.is_file(): return path, spacing
    OUTPUT.mkdir(parents=True, exist_ok=True)
    hu = np.rint(render(phantom, scanner)).astype(np.int16)
    noise = np.random.default_rng(0)
    part = path.with_suffix(".part")
    with gzip.open(part, "wb", compresslevel=1) as file:
        file.write(header_bytes(shape))
        for z in range(shape[0]):
            plane = hu[z * size[0] // shape[0]].T.repeat(times, 0).repeat(times, 1)
            if times > 1 or shape[0] > size[0]:
                plane = plane + noise.integers(-10, 11, plane.shape, dtype=np.int16)
            file.write((plane + np.int16(1024)).tobytes())
    os.replace(part, path)
    return path, spacing


def header_bytes(shape: tuple[int, int, int]) -> bytes:
    "A NIfTI-1 header for int16 voxels of `shape` (z, x, y) in the same file, and its four empty extension bytes."
    import nibabel as nib
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).header
    header.set_data_shape((shape[1], shape[2], shape[0]))
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header.binaryblock + bytes(4)


# --- ways -----------------------------------------------------------------------------------------------------------

def zlib_only(path: Path, spacing) -> int:
    with gzip.open(path) as file:
        return len(file.read())


def ours(path: Path, spacing, jpeg: bool = False):
    from hsenet.config import preset
    from hsenet.ct.planes import encode_ct
    from hsenet.ct.resample import jpeg_round_trip
    from hsenet.ct.volume import Given
    paper = preset("paper")
    volume, slices, _ = encode_ct(path, Given(1, -1024, spacing), paper.volume, paper.slices)
    return volume, jpeg_round_trip(slices) if jpeg else slices


def plain(path: Path, spacing):
    "The steps of the method, one after the other, each branch from the file."
    import nibabel as nib
    import torch
    from monai.transforms import CropForeground, Resize
    from PIL import Image

    def resampled(low: float, high: float) -> torch.Tensor:
        hu = np.clip(nib.load(path).get_fdata() * 1 - 1024, low, high).transpose(2, 0, 1)
        size = [int(n * s / t) for n, s, t in zip(hu.shape, spacing, (1.5, 0.75, 0.75))]
        voxels = torch.tensor(hu, dtype=torch.float32)[None, None]
        return torch.nn.functional.interpolate(voxels, size=size, mode="trilinear", align_corners=False)[0]

    volume = resampled(-1000, 200)
    volume = (volume - volume.min()) / (volume.max() - volume.min())
    cropped = CropForeground(allow_smaller=False)(volume)
    volume = Resize((32, 256, 256), mode="trilinear")(cropped)
    stack = resampled(-1000, 1000)[0].numpy()
    slices = []
    for z in np.linspace(0, len(stack) - 1, 32).astype(int):
        plane = stack[z]
        levels = (plane - plane.min()) / (plane.max() - plane.min()) * 255
        image = np.rot90(levels.astype(np.uint8), -1)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
        slices.append(np.asarray(Image.open(buffer)))
    return np.asarray(volume), np.stack(slices)


def ours_with_jpeg(path: Path, spacing): return ours(path, spacing, jpeg=True)


RUN = {"a": zlib_only, "b": ours, "b_jpeg": ours_with_jpeg, "c": plain}


def peak_gb() -> float:
    "Largest resident memory of this process so far (Linux), in GiB; that of its parent, which getrusage would count, is left out."
    lines = Path("/proc/self/status").read_text().splitlines()
    highest = [line for line in lines if line.startswith("VmHWM")][0]
    return int(highest.split()[1]) / 2**20


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
    processes = {way: start_worker(way, path, spacing) for way in ways}
    rows = {way: [] for way in ways}
    for i in range(repeats + 1):
        for way, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            row = json.loads(process.stdout.readline())
            if i > 0: rows[way].append(row)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    megabytes = {"file_mb": round(path.stat().st_size / 1e6), "unpacked_mb": round(2 * np.prod(shape) / 1e6)}
    summaries = {way: summary(way, rows[way]) for way in ways}
    return {"shape": shape, **megabytes, "n": repeats, **summaries}


def start_worker(way: str, path: Path, spacing: tuple[float, ...]) -> subprocess.Popen:
    command = [sys.executable, __file__, "--spacing", *map(str, spacing), "--file", str(path), "--worker", way]
    env = os.environ | {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env, cwd=ROOT / "tools")


def summary(way: str, rows: list[dict]) -> dict:
    seconds = [row["seconds"] for row in rows]
    return {
        "what": WAYS[way],
        "median_s": statistics.median(seconds),
        "seconds": [round(s, 3) for s in seconds],
        "peak_gb": round(max(row["peak_gb"] for row in rows), 2),
    }


def check_same(shape: tuple[int, int, int]) -> dict:
    "Largest differences of ours from the plain steps; stops where they aren't the same work."
    path, spacing = make_file(shape)
    our_volume, our_slices = ours(path, spacing, jpeg=True)
    volume, slices = plain(path, spacing)
    found = {
        "volume": float(np.abs(our_volume - volume).max()),
        "slices_share_changed": float((our_slices != slices).mean()),
    }
    if found["volume"] > 1e-5 or found["slices_share_changed"] > 1e-3:
        raise SystemExit(f"not the same result: {found}")
    return found


def scale(numbers: tuple[int, ...] = (100, 1000, 10_000), repeats: int = 3) -> dict:
    "Milliseconds per case of a whole job on small phantoms in one process, and of the same job again with nothing left to do; medians."
    import logging

    from hsenet.config import preset
    from hsenet.corpora.layouts import read_corpus
    from hsenet.phantoms.corpus import write_corpus
    logging.disable(logging.WARNING)
    sizes = {"phantom.n_train": 90, "phantom.n_valid": 0, "phantom.second_reconstruction": 0.0}
    config = preset("mini", **sizes)
    first = {n: [] for n in numbers}
    second = {n: [] for n in numbers}
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder) / "corpus", config.phantom, workers=1, progress=False)
        cases = read_corpus(corpus)
        for _ in range(repeats):
            for n in numbers:
                made, reused = job_twice(repeated(cases, n), config, Path(folder) / "cache")
                first[n].append(1000 * made / n)
                second[n].append(1000 * reused / n)
    out = {}
    for n in numbers:
        first_ms = round(statistics.median(first[n]), 2)
        again_ms = round(statistics.median(second[n]), 3)
        out[str(n)] = {"n": repeats, "first_ms": first_ms, "again_ms": again_ms}
    return out


def repeated(cases, n: int):
    "`n` cases under names of their own, from fewer files."
    import pandas as pd
    copies = [cases.assign(case=cases.case + f"_{i}") for i in range(-(-n // len(cases)))]
    return pd.concat(copies, ignore_index=True)[:n]


def job_twice(cases, config, cache: Path) -> tuple[float, float]:
    "Seconds of a job, and of the same job again; the cache is removed."
    from hsenet.cache.preprocess import preprocess
    first = preprocess(cases, config, cache, workers=0, progress=False)
    second = preprocess(cases, config, cache, workers=0, progress=False)
    assert (first.made, second.reused) == (len(cases), len(cases)), "not the same work"
    shutil.rmtree(cache)
    return first.seconds, second.seconds


def chart(results: list[dict], path: Path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    first = results[0]
    ways = [way for way in WAYS if way in first]
    seconds = [first[way]["median_s"] for way in ways]
    fig, ax = plt.subplots(figsize=(6, 2.2), dpi=100, layout="constrained")
    ax.barh([WAYS[way] for way in ways], seconds, color=[COLOURS[way] for way in ways])
    for y, way in enumerate(ways):
        text = f"  {first[way]['median_s']:.2f} s, {first[way]['peak_gb']:.1f} GB"
        ax.text(first[way]["median_s"], y, text, va="center", fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.25)
    shape = " × ".join(map(str, first["shape"][::-1]))
    ax.set(xlabel=f"seconds per CT of {shape}, one core, median of {first['n']}")
    fig.savefig(path)


def search() -> list[dict]:
    "The search of `metrics.retrieval`, each way in a process of its own."
    rows = []
    for settings in ({"precision": "float32"}, {"precision": "float64"}, {"what": "recall"}):
        code = (
            "import json; from hsenet.metrics.retrieval import benchmark_search; "
            f"print(json.dumps(benchmark_search(**{settings!r})))")
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout) | {"load_before": os.getloadavg()[0]})
        print(rows[-1], flush=True)
    write("search.json", machine() | {"results": rows})
    return rows


# --- the loader -----------------------------------------------------------------------------------------------------

def large_cache(folder: Path, cases: int):
    "A cache of `cases` mini phantoms whose arrays have the sizes of `paper`; gives its folder and a collator."
    from hsenet.cache.datasets import CLIPCollator
    from hsenet.cache.manifest import read_manifest
    from hsenet.cache.preprocess import preprocess_corpus
    from hsenet.config import preset
    from hsenet.phantoms.corpus import write_corpus
    from hsenet.training.stages import clip_tokenizer
    config = preset("mini", **{"phantom.n_train": cases, "phantom.n_valid": 1, "phantom.second_reconstruction": 0.0})
    write_corpus(folder / "corpus", config.phantom, workers=1, progress=False)
    preprocess_corpus(folder / "corpus", config, folder / "cache", tune_share=0.0, workers=0, progress=False)
    noise = np.random.default_rng(0)
    for record in read_manifest(folder / "cache", "train"):
        np.save(folder / "cache" / record["volume"], noise.random((1, 32, 256, 256), dtype=np.float32).astype(np.float16))
        np.save(folder / "cache" / record["slice_features"], noise.random((32, 768), dtype=np.float32).astype(np.float16))
    return folder / "cache", CLIPCollator(clip_tokenizer(config, folder / "cache"), 192)


def load_once(cache: Path, collate, as_stored: bool, workers: int, batches: int, batch_size: int) -> dict:
    "Cases a second that a loader gives to a step that does nothing, and CPU seconds of all its processes."
    from torch.utils.data import DataLoader

    from hsenet.cache.datasets import CLIPDataset
    from hsenet.config import AugmentConfig
    from hsenet.training.batches import EpochBatches, EpochItems, RunBatches
    from hsenet.training.folder import resources
    data = CLIPDataset(cache, "train", AugmentConfig(scale=0.5, shift=0.5), as_stored=as_stored)
    order = RunBatches(EpochBatches(len(data), batch_size), 0, batches)
    start = resources()
    for batch in DataLoader(EpochItems(data), batch_sampler=order, collate_fn=collate, num_workers=workers): assert len(batch["case"]) == batch_size
    spent = resources(since=start)
    cases = batches * batch_size
    return {"per_second": cases / spent["wall_seconds"], "cpu_ms": 1000 * spent["cpu_seconds"] / cases}


def loader_bench(repeats: int, workers: int = 2, cases: int = 32, batches: int = 12, batch_size: int = 16) -> dict:
    "float16 as stored, and float32 from the workers as it was before, in turn; medians."
    import logging
    logging.disable(logging.WARNING)
    rows = {"float16": [], "float32": []}
    with tempfile.TemporaryDirectory() as folder:
        cache, collate = large_cache(Path(folder), cases)
        for i in range(repeats + 1):  # the first warms the file cache
            for name, found in rows.items():
                row = load_once(cache, collate, name == "float16", workers, batches, batch_size)
                if i: found.append(row | {"load": os.getloadavg()[0]})
    facts = machine() | {"workers": workers, "cases": batches * batch_size, "n": repeats}
    for name, found in rows.items():
        per_second = statistics.median(row["per_second"] for row in found)
        cpu_ms = statistics.median(row["cpu_ms"] for row in found)
        loads = [round(row["load"], 1) for row in found]
        facts[name] = {
            "samples_per_second": round(per_second, 1),
            "cpu_ms_per_sample": round(cpu_ms, 2),
            "per_second_of_two_idle_cores": round(2000 / cpu_ms, 1),  # what the CPU seconds would allow
            "load": loads,
        }
    found = facts["float16"]["samples_per_second"] * 2 / workers
    facts |= {"wanted": f"≥ {LOADER_WANTED} samples/s per two cores, by the clock", "found": f"{found:.0f}", "met": found >= LOADER_WANTED}
    write("loader.json", facts)
    print(json.dumps(facts, indent=1))
    return facts


def training_bench(name: str, measure) -> dict:
    "A row of `benching.cpu`, kept."
    import logging
    logging.disable(logging.WARNING)
    facts = machine() | measure()
    write(f"{name}.json", facts)
    print(json.dumps(facts, indent=1))
    return facts


def machine() -> dict:
    "When, and on what."
    name = platform.processor() or platform.machine()
    return {"date": time.strftime("%Y-%m-%d %H:%M"), "machine": f"{name}, {os.cpu_count()} cores"}


def write(name: str, facts: dict):
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / name).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def preprocess_bench(quick: bool, repeats: int):
    "Every way on a usual CT; the two fast ones on large CTs; small cases by the thousand."
    same = check_same((300, 512, 512))
    results = [measure((300, 512, 512), ["a", "b", "b_jpeg", "c"], repeats)]
    if not quick:
        results.append(measure((800, 768, 768), ["a", "b"], repeats))
        results.append(measure((800, 1024, 1024), ["a", "b"], repeats))
    for result in results:
        result["b_by_a"] = round(result["b"]["median_s"] / result["a"]["median_s"], 3)
    first = results[0]
    for way in ("b", "b_jpeg"):
        first[f"c_by_{way}"] = round(first["c"]["median_s"] / first[way]["median_s"], 1)
    facts = machine() | {"threads": THREADS, "same_result": same, "results": results}
    if not quick: facts["ms_per_small_case"] = scale()
    write("preprocess.json", facts)
    chart(results, OUTPUT / "preprocess.png")
    print(json.dumps(facts, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--loader", action="store_true")
    parser.add_argument("--vit", action="store_true")
    parser.add_argument("--loop", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--spacing", type=float, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.file, tuple(args.spacing))
    elif args.search:
        search()
    elif args.loader:
        loader_bench(args.repeats)
    elif args.vit:
        from benching.cpu import vit_bench
        training_bench("vit", lambda: vit_bench(args.repeats))
    elif args.loop:
        from benching.cpu import loop_bench
        training_bench("loop", loop_bench)
    else:
        preprocess_bench(args.quick, args.repeats)


if __name__ == "__main__":
    main()
