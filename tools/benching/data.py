"What feeds the device: the loader, 2D features, and the stages of the preset `gpu` on phantoms."
import json
import os
import statistics
import time

import numpy as np
import torch

from .measure import Bench, timed


def loader(bench: Bench) -> dict:
    "A row: volumes of 32 × 256 × 256 a second from a warm cache, to a step that does nothing."
    from bench import large_cache, load_once
    workers = bench.size(max(1, os.cpu_count() - 4), 1)
    cases, batches, batch_size = bench.size((64, 40, 16), (8, 2, 4))
    cache, collate = large_cache(bench.folder / "loader", cases)
    rows = {}
    for name in ("float32", "float16"):
        found = [load_once(cache, collate, name == "float16", workers, batches, batch_size) for _ in range(bench.size(3, 1))]
        rows[name] = statistics.median(row["per_second"] for row in found)
        cpu_ms = statistics.median(row["cpu_ms"] for row in found)
    return {
        "workers": workers,
        "samples_per_second": rows["float16"],
        "float32_samples_per_second": rows["float32"],
        "cpu_ms_per_sample": cpu_ms,
        "load": os.getloadavg()[0],
    }


def slice_encoder(bench: Bench, exact: bool):
    "An open_clip encoder with a ViT-B/16 of random weights (BiomedCLIP's size) in a folder of its own."
    import open_clip
    from safetensors.torch import save_file

    from hsenet.cache.slices import load_slice_encoder
    from hsenet.files import write_json
    trunk, size = bench.size(("vit_base_patch16_224", 224), ("test_vit", 160))
    folder = bench.folder / "open_clip"
    if not folder.is_dir():
        vision = {"timm_model_name": trunk, "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": size}
        text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
        model = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
        weights = open_clip.CustomTextCLIP(**model).state_dict()
        norms = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
        write_json(folder / "open_clip_config.json", {"model_cfg": model | {"custom_text": True}, "preprocess_cfg": norms})
        save_file(weights, folder / "open_clip_model.safetensors")
    return load_slice_encoder(folder, exact).to(bench.device).eval()


def features(bench: Bench) -> dict:
    "A row: axial pictures of 512 × 512 a second; in batches on the device, and one by one as open_clip does it."
    from hsenet.cache.features import encode_batch
    n = bench.size(8, 1)  # cases of 32 pictures
    side = bench.size(512, 64)
    pictures = np.random.default_rng(0).integers(0, 256, (32, side, side), dtype=np.uint8)
    row = {}
    for name, exact in (("pictures_per_second", False), ("exact_pictures_per_second", True)):
        encoder = slice_encoder(bench, exact)

        def encode():
            prepare = encoder.prepare or np.asarray  # one by one, by PIL; or nothing
            encode_batch(encoder, [prepare(pictures) for _ in range(n)])

        seconds = statistics.median(timed(encode, 1, bench.size(3, 1)))
        row[name] = 32 * n / seconds
    return row | {"cases": n}


def gpu_preset(bench: Bench):
    "The preset `gpu` with fewer phantoms and epochs; on a CPU `mini`."
    from hsenet.config import preset
    if bench.small: return preset("mini", **{f"{stage}.epochs": 1 for stage in ("stage1", "stage2", "mrg")})
    settings = {"phantom.n_train": 1024, "phantom.n_valid": 64, "slices.steps": 200}
    settings |= {"stage1.epochs": 20, "stage2.epochs": 8, "mrg.epochs": 3}
    return preset("gpu", **settings)


def prepare_preset(bench: Bench) -> None:
    "Phantoms and volumes of the preset, made while the device measures something else; writes how long it took."
    from hsenet.cache.preprocess import preprocess_corpus
    from hsenet.phantoms.corpus import write_corpus
    config, folder = gpu_preset(bench), bench.folder / "preset"
    workers = bench.size(max(1, os.cpu_count() - 4), 1)
    start = time.monotonic()
    write_corpus(folder / "corpus", config.phantom, workers=workers, progress=False)
    made = time.monotonic()
    preprocess_corpus(folder / "corpus", config, folder / "cache", workers=workers, progress=False)
    seconds = {"phantoms_seconds": made - start, "preprocessing_seconds": time.monotonic() - made}
    (folder / "prepared.json").write_text(json.dumps(seconds))


def wait_for_preset(bench: Bench) -> dict:
    "A row: how long phantoms, volumes and 2D features took."
    path = bench.folder / "preset/prepared.json"
    if bench.small and not path.is_file(): prepare_preset(bench)
    while not path.is_file():
        if time.monotonic() > bench.ends: raise TimeoutError("phantoms weren't ready in time")
        time.sleep(1)
    return json.loads(path.read_text()) | {"cases": gpu_preset(bench).phantom.n_train}


def stage_row(name: str, stage: str):
    "A row: cases a second of a stage of the preset, as its own log gives them, evaluation included."
    def measure(bench: Bench) -> dict:
        from hsenet.files import read_json
        from hsenet.training import stages
        folder, config = bench.folder / "preset", gpu_preset(bench)
        before = {"stage1": (), "stage2": ("stage1",), "mrg": ("stage1", "stage2")}[stage]
        train = getattr(stages, f"train_{stage}")
        train(config, folder / "cache", *[folder / other for other in before], folder / stage)
        done = read_json(folder / stage / "done.json")
        names = ("steps", "cases_per_second", "tokens_per_second", "data_wait", "memory_gb", "wall_seconds", "mfu")
        return {name: done[name] for name in names if name in done}
    return name, measure


ROWS = [
    ("loader, 32 × 256 × 256, warm cache", loader),
    ("2D features, ViT-B/16 at 224, pictures of 512 × 512", features),
    ("preset gpu: phantoms, volumes and features, on the CPU meanwhile", wait_for_preset),
    stage_row("preset gpu: stage 1", "stage1"),
    stage_row("preset gpu: stage 2", "stage2"),
    stage_row("preset gpu: reports", "mrg"),
]
