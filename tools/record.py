"""Put the numbers of finished quickstarts into nbs/results: those of `tiny` into quickstart.json, which the front page
shows, those of another preset into quickstart_PRESET.json.

    python tools/record.py outputs/quickstart [RUN …]     the first is shown whole, further ones (other seeds) beside it

Nothing is typed in by hand: every number comes from a run's metrics.json, config.yaml, cost.json and versions.json.
"""
import argparse
import json
import os
import time
from pathlib import Path

import yaml

from run import ROOT

RESULTS = ROOT / "nbs/results"
NAMES = {  # evaluation in metrics.json → how the front page calls it
    "retrieval_stage1": "stage 1",
    "retrieval_stage2": "stage 2",
    "mrg": "reports",
    "vqa": "location questions",
    "random_encoder, mrg": "reports, untrained encoders",
    "random_encoder, vqa": "location questions, untrained encoders",
    "no_image, mrg": "reports, no image",
    "no_image, vqa": "location questions, no image",
}
CONTROL_NUMBERS = ("clinical micro-F1", "location accuracy", "exact match")
FINDING_COLUMNS = {  # column → evaluation, and the number of it that is given per finding
    "zero-shot AUROC, stage 1": ("retrieval_stage1", "zero-shot AUROC"),
    "stage 2": ("retrieval_stage2", "zero-shot AUROC"),
    "linear probe, stage 1": ("retrieval_stage1", "linear probe AUROC"),
    "report F1": ("mrg", "F1"),
    "place in the report": ("mrg", "location accuracy"),
}


def show(value: float | None) -> str: return "not computed" if value is None else f"{value:.3f}"


def read(path: Path) -> dict: return json.loads(path.read_text(encoding="utf-8"))


def config_of(run: Path) -> dict: return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))


def seed_of(run: Path) -> int: return config_of(run)["seed"]


def headline(path: Path) -> dict[tuple[str, str], dict]:
    "(evaluation, number) → record, of the headline numbers in a metrics.json; nothing where there is none."
    out = {}
    if not path.is_file(): return out
    for name, evaluation in read(path).items():
        if name not in NAMES: continue
        for number in evaluation["headline"]:
            out[NAMES[name], number] = evaluation["numbers"][number]
    return out


def numbers(run: Path) -> dict[tuple[str, str], dict]:
    "Headline numbers of a run, and some of its controls where there are any."
    controls = headline(run / "controls/metrics.json")
    controls = {key: record for key, record in controls.items() if key[1] in CONTROL_NUMBERS}
    return headline(run / "metrics.json") | controls


def rows(runs: list[Path]) -> list[dict]:
    "One row per number of the first run, the other seeds beside it."
    first = numbers(runs[0])
    others = {f"seed {seed_of(run)}": numbers(run) for run in runs[1:]}
    out = []
    for key, record in first.items():
        if record["value"] is None: continue
        value = show(record["value"])
        if "interval" in record:
            low, high = record["interval"]
            value += f" ({show(low)}–{show(high)})"
        evaluation, number = key
        row = {"": evaluation, "number": number, f"seed {seed_of(runs[0])} (95 % interval)": value}
        for seed, found in others.items():
            row[seed] = show(found[key]["value"]) if key in found else ""
        known = {name: x for name, x in record["baselines"].items() if x is not None}
        row["n"] = record["n"]
        row["protocol"] = record["protocol"]
        row["without the model"] = ", ".join(f"{name} {show(x)}" for name, x in known.items())
        out.append(row)
    return out


def findings(run: Path) -> list[dict]:
    "One row per finding of the first run: what each part knows of it."
    metrics = read(run / "metrics.json")
    reports = metrics["mrg"]["numbers"]
    out = []
    for key in reports:
        if not key.startswith("F1: "): continue
        finding = key.removeprefix("F1: ")
        row = {"finding": finding}
        for column, (evaluation, number) in FINDING_COLUMNS.items():
            record = metrics[evaluation]["numbers"].get(f"{number}: {finding}")
            row[column] = show(record["value"]) if record else ""
        row["F1 of saying it always"] = show(reports[key]["baselines"]["all findings"])
        out.append(row)
    return out


def about(run: Path) -> str:
    "Where the numbers come from, in a sentence or two."
    cost = read(run / "cost.json")
    versions = read(run / "stage1/versions.json")
    config = config_of(run)
    day = time.strftime("%Y-%m-%d", time.localtime((run / "cost.json").stat().st_mtime))
    parts = [
        f"`make quickstart PRESET={config['name']} SEED={config['seed']}` on {day}, "
        f"{os.cpu_count()} CPU cores, GPU: {versions['gpu']}: "
        f"{cost['wall_seconds'] / 60:.0f} minutes on a machine with other work, "
        f"{cost['cpu_seconds'] / 60:.1f} CPU minutes, largest process {cost['peak_gb']:.1f} GB; "
        f"torch {versions['torch']}, transformers {versions['transformers']}.",
        "Rows with untrained encoders or no image are from `make controls`.",
    ]
    return " ".join(parts)


def file_of(run: Path) -> Path:
    "Where the numbers of a run of its preset are kept."
    preset = config_of(run)["name"]
    return RESULTS / ("quickstart.json" if preset == "tiny" else f"quickstart_{preset}.json")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    runs = parser.parse_args().runs
    sections = read(runs[0] / "sections.json")
    result = {"rows": rows(runs), "findings": findings(runs[0]), "about": about(runs[0]), "sections": sections}
    kept = file_of(runs[0])
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {kept.relative_to(ROOT)}; now execute nbs/index.ipynb and nbs/reference/quickstart_numbers.ipynb (exec_nb), then `make docs`")


if __name__ == "__main__":
    main()
