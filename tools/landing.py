"""Draw the front page's picture from a finished quickstart: a held-out CT with a map of where the model looked, the report that it
wrote beside the true one, and the most similar training cases.

    python tools/landing.py outputs/quickstart data/phantoms-tiny-42 data/cache-tiny-42

Writes nbs/images/landing.png and landing_narrow.png (for phones). The case isn't picked by how well it went: it is the first
held-out one with at least three findings.
"""
import argparse
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from run import ROOT  # noqa: E402

IMAGES = ROOT / "nbs/images"
FINDINGS = 3  # of the case that is shown, at least
NEIGHBOURS = 3
COLOURS = {"same": "#1c2733", "added": "#B34700", "missed": "#005C99", "quiet": "#5b6b7f"}
LIMIT = 200_000  # bytes of a picture


@dataclass
class Shown:
    "What the picture shows of a case."
    plane: np.ndarray  # (x, y) in 0–1, of the encoder's input
    heat: np.ndarray  # (x, y) in 0–1
    finding: str
    written: str
    truth: str
    said: list[str]  # findings that both reports have
    missed: list[str]  # that only the true one has
    invented: list[str]  # that only the written one has
    neighbours: list[tuple[np.ndarray, str]]  # plane, what it has in common


# --- what is shown --------------------------------------------------------------------------------------------------

def chosen_case(records: list[dict]) -> dict:
    "The first held-out case with enough findings."
    for record in records:
        if record["split"] == "validation" and len(findings_of(record)) >= FINDINGS: return record
    raise SystemExit(f"no held-out case has {FINDINGS} findings")


def findings_of(record: dict) -> list[str]:
    "The names of a case's findings."
    return [label for label, present in record["labels"].items() if present]


def gather(run: Path, corpus: Path, cache: Path, index: Path) -> Shown:
    "Ask the model of a quickstart."
    from hsenet.cache.manifest import read_records
    from hsenet.corpora.ct_rate import read_ct_rate
    from hsenet.inference import HSENet
    from hsenet.use.explain import map_to_scan
    model = HSENet.load(run / "model")
    records = {record["case"]: record for record in read_records(cache)}
    rows = read_ct_rate(corpus).set_index("case")
    case = chosen_case(list(records.values()))
    path, header = file_of(rows.loc[case["case"]])
    finding = findings_of(case)[0]
    found = model.explain(path, finding=finding, **header)
    heat = map_to_scan(list(found.values())[-1], model.prepare(path, **header)) / 255  # (x, y, z)
    z = int(heat.sum((0, 1)).argmax())
    height = (z + 0.5) / heat.shape[2]
    mine = set(findings_of(case))
    neighbours = []
    for near in model.similar(path, index, split="train", k=NEIGHBOURS, **header):
        common = [name.lower() for name in findings_of(records[near["case"]]) if name in mine]
        words = f"{len(common)} of {len(mine)} findings:\n" + ",\n".join(common)
        plane = grey_plane(rows.loc[near["case"]], height)
        neighbours.append((plane, words if common else "no finding in common"))
    report = model.report(path, **header)
    plane = grey_plane(rows.loc[case["case"]], height)
    verdict = compared(report, case["findings"])
    return Shown(plane, heat[:, :, z], finding, report, case["findings"], *verdict, neighbours)


def compared(written: str, truth: str) -> tuple[list[str], list[str], list[str]]:
    "Findings that both reports have, that only the true one has, that only the written one has."
    from hsenet.phantoms.reports import parse_report
    found = []
    for text in (written, truth):
        present = [name.lower() for name, each in parse_report(text).items() if each.get("present")]
        found.append(present)
    ours, true = found
    both = [name for name in true if name in ours]
    return both, [name for name in true if name not in ours], [name for name in ours if name not in true]


def file_of(row) -> tuple[str, dict]:
    "A case's file, and what its header lacks."
    return row.path, {"slope": row.slope, "intercept": row.intercept, "spacing": row.spacing}


def grey_plane(row, height: float) -> np.ndarray:
    "(x, y) in 0–1: the axial plane of a CT at a share of its height, in the encoder's window."
    from hsenet.ct.read import read_ct
    from hsenet.plots import grey_levels
    path, header = file_of(row)
    hu = read_ct(path, **header).hu
    return grey_levels(hu[int(height * len(hu))], "encoder")


# --- drawing --------------------------------------------------------------------------------------------------------

def flow(ax, words: list[tuple[str, str]], top: float, size: float) -> float:
    "Write (word, colour) pairs as running text from `top` on; gives where it ends (axes coordinates)."
    renderer = ax.figure.canvas.get_renderer()
    box = ax.get_window_extent(renderer)
    x, y = 0.0, top
    height = 1.45 * size * ax.figure.dpi / 72 / box.height
    for word, colour in words:
        bold = "bold" if colour != COLOURS["same"] else "normal"
        text = ax.text(x, y, word, color=colour, fontsize=size, va="top", weight=bold, transform=ax.transAxes)
        width = text.get_window_extent(renderer).width / box.width
        if x + width > 1:
            x, y = 0.0, y - height
            text.set_position((x, y))
        x += width + 0.28 * size * ax.figure.dpi / 72 / box.width
    return y - height


