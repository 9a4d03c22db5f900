"Sizes, times, memory and the isolation of rows."
import gc
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

OUT_OF_MEMORY = "out of memory"


@dataclass
class Bench:
    "Where and how large a group is measured."
    folder: Path  # for files
    small: bool  # reduced sizes, for a CPU: the same code in seconds
    ends: float  # time.monotonic() at which no further row begins
    kept: dict = field(default_factory=dict)  # what rows of a group share, such as a model

    @property
    def device(self) -> torch.device: return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def size(self, large, small):
        "The one or the other."
        return small if self.small else large


def sync() -> None:
    "Wait until the device has done all that it was given."
    if torch.cuda.is_available(): torch.cuda.synchronize()


def timed(step: Callable, warm_up: int, repeats: int) -> list[float]:
    "Seconds of each call of `step`, after some that don't count."
    seconds = []
    for i in range(warm_up + repeats):
        sync()
        start = time.perf_counter()
        step()
        sync()
        if i >= warm_up: seconds.append(time.perf_counter() - start)
    return seconds


def step_row(bench: Bench, step: Callable, cases: int, flops: float, repeats: int = 5) -> dict:
    "Cases a second, MFU and peak memory of a training step of `cases` cases, the median of some."
    from hsenet.models.flops import mfu, peak_flops
    if torch.cuda.is_available(): torch.cuda.reset_peak_memory_stats()
    seconds = timed(step, *bench.size((2, repeats), (1, 1)))
    median = statistics.median(seconds)
    row = {"batch": cases, "samples_per_second": cases / median, "ms": 1000 * median, "n": len(seconds)}
    row["tflop_per_sample"] = flops / 1e12
    if torch.cuda.is_available():
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        peak = peak_flops(torch.cuda.get_device_name())
        if peak: row["mfu"] = mfu(flops, cases / median, peak)
    return row


def free() -> None:
    "Give back what the last row held."
    gc.collect()
    if torch.cuda.is_available(): torch.cuda.empty_cache()


def run_row(bench: Bench, name: str, measure: Callable[[Bench], dict]) -> dict:
    "One row; what goes wrong in it is said in it."
    if time.monotonic() > bench.ends: return {"row": name, "error": "not run: the time was over"}
    start = time.monotonic()
    try:
        row = {"row": name} | measure(bench)
    except torch.OutOfMemoryError:
        row = {"row": name, "error": OUT_OF_MEMORY}
    except Exception as error:  # of any library; the next rows are to be measured all the same
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        row = {"row": name, "error": f"{type(error).__name__}: {str(error)[:300]} ({where})"}
    free()
    return row | {"seconds": round(time.monotonic() - start, 1)}
