"""Files of our own: caches, run folders, bundles, evaluations. Each is made once, in mini size; then one file of it is changed and read."""
import shutil
from functools import partial
from pathlib import Path

from fuzzing.corpora import corpus
from fuzzing.mutations import mutate, one_of

TEXTS = (".json", ".jsonl", ".yaml", ".txt", ".md", ".csv", ".jinja", ".model")


def made(work: Path) -> Path:
    "A folder with a cache, two trained encoders, a report model, a bundle and their evaluations."
    home = work / "home"
    if (home / "done").is_file(): return home
    from hsenet.cache.preprocess import preprocess_corpus
    from hsenet.config import override, preset
    from hsenet.evaluation import reports, retrieval
    from hsenet.inference import save_bundle
    from hsenet.training import stages

    config = override(preset("mini"), **{"phantom.n_train": 8, "phantom.n_valid": 4})
    home.mkdir(exist_ok=True)
    config.save(home / "config.yaml")
    cache = home / "cache"
    preprocess_corpus(corpus(work), config, cache, workers=0, progress=False)
    stages.train_stage1(config, cache, home / "s1")
    stages.train_stage2(config, cache, home / "s1", home / "s2")
    stages.train_mrg(config, cache, home / "s1", home / "s2", home / "mrg")
    save_bundle(config, home / "bundle", cache / "slice_encoder", report=home / "mrg", clip2=home / "s2")
    retrieval.evaluate_retrieval(home / "s1/best", cache, home / "retrieval")
    reports.evaluate_mrg(home / "mrg/best", cache, home / "reports")
    for name in ("retrieval", "reports"):
        shutil.copytree(home / name, home / "others" / name)
    (home / "done").touch()
    return home


def files_of(folder: Path) -> list[Path]:
    "All files but locks and pictures, in a fixed order."
    found = [p for p in folder.rglob("*") if p.is_file()]
    return sorted(p for p in found if p.name != ".lock" and p.suffix not in (".png", ".html"))


class Unnamed(Exception):
    "An error of ours that doesn't say which file or folder it is about."


def damaged(folder: Path, rng, read):
    "Change, empty or remove one file of a folder, `read()`, and put the whole folder back."
    whole = folder.with_name(folder.name + ".whole")
    if not whole.is_dir(): shutil.copytree(folder, whole)
    path = one_of(files_of(folder), rng)
    how = rng.random()
    if how < 0.05: path.unlink()
    elif how < 0.1: path.write_bytes(b"")
    else: path.write_bytes(mutate(path.read_bytes(), rng, path.suffix in TEXTS, head=300))
    try:
        return read()
    except (ValueError, OSError, RuntimeError) as e:
        names = {path.name, path.stem, *(p.name for p in path.parents if p.is_relative_to(folder))}
        if not any(name in str(e) for name in names):
            raise Unnamed(f"{path.relative_to(folder.parent)}: {type(e).__name__}: {e}") from e
        raise
    finally:
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)


def caches(work: Path, rng):
    "Any file of a cache: opened, trained from, preprocessed again"
    home = made(work)
    damaged(home / "cache", rng, partial(read_cache, home, bool(rng.random() < 0.3)))


def read_cache(home: Path, again: bool):
    from hsenet.cache.datasets import CLIPDataset, ReportDataset
    from hsenet.cache.manifest import open_cache
    from hsenet.cache.preprocess import preprocess_corpus
    from hsenet.cache.slices import load_slice_encoder
    from hsenet.config import load_config

    config = load_config(home / "config.yaml")
    cache = home / "cache"
    if again: return preprocess_corpus(home.parent / "corpus", config, cache, workers=0, progress=False)
    open_cache(cache, config)
    load_slice_encoder(cache / "slice_encoder")
    for data in (CLIPDataset(cache, "train"), ReportDataset(cache, "validation")):
        for i in range(len(data)): data[i]


def run_folders(work: Path, rng):
    "Any file of a run folder: taken up again, and read by the next stage"
    home = made(work)
    run = one_of(["s1", "mrg"], rng)
    damaged(home / run, rng, partial(read_run_folder, home, run))


def read_run_folder(home: Path, run: str):
    from hsenet.config import load_config
    from hsenet.models.clip import VolumeCLIP
    from hsenet.plots import plot_history
    from hsenet.training import stages
    from hsenet.training.folder import model_folder

    config = load_config(home / "config.yaml")
    cache = home / "cache"
    if run == "s1":
        stages.train_stage1(config, cache, home / run)
        VolumeCLIP.from_pretrained(model_folder(home / run))
    else:
        stages.train_mrg(config, cache, home / "s1", home / "s2", home / run)
    plot_history(home / run / "metrics.jsonl")


def bundles(work: Path, rng):
    "Any file of a bundle: a report is written with it"
    home = made(work)
    damaged(home / "bundle", rng, partial(read_bundle, home))


def read_bundle(home: Path):
    from hsenet.inference import HSENet

    bundle = HSENet.load(home / "bundle")
    scan = sorted((home.parent / "corpus").rglob("*.nii.gz"))[0]
    bundle.report(scan, max_new_tokens=3)
    bundle.clip


def evaluations(work: Path, rng):
    "Any file of an evaluation: compared, shown as a page, gone on with"
    home = made(work)
    name = one_of(["retrieval", "reports"], rng)
    damaged(home / name, rng, partial(read_evaluation, home, name, bool(rng.random() < 0.3)))


def read_evaluation(home: Path, name: str, again: bool):
    from hsenet.evaluation import reports, retrieval
    from hsenet.evaluation.compare import compare, compare_cases
    from hsenet.evaluation.page import write_report
    from hsenet.evaluation.predictions import main_table, read_metrics

    folder = home / name
    other = home / "others" / name
    if again and name == "retrieval": return retrieval.evaluate_retrieval(home / "s1/best", home / "cache", folder)
    if again: return reports.evaluate_mrg(home / "mrg/best", home / "cache", folder)
    main_table({name: read_metrics(folder)})
    compare([folder, other]).to_markdown()
    compare_cases(folder, other)
    page = write_report(folder).read_text(encoding="utf-8")
    if "<script" in page: raise AssertionError("a script in the page")


KINDS = {"cache": caches, "run": run_folders, "bundle": bundles, "evaluation": evaluations}
