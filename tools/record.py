"""Put the numbers of finished quickstarts into nbs/results/quickstart.json, which the front page shows.

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

RESULT = ROOT / "nbs/results/quickstart.json"
NAMES = {"retrieval_stage1": "stage 1", "retrieval_stage2": "stage 2", "mrg": "reports", "vqa": "location questions",
         "random_encoder, mrg": "reports, untrained encoders", "no_image, mrg": "reports, no image",
         "random_encoder, vqa": "location questions, untrained encoders", "no_image, vqa": "location questions, no image"}
CONTROL_NUMBERS = ("clinical micro-F1", "location accuracy", "exact match")


def show(value: float | None) -> str: return "not computed" if value is None else f"{value:.3f}"


def seed_of(run: Path) -> int: return yaml.safe_load((run / "config.yaml").read_text())["seed"]


def numbers(run: Path) -> dict[tuple[str, str], dict]:
    "Headline numbers of a run, and of its controls where there are any: (evaluation, number) → record."
    out = {}
    for path, wanted in ((run / "metrics.json", None), (run / "controls/metrics.json", CONTROL_NUMBERS)):
        if not path.is_file(): continue
        for name, one in json.loads(path.read_text(encoding="utf-8")).items():
            if name in NAMES: out |= {(NAMES[name], k): one["numbers"][k] for k in one["headline"] if wanted is None or k in wanted}
    return out


def rows(runs: list[Path]) -> list[dict]:
    "One row per number of the first run, the other seeds beside it."
    every = [numbers(run) for run in runs]
    out = []
    for (task, name), x in every[0].items():
        if x["value"] is None: continue
        interval = f" ({'–'.join(show(v) for v in x['interval'])})" if "interval" in x else ""
        row = {"": task, "number": name, f"seed {seed_of(runs[0])} (95 % interval)": show(x["value"]) + interval}
        row |= {f"seed {seed_of(run)}": show(one[task, name]["value"]) if (task, name) in one else "" for run, one in zip(runs[1:], every[1:])}
        baselines = ", ".join(f"{k} {show(v)}" for k, v in x["baselines"].items() if v is not None)
        out.append(row | {"n": x["n"], "protocol": x["protocol"], "without the model": baselines})
    return out


def findings(run: Path) -> list[dict]:
    "One row per finding of the first run: what each part knows of it."
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    columns = {"zero-shot AUROC, stage 1": ("retrieval_stage1", "zero-shot AUROC"), "stage 2": ("retrieval_stage2", "zero-shot AUROC"),
               "report F1": ("mrg", "F1"), "place in the report": ("mrg", "location accuracy")}
    names = [k.removeprefix("F1: ") for k in metrics["mrg"]["numbers"] if k.startswith("F1: ")]
    cell = lambda part, number, name: show(metrics[part]["numbers"][key]["value"]) if (key := f"{number}: {name}") in metrics[part]["numbers"] else ""
    every = lambda name: metrics["mrg"]["numbers"][f"F1: {name}"]["baselines"]["all findings"]
    return [{"finding": name, **{title: cell(*where, name) for title, where in columns.items()}, "F1 of saying it always": show(every(name))} for name in names]


def about(run: Path) -> str:
    "Where the numbers come from, in a sentence or two."
    cost, versions = (json.loads((run / name).read_text()) for name in ("cost.json", "stage1/versions.json"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    day = time.strftime("%Y-%m-%d", time.localtime((run / "cost.json").stat().st_mtime))
    return (f"`make quickstart PRESET={config['name']} SEED={config['seed']}` on {day}, {os.cpu_count()} CPU cores, GPU: {versions['gpu']}: "
            f"{cost['wall_seconds'] / 60:.0f} minutes on a machine with other work, {cost['cpu_seconds'] / 60:.1f} CPU minutes, largest process {cost['peak_gb']:.1f} GB; "
            f"torch {versions['torch']}, transformers {versions['transformers']}. Rows with untrained encoders or no image are from `make controls`.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    runs = parser.parse_args().runs
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"rows": rows(runs), "findings": findings(runs[0]), "about": about(runs[0])}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {RESULT.relative_to(ROOT)}; now execute nbs/index.ipynb (exec_nb) and `make docs`")


if __name__ == "__main__": main()
