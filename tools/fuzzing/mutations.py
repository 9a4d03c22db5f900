"""Random changes to good files, and helpers that every kind of input uses."""
from collections.abc import Callable
from pathlib import Path

import numpy as np

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


def changed(path: Path, rng, read: Callable, text: bool = True):
    "Change a file, `read()`, restore it."
    good = path.read_bytes()
    path.write_bytes(mutate(good, rng, text, head=200))
    try:
        return read()
    finally:
        path.write_bytes(good)


def files_below(root: Path, *suffixes: str) -> list[Path]:
    "Files of some kinds below a folder, in a fixed order."
    return sorted(p for p in root.rglob("*") if p.is_file() and p.suffix in suffixes)


def one_of(things: list, rng): return things[rng.integers(len(things))]
