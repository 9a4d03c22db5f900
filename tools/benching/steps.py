"Training steps of stages 1 and 2 at the sizes of `paper`, random weights, inputs on the device already."
import copy
from types import MethodType

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .measure import Bench, step_row


class Numbered(Dataset):
    "As many items as a `Trainer` wants to see; none is ever read."

    def __init__(self, n: int): self.n = n

    def __len__(self) -> int: return self.n

    def __getitem__(self, i: int): raise IndexError(i)


def paper(bench: Bench):
    "The settings of `paper`, without what would have to be downloaded; on a CPU those of `mini`."
    from hsenet.config import preset
    from_here = {"text.pretrained": None, "language.pretrained": None, "clip.stage2_init": "stage1", "augment.rotate": 0.0}
    return preset(bench.size("paper", "mini"), **from_here)


def clip_batch(bench: Bench, config, cases: int) -> dict:
    "A batch as `Lane` sends it: float16 volumes on the device, reports of the greatest length."
    device, tokens = bench.device, config.text.max_length
    return {
        "case": [str(i) for i in range(cases)],
        "volume": torch.rand(cases, 1, *config.volume.size, device=device, dtype=torch.float32).half(),
        "slice_features": torch.randn(cases, config.slices.n, config.slices.dim, device=device).half(),
        "input_ids": torch.randint(5, config.text.vocab_size, (cases, tokens)),
        "attention_mask": torch.ones(cases, tokens, dtype=torch.long),
    }


def fresh_clip(bench: Bench, config, stage: int):
    "A new model of a stage; both are made once."
    from hsenet.models.clip import build_clip
    key = f"clip {stage}"
    if key not in bench.kept:
        torch.manual_seed(0)
        bench.kept[key] = build_clip(config, stage)
    return copy.deepcopy(bench.kept[key])


def explicit_attention(attention: nn.Module, x: Tensor) -> Tensor:
    "Self-attention as MONAI's blocks compute it: the whole matrix of scores, in memory."
    B, N, W = x.shape
    heads = attention.num_heads
    q, k, v = attention.qkv(x).view(B, N, 3, heads, W // heads).permute(2, 0, 3, 1, 4)
    scores = torch.einsum("bhxd,bhyd->bhxy", q, k) * (W // heads) ** -0.5
    x = torch.einsum("bhxy,bhyd->bhxd", scores.softmax(-1), v)
    return attention.proj(x.transpose(1, 2).reshape(B, N, W))


def clip_step(bench: Bench, cases: int, stage: int = 1, explicit: bool = False, **settings) -> dict:
    "A row: one optimizer step of `training.step` on a batch of `cases`."
    from hsenet.config import StageConfig
    from hsenet.models.flops import clip_flops
    from hsenet.training.stages import CLIPTask
    from hsenet.training.step import optimizer_step
    from hsenet.training.trainer import Trainer
    config = paper(bench)
    cases = bench.size(cases, min(cases, 4))
    model = fresh_clip(bench, config, stage)
    if stage == 2: model.attach_teacher(fresh_clip(bench, config, 1))
    flops = clip_flops(model, config.text.max_length, config.slices.n)
    if explicit:
        for block in model.vision.blocks: block.attn.forward = MethodType(explicit_attention, block.attn)
    task = CLIPTask(model.train())
    if bench.small: settings |= {"compile": False, "precision": "auto"}  # a CPU's compiler takes minutes, its bf16 too
    stage_settings = StageConfig(batch_size=cases, workers=0, **settings)
    trainer = Trainer(task, Numbered(cases), None, stage_settings, bench.folder / "run")
    batch = clip_batch(bench, config, cases)
    row = step_row(bench, lambda: optimizer_step(trainer, [batch]), cases, flops)
    trainer.finite.check()
    return row


def cached(bench: Bench, cases: int, micro: int, **settings) -> dict:
    "Cached gradients; on a CPU a batch of 4 in parts of 2."
    row = clip_step(bench, cases, micro_batch_size=bench.size(micro, 2), **settings)
    return row | {"micro_batch": bench.size(micro, 2)}


def product(bench: Bench) -> dict:
    "TFLOP/s of a square product in bf16: what this device does, whatever its data sheet says."
    from .measure import timed
    n = bench.size(8192, 256)
    a = torch.randn(n, n, device=bench.device, dtype=torch.bfloat16)
    seconds = min(timed(lambda: a @ a, 3, 10))
    return {"tflop_per_second": 2 * n**3 / seconds / 1e12}


def several(name: str, batches: tuple[int, ...], **how) -> list:
    "A row for each batch."
    return [(f"{name}, batch {n}", lambda bench, n=n: clip_step(bench, n, **how)) for n in batches]


ROWS = [
    ("a product of 8192 × 8192 in bf16", product),
    *several("stage 1, MONAI's blocks, explicit attention", (16,), explicit=True),
    *several("stage 1, ours", (16, 64)),
    ("stage 1, cached gradients, batch 24", lambda bench: cached(bench, 24, 12)),
    ("stage 1, cached gradients, batch 512", lambda bench: cached(bench, 512, 16)),
    *several("stage 2 with the teacher, ours", (32,), stage=2),
    *several("stage 1, ours, compiled", (64,), compile=True),
    *several("stage 1, ours, checkpointed", (128,), checkpoint_blocks=True),
    *several("stage 1, MONAI's blocks, explicit attention", (3,), explicit=True),
    *several("stage 1, ours", (3,)),
]
