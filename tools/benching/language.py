"The report model with a random language model of 3.8 billion parameters in bf16: training steps and generation."
import statistics

import torch

from .measure import Bench, step_row, timed
from .steps import Numbered, paper


class Tokens:
    "What `phi3_config` asks of a tokenizer."
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __init__(self, size: int): self.size = size

    def __len__(self) -> int: return self.size


IMAGE = 3  # the id that stands for a visual token


def report_model(bench: Bench, lora: bool):
    "A report model; the one without LoRA is made once, and LoRA put into it where it is asked for first."
    from transformers import AutoModelForCausalLM

    from hsenet.models.branches import branch_encoders, run_branch_configs
    from hsenet.models.language import phi3_config
    from hsenet.models.vlm import HSENetVLM, HSENetVLMConfig, add_lora
    config = paper(bench)
    if "vlm" not in bench.kept:
        torch.manual_seed(0)
        settings = phi3_config(config.language, Tokens(config.language.vocab_size), num_kv_heads=bench.size(8, None), tied=True)
        with bench.device: language = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
        encoders = branch_encoders(config)
        branches = run_branch_configs(config, encoders, language.config.hidden_size)
        model = HSENetVLM(HSENetVLMConfig(branches, language.config, image_token_id=IMAGE), language)
        bench.kept["vlm"] = model.to(bench.device)
    model = bench.kept["vlm"]
    if lora and not model.config.lora: add_lora(model, config.language).freeze()
    return model, config


def rows_of_tokens(model, cases: int, tokens: int, padded: int, scored: int) -> dict:
    "Ids, mask and labels: visual tokens, words, padding on the right; the last `scored` words count."
    ids = torch.randint(5, 100, (cases, padded))
    ids[:, : model.num_visual_tokens] = IMAGE
    mask = (torch.arange(padded) < tokens).long().expand(cases, -1).contiguous()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : tokens - scored] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def vlm_step(bench: Bench, cases: int, padded: bool = False, given: bool = False, **settings) -> dict:
    "A row: one optimizer step; `padded`: to 800, logits everywhere, encoders cast at each use, as released; `given`: patch tokens."
    from hsenet.config import StageConfig
    from hsenet.models.flops import vlm_flops
    from hsenet.training.stages import VLMTask
    from hsenet.training.step import optimizer_step
    from hsenet.training.trainer import Trainer

    class Rows(VLMTask):
        "As on a GPU, whatever the device; or as released."

        words_only = not padded

        def use_half(self):
            if not padded: super().use_half()

    model, config = report_model(bench, lora=True)
    cases = bench.size(cases, min(cases, 2))
    visual = model.num_visual_tokens
    tokens, scored = bench.size((600, 324), (visual + 24, 16))
    batch = {"case": [str(i) for i in range(cases)]}
    batch |= rows_of_tokens(model, cases, tokens, bench.size(800, visual + 40) if padded else tokens, scored)
    volume = torch.rand(cases, 1, *config.volume.size, device=bench.device)
    features = torch.randn(cases, config.slices.n, config.slices.dim, device=bench.device)
    if given:
        with torch.autocast(bench.device.type, torch.bfloat16): batch["patch_tokens"] = model.encode(volume, features)
    else:
        batch |= {"volume": volume.half(), "slice_features": features.half()}
    flops = vlm_flops(model, tokens, config.slices.n, given=given)
    if bench.small: settings["compile"] = False
    stage_settings = StageConfig(batch_size=cases, workers=0, weight_decay=0.0, **settings)
    trainer = Trainer(Rows(model.train()), Numbered(cases), None, stage_settings, bench.folder / "vlm")
    row = step_row(bench, lambda: optimizer_step(trainer, [batch]), cases, flops)
    model.zero_grad(set_to_none=True)
    return row | {"tokens": batch["input_ids"].shape[1]}


@torch.no_grad()
def speak(bench: Bench, cases: int, words: int, cache: bool = True) -> dict:
    "A row: greedy generation after a prompt of 276 tokens."
    model, _ = report_model(bench, lora=False)
    model.eval()
    cases, words = bench.size((cases, words), (min(cases, 2), 4))
    prompt = model.num_visual_tokens + 20
    ids = rows_of_tokens(model, cases, prompt, prompt, 0)["input_ids"].to(bench.device)
    tokens = [torch.randn(cases, encoder.config.num_patches, encoder.config.hidden_size, device=bench.device)
              for encoder in model.encoders.values()]
    settings = {"max_new_tokens": words, "min_new_tokens": words} | ({} if cache else {"use_cache": False})
    say = lambda: model.generate(ids, patch_tokens=tokens, **settings)
    with torch.autocast(bench.device.type, torch.bfloat16):
        seconds = timed(say, *bench.size((1, 2), (0, 1)))
    median = statistics.median(seconds)
    return {"batch": cases, "new_tokens": words, "ms_per_token": 1000 * median / words, "tokens_per_second": cases * words / median}


ROWS = [  # generation first: LoRA stays in the model once it is there
    ("generation, with the cache, batch 14", lambda bench: speak(bench, 14, 64)),
    ("generation, with the cache, batch 1", lambda bench: speak(bench, 1, 64)),
    ("generation, with the cache, batch 64", lambda bench: speak(bench, 64, 64)),
    ("generation, cache off, as released, batch 14", lambda bench: speak(bench, 14, 24, cache=False)),
    ("VLM step, padded to 800, full logits, as released, batch 8", lambda bench: vlm_step(bench, 8, padded=True)),
    ("VLM step, ours, batch 8 of 600 tokens", lambda bench: vlm_step(bench, 8)),
    ("VLM step, patch tokens given, batch 8 of 600 tokens", lambda bench: vlm_step(bench, 8, given=True)),
    ("VLM step, ours, batch 2 of 600 tokens", lambda bench: vlm_step(bench, 2)),
]
