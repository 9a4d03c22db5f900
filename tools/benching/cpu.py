"Training on a CPU: three blocks of the full-size ViT beside explicit attention, and the loop's own work beside its steps."
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import MethodType

import torch

from .steps import explicit_attention

TOKENS = 2049  # of `paper`: 8 × 16 × 16 patches and CLS
FASTER = 2.2  # wanted: times faster than with explicit attention
LOOP_SHARE = 0.03  # wanted: of a step, at most
now = {"wall": time.perf_counter, "cpu": time.process_time}


def blocks(explicit: bool, sizes: dict, layers: int = 3) -> torch.nn.Sequential:
    "Blocks of `paper`'s ViT; `explicit`: with the whole matrix of scores in memory, as MONAI's blocks (and so the released code) have it."
    from hsenet.models.vit import Block, ViT3DConfig
    torch.manual_seed(0)
    made = torch.nn.Sequential(*[Block(ViT3DConfig(**sizes)) for _ in range(layers)])
    if explicit:
        for block in made: block.attn.forward = MethodType(explicit_attention, block.attn)
    return made


def forward_and_backward(model: torch.nn.Module, tokens: int) -> tuple[dict[str, float], list[torch.Tensor]]:
    "Seconds by the wall clock and of the processor, and the output with the gradients."
    model.zero_grad(set_to_none=True)
    width = model[0].norm1.normalized_shape[0]
    x = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))
    start = {clock: read() for clock, read in now.items()}
    out = model(x)
    out.square().mean().backward()
    seconds = {clock: read() - start[clock] for clock, read in now.items()}
    return seconds, [out.detach(), *[p.grad for p in model.parameters()]]


def vit_bench(repeats: int, tokens: int = TOKENS, **sizes) -> dict:
    "Pairs, ours and explicit in turn, and their ratios; both must give the same output and gradients to 1e-4."
    models = {"ours": blocks(False, sizes), "explicit": blocks(True, sizes)}
    seconds = defaultdict(list)
    apart = 0.0
    for pair in range(repeats + 1):  # the first isn't counted
        found = {}
        for name, model in models.items():
            spent, found[name] = forward_and_backward(model, tokens)
            if pair:
                for clock, value in spent.items(): seconds[name, clock].append(value)
        for ours, theirs in zip(found["ours"], found["explicit"], strict=True):
            apart = max(apart, ((ours - theirs).abs().max() / theirs.abs().max()).item())
    if apart > 1e-4: raise SystemExit(f"not the same result: {apart}")
    facts = {"what": f"3 ViT blocks at {tokens:,} tokens, forward and backward", "n": repeats, "threads": torch.get_num_threads()}
    facts |= {"largest_difference": apart, "load": round(os.getloadavg()[0], 1)}
    for clock in now:
        pairs = list(zip(seconds["explicit", clock], seconds["ours", clock]))
        facts[f"{clock}_seconds"] = {name: round(statistics.median(seconds[name, clock]), 2) for name in models}
        facts[f"{clock}_times_faster"] = [round(theirs / ours, 2) for theirs, ours in pairs]
    faster = statistics.median(facts["cpu_times_faster"])
    return facts | {"wanted": f"≥ {FASTER} × (CPU time)", "found": f"{faster:.2f} ×", "met": faster >= FASTER}


class Cases(torch.utils.data.Dataset):
    "Volumes of noise with texts, as a preset has them."

    def __init__(self, config, n: int, tokens: int = 96):
        self.volume = torch.rand(1, *config.volume.size).half()
        self.ids = torch.randint(5, config.text.vocab_size, (tokens,))
        self.n = n

    def __len__(self) -> int: return self.n

    def __getitem__(self, i: int) -> dict:
        if i >= self.n: raise IndexError(i)
        return {"case": str(i), "volume": self.volume, "input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), "slice_features": torch.zeros(1)}


class Watched:
    "When the loop's steps began and ended, and how long it waited for batches in between."

    def __init__(self):
        self.steps = []  # of each: readings of the clocks before and after
        self.waited = []  # seconds for the batches before it
        self.meanwhile = dict.fromkeys(now, 0.0)

    def step(self, work):
        def noted(*args):
            before = {clock: read() for clock, read in now.items()}
            result = work(*args)
            self.steps.append((before, {clock: read() for clock, read in now.items()}))
            self.waited.append(self.meanwhile)
            self.meanwhile = dict.fromkeys(now, 0.0)
            return result
        return noted

    def batches(self, work):
        def noted(*args):
            groups = work(*args)
            while True:
                before = {clock: read() for clock, read in now.items()}
                group = next(groups, None)
                for clock, read in now.items(): self.meanwhile[clock] += read() - before[clock]
                if group is None: return
                yield group
        return noted

    def share(self, clock: str) -> float:
        "Of the loop's own work between two steps, beside the steps."
        own = 0.0
        for i in range(1, len(self.steps)):
            between = self.steps[i][0][clock] - self.steps[i - 1][1][clock]
            own += between - self.waited[i][clock]
        return own / sum(after[clock] - before[clock] for before, after in self.steps[1:])


def loop_bench(steps: int = 24, preset: str = "tiny", batch_size: int | None = None) -> dict:
    "The loop's own time between two steps of stage 1 (rows of the log among it, no checkpoint), beside the steps; data waits left out."
    import hsenet.training.loop as loop
    from hsenet.config import preset as settings_of
    from hsenet.models.clip import build_clip
    from hsenet.training.tasks import CLIPTask
    config = settings_of(preset)
    settings = config.stage1
    settings.batch_size = batch_size or settings.batch_size
    settings.epochs, settings.workers, settings.evaluate_every = 1, 0, 10**6
    watched = Watched()
    own = loop.step_batches, loop.optimizer_step
    loop.step_batches, loop.optimizer_step = watched.batches(own[0]), watched.step(own[1])
    try:
        with tempfile.TemporaryDirectory() as folder:
            task = CLIPTask(build_clip(config, 1).train(), torch.utils.data.default_collate)
            loop.fit(task, Cases(config, steps * settings.batch_size), None, settings, Path(folder) / "run")
    finally:
        loop.step_batches, loop.optimizer_step = own
    ms = {clock: 1000 * statistics.median(after[clock] - before[clock] for before, after in watched.steps) for clock in now}
    facts = {"what": f"the loop's own work between steps, stage 1 of {preset}, batch {settings.batch_size}", "n": len(watched.steps)}
    facts |= {"threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1)}
    for clock in now:
        facts[f"{clock}_step_ms"] = round(ms[clock], 1)
        facts[f"{clock}_share"] = round(watched.share(clock), 5)
    share = facts["cpu_share"]
    return facts | {"wanted": f"< {LOOP_SHARE:.0%} of a step (CPU time)", "found": f"{share:.2%}", "met": share < LOOP_SHARE}
