"""Settings: `--set`, YAML files, and what is in bounds but small."""
import shutil
from pathlib import Path

from fuzzing.mutations import NUMBERS, WORDS, mutate, one_of

VALUES = [
    *NUMBERS, *WORDS, "-0.0", "1", "2", "3.0", "1e-9", "1e9", "1e400", "[1]", "[1, 2]", "[2, 1]", "[1, 2, 3]", "[0, 0, 0]", "[-1, 1, 1]",
    "[.nan, 1, 1]", "[a, b]", "{}", "{lr: 1}", "{a: {b: {c: 1}}}", "~", "yes", "''", "small", "first", "auto", "bf16", "mrg", "2026-01-01",
    "0x7fffffff", "1_000", "&a [*a]", "*a", "!!python/object/apply:os.system [true]", "!!binary aGk=", "9" * 5000,
]


def every_setting() -> list[str]:
    "All dotted names."
    from hsenet.config import Config

    names = []
    for name, value in Config().to_dict().items():
        names += [f"{name}.{each}" for each in value] if isinstance(value, dict) else [name]
    return names


def hostile_name(name: str, rng) -> str:
    "Mostly the name itself."
    if rng.random() < 0.85: return name
    if rng.random() < 0.5: return mutate(name.encode(), rng, True).decode(errors="replace")
    return one_of(["", ".", "stage1", "stage1.", ".lr", "a.b.c", "grid", "__class__", "stage1.__dict__", "seed.x"], rng)


def settings(work: Path, rng):
    "`--set`: one to three settings, of all there are, to any value"
    from hsenet.options import chosen_config

    names = every_setting()
    given = []
    for _ in range(rng.integers(1, 4)):
        given.append(f"{hostile_name(one_of(names, rng), rng)}={one_of(VALUES, rng)}")
    seed = one_of([None, 0, -1, 2**32, 10**30], rng) if rng.random() < 0.1 else None
    chosen_config(one_of(["mini", "tiny", "paper"], rng), seed, given).to_dict()


def yaml_files(work: Path, rng):
    "A YAML file of settings"
    from hsenet.config import load_config, preset

    good = work / "good.yaml"
    if not good.is_file(): preset("mini").save(good)
    path = work / "a.yaml"
    data = bombs(rng) if rng.random() < 0.1 else mutate(good.read_bytes(), rng, True, head=400)
    path.write_bytes(data)
    load_config(path).to_dict()


def bombs(rng) -> bytes:
    "YAML that is small and stands for very much."
    levels, wide = int(rng.integers(2, 40)), int(rng.integers(1, 12))
    lines = ["a0: &a0 lol"]
    merge = rng.random() < 0.3
    for i in range(1, levels):
        several = ", ".join(wide * [f"*a{i - 1}"])
        lines.append(f"a{i}: &a{i} {{<<: [{several}], k{i}: 1}}" if merge else f"a{i}: &a{i} [{several}]")
    if rng.random() < 0.5: lines.append(f"stage1: *a{levels - 1}")
    return "\n".join(lines).encode()


SMALL = ["0", "1", "2", "3", "5", "0.001", "0.5", "[1, 1, 1]", "[2, 3, 5]", "[8, 32, 32]", "[1, 40, 40]", "[-1000, 1000]", "[0, 0.001]"]
QUICK = [f"{stage}.{name}" for stage in ("stage1", "stage2", "mrg") for name in ("workers", "epochs")]  # these may take long, rightly


def roads(work: Path, rng):
    "Settings within their bounds, but small or odd: from a corpus to a trained report model"
    from fuzzing.corpora import corpus
    from hsenet.cache.preprocess import preprocess_corpus
    from hsenet.config import ConfigError, override, preset
    from hsenet.training import stages

    names = [name for name in every_setting() if name not in QUICK and not name.endswith(("pretrained", "spacing")) and name != "slices.encoder"]
    config = override(preset("mini"), **{f"{stage}.epochs": 0.3 for stage in ("stage1", "stage2", "mrg")})
    for _ in range(rng.integers(1, 3)):
        name = one_of(names, rng)
        if name.startswith(("phantom.", "name")): continue
        config = with_small_value(config, name, rng)
    root = corpus(work)
    runs = work / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    preprocess_corpus(root, config, runs / "cache", workers=0, progress=False)
    stages.train_stage1(config, runs / "cache", runs / "s1")
    stages.train_stage2(config, runs / "cache", runs / "s1", runs / "s2")
    stages.train_mrg(config, runs / "cache", runs / "s1", runs / "s2", runs / "mrg")


def with_small_value(config, name: str, rng):
    "The configuration with a value that the setting takes."
    import yaml
    from hsenet.config import ConfigError, override

    for _ in range(20):
        try:
            return override(config, **{name: yaml.safe_load(one_of(SMALL, rng))})
        except ConfigError:
            continue
    return config


KINDS = {"settings": settings, "yaml": yaml_files, "roads": roads}
