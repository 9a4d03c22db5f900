"What is measured if time is left: what takes a compiler a minute or two, and what the choice of a setting rests on."
from .language import vlm_step
from .steps import cached, several

ROWS = [
    ("stage 1, cached gradients, compiled, batch 512", lambda bench: cached(bench, 512, 16, compile=True)),
    ("VLM step, ours, compiled, batch 8 of 600 tokens", lambda bench: vlm_step(bench, 8, compile=True)),
    *several("stage 1, ours, mixed precision", (64,), precision="mixed"),  # PyTorch's autocast: the residual stream in float32
    *several("stage 1, ours, compiled, checkpointed", (128,), compile=True, checkpoint_blocks=True),
]