def marked(text: str, other: str, kind: str) -> list[tuple[str, str]]:
    "The words of a report with their colours: those that the other lacks have their own."
    from hsenet.evaluation.side_by_side import marked_words
    out = []
    for sentence in marked_words(text, other):
        for word, differs in sentence:
            colour = COLOURS[kind if differs else "same"]
            glued = not word[:1].isspace() and out and not word[:1].isalnum()
            if glued: out[-1] = (out[-1][0] + word, out[-1][1])
            else: out.append((word.strip(), colour))
    return out


def draw_ct(ax, shown: Shown, size: float) -> None:
    ax.imshow(shown.plane.T, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    ax.imshow(shown.heat.T, cmap="inferno", vmin=0, vmax=1, alpha=0.55 * shown.heat.T)
    ax.set_axis_off()
    ax.set_title(f"a held-out CT; bright: what speaks\nfor “{shown.finding.lower()}”", fontsize=size, loc="left")


def draw_texts(ax, shown: Shown, size: float) -> None:
    ax.set_axis_off()
    y = 1.0
    parts = [("the report it wrote", shown.written, shown.truth, "added"), ("the true report", shown.truth, shown.written, "missed")]
    for title, text, other, kind in parts:
        y = flow(ax, [(title, COLOURS["quiet"])], y, size) - 0.01
        y = flow(ax, marked(text, other, kind), y, size) - 0.04
    verdicts = [("finds", shown.said, "same"), ("misses", shown.missed, "missed"), ("invents", shown.invented, "added")]
    for verb, names, kind in verdicts:
        if not names: continue
        y = flow(ax, [(f"{verb}:", COLOURS["quiet"]), (", ".join(names), COLOURS[kind])], y, size)


def draw_neighbours(axes, shown: Shown, size: float, beside: bool) -> None:
    for ax, (plane, words) in zip(axes, shown.neighbours):
        ax.imshow(plane.T, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
        ax.set_axis_off()
        place = (1.06, 0.5) if beside else (0.0, -0.06)
        ax.text(*place, words, fontsize=size, va="center" if beside else "top", transform=ax.transAxes, color=COLOURS["same"])
    axes[0].set_title("training cases most like it", fontsize=size, loc="left")


def wide(shown: Shown):
    "For a desktop: three columns."
    fig = plt.figure(figsize=(10, 3.7), dpi=144)
    draw_ct(fig.add_axes((0.005, 0.02, 0.33, 0.85)), shown, 8.5)
    draw_texts(fig.add_axes((0.355, 0.02, 0.385, 0.935)), shown, 9)
    axes = [fig.add_axes((0.765, 0.65 - 0.315 * i, 0.105, 0.285)) for i in range(NEIGHBOURS)]
    draw_neighbours(axes, shown, 7.5, beside=True)
    return fig


def narrow(shown: Shown):
    "For a phone: one column."
    fig = plt.figure(figsize=(4.2, 9.2), dpi=160)
    draw_ct(fig.add_axes((0.02, 0.585, 0.96, 0.36)), shown, 10)
    draw_texts(fig.add_axes((0.03, 0.21, 0.94, 0.355)), shown, 9)
    axes = [fig.add_axes((0.02 + 0.33 * i, 0.085, 0.3, 0.12)) for i in range(NEIGHBOURS)]
    draw_neighbours(axes, shown, 7.5, beside=False)
    return fig


def save(fig, path: Path) -> None:
    "As a PNG of few colours; stops where it is too large for the repository."
    memory = io.BytesIO()
    fig.savefig(memory, facecolor="white")
    image = Image.open(memory).convert("RGB").quantize(128)
    image.save(path, optimize=True)
    size = path.stat().st_size
    if size > LIMIT: raise SystemExit(f"{path} has {size} bytes; {LIMIT} are allowed")
    print(f"wrote {path} ({size / 1000:.0f} kB)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished quickstart")
    parser.add_argument("corpus", type=Path, help="its phantoms")
    parser.add_argument("cache", type=Path, help="the cache that it was trained on")
    parser.add_argument("--index", type=Path, help="its index, made by `hsenet index`; else the cache is embedded")
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder of the pictures")
    args = parser.parse_args()
    shown = gather(args.run, args.corpus, args.cache, args.index or args.cache)
    args.output.mkdir(parents=True, exist_ok=True)
    save(wide(shown), args.output / "landing.png")
    save(narrow(shown), args.output / "landing_narrow.png")
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
