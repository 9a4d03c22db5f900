"""Tables, manifests, archives and whole corpora."""
import shutil
import zipfile
from pathlib import Path

from fuzzing.mutations import changed, files_below, mutate, one_of


def corpus(work: Path) -> Path:
    "A CT-RATE corpus of phantoms."
    from hsenet.phantoms.corpus import write_corpus
    root = work / "corpus"
    if not root.is_dir(): write_corpus(root, few_phantoms(), workers=1, progress=False)
    return root


def few_phantoms():
    from hsenet.config import preset
    return preset("mini", **{"phantom.n_train": 3, "phantom.n_valid": 2}).phantom


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


KINDS = {"csv": tables, "json": jsons, "zip": zips, "layouts": layouts, "check": checks}
