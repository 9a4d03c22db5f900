"What the rows of `make bench-gpu` are held against: the same on an H200 before (GPU.md, 2026-11-26, commit ce43c7b), what is wanted, and a plain way in the same run."
BEFORE = {  # row → one H200 at ce43c7b
    "stage 1, MONAI's blocks, explicit attention, batch 3": "20.5 samples/s, 3.8 %, 16.2 GiB",
    "stage 1, MONAI's blocks, explicit attention, batch 16": "36.3 samples/s, 6.6 %, 74.3 GiB",
    "stage 1, ours, batch 3": "27.0 samples/s, 4.9 %, 5.2 GiB",
    "stage 1, ours, batch 16": "110.7 samples/s, 20.2 %, 16.2 GiB",
    "stage 1, ours, batch 64": "171.5 samples/s, 31.4 %, 56.8 GiB",
    "stage 1, ours, compiled, batch 64": "199.4 samples/s, 36.5 %, 53.2 GiB",
    "stage 1, ours, checkpointed, batch 128": "148.2 samples/s, 27.1 %, 38.6 GiB",
    "stage 2 with the teacher, ours, batch 32": "116.2 samples/s, 28.3 %, 32.4 GiB",
    "VLM step, ours, batch 2 of 600 tokens": "7.9 samples/s, 8.1 %, 16.6 GiB",
    "VLM step, ours, batch 8 of 600 tokens": "24.2 samples/s, 25.0 %, 41.0 GiB",
    "VLM step, padded to 800, full logits, as released, batch 8": "19.7 samples/s, 26.5 %, 51.9 GiB",
    "VLM step, patch tokens given, batch 8 of 600 tokens": "27.7 samples/s, 25.8 %, 41.0 GiB",
    "generation, with the cache, batch 1": "59.2 ms per token",
    "generation, with the cache, batch 14": "52.6 ms per token",
    "generation, with the cache, batch 64": "71.5 ms per token",
    "generation, cache off, as released, batch 14": "60.0 ms per token",
    "a product of 8192 × 8192 in bf16": "754 TFLOP/s",
    "preset gpu: stage 1": "800 samples/s (8,000 phantoms)",
}
WANTED = {  # row → what is demanded of it
    "stage 1, ours, batch 64": "≥ 250 samples/s, ≥ 45 %",
    "stage 1, ours, compiled, batch 64": "≥ 250 samples/s, ≥ 45 %",
    "stage 1, cached gradients, batch 24": "≥ 180 samples/s, ≤ 20 GiB",
    "stage 1, cached gradients, batch 512": "≥ 180 samples/s, ≤ 20 GiB",
    "stage 1, cached gradients, compiled, batch 512": "≥ 180 samples/s, ≤ 20 GiB",
    "stage 2 with the teacher, ours, batch 32": "≥ 170 samples/s, ≥ 42 %",
    "VLM step, ours, batch 8 of 600 tokens": "≥ 40 samples/s, ≤ 25 GiB",
    "VLM step, ours, compiled, batch 8 of 600 tokens": "≥ 40 samples/s, ≤ 25 GiB",
    "generation, with the cache, batch 1": "≤ 12 ms per token",
    "generation, with the cache, batch 14": "≤ 12 ms per token",
    "generation, with the cache, batch 64": "≤ 16 ms per token",
    "loader, 32 × 256 × 256, warm cache": "≥ 400 samples/s of 16 cores",
}
MONAI_3 = "stage 1, MONAI's blocks, explicit attention, batch 3"
MONAI_16 = "stage 1, MONAI's blocks, explicit attention, batch 16"
RELEASED = "VLM step, padded to 800, full logits, as released, batch 8"
BASELINES = {  # row → the plain way that it is divided by
    "stage 1, ours, batch 3": MONAI_3,
    "stage 1, ours, batch 16": MONAI_16,
    "stage 1, ours, batch 64": MONAI_16,
    "stage 1, ours, compiled, batch 64": MONAI_16,
    "stage 1, ours, mixed precision, batch 64": MONAI_16,
    "stage 1, cached gradients, batch 24": MONAI_16,
    "stage 1, cached gradients, batch 512": MONAI_16,
    "stage 1, cached gradients, compiled, batch 512": MONAI_16,
    "stage 1, ours, checkpointed, batch 128": MONAI_16,
    "stage 1, ours, compiled, checkpointed, batch 128": MONAI_16,
    "VLM step, ours, batch 8 of 600 tokens": RELEASED,
    "VLM step, ours, compiled, batch 8 of 600 tokens": RELEASED,
    "VLM step, patch tokens given, batch 8 of 600 tokens": RELEASED,
    "generation, with the cache, batch 14": "generation, cache off, as released, batch 14",
}


def times_faster(rows: list[dict]) -> dict[str, float]:
    "Row → how many times the samples (or tokens) a second of its plain way, where both were measured."
    rates = {}
    for row in rows:
        rate = row.get("samples_per_second") or row.get("tokens_per_second")
        if rate and "error" not in row: rates[row["row"]] = rate
    return {row: rates[row] / rates[plain] for row, plain in BASELINES.items() if row in rates and plain in rates}
