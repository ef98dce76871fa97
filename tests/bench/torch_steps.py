#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""torch_steps - what tests/bench/cuda.c does with whole models, in PyTorch and Transformers: the same shapes and figures

Training is bf16 by autocast with f32 weights, fused AdamW and PyTorch's own attention, as it is and compiled; what does
not fit into memory says so. `small` makes everything small, to try it on a CPU.
"""
import statistics
import sys
import time

import torch
import transformers
from torch.nn.functional import cross_entropy, kl_div, log_softmax

SMALL = sys.argv[1:] == ["small"]
DEVICE = "cpu" if SMALL else "cuda"
VOCAB, TOKENS, LENGTH = (1000, 640, 64) if SMALL else (151936, 8192, 1024)
RUNS = 3 if SMALL else 7
SIZES = {"tiny": (64, 2, 2, 1, 192)} if SMALL else {"0.5B": (896, 24, 14, 2, 4864), "1.5B": (1536, 28, 12, 2, 8960)}


def sync():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds_of(call):
    """Of a call, the median, after two that are not counted."""
    seconds = []
    for _ in range(RUNS + 2):
        sync()
        began = time.perf_counter()
        call()
        sync()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


def make(size, dtype):
    hidden, layers, heads, kv_heads, ffn = size
    config = transformers.Qwen2Config(
        vocab_size=VOCAB, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=ffn, tie_word_embeddings=True, attn_implementation="sdpa")
    with torch.device(DEVICE):
        return transformers.Qwen2ForCausalLM(config).to(dtype)


def product_rate():
    n = 256 if SMALL else 8192
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    return 2 * n**3 / seconds_of(lambda: a @ b)


def train(name, size, teacher, rate, compiled):
    """A step; teacher: the width of states that stand for its forward, or 0."""
    model = make(size, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    ids = torch.randint(VOCAB, (TOKENS // LENGTH, LENGTH), device=DEVICE)
    states = torch.randn(TOKENS, teacher, dtype=torch.bfloat16, device=DEVICE)
    head = torch.randn(VOCAB, teacher, dtype=torch.bfloat16, device=DEVICE) * 0.03

    def loss_of(ids):
        logits = model(ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        ce = cross_entropy(logits, ids[:, 1:].flatten())
        if not teacher:
            return ce
        p = (states.unflatten(0, ids.shape)[:, :-1].flatten(0, 1) @ head.T).float()
        kl = kl_div(log_softmax(logits, -1), log_softmax(p, -1), log_target=True, reduction="batchmean")
        return (ce + kl) / 2

    call = torch.compile(loss_of) if compiled else loss_of

    def step():
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = call(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    t = seconds_of(step)
    hidden, layers = size[:2]
    parameters = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    flops = 6 * parameters * TOKENS + 6 * TOKENS * LENGTH * layers * hidden + 2 * TOKENS * teacher * VOCAB
    print(f"  {'distill' if teacher else 'train'} {name}{' from stored states' if teacher else ''}"
          f"{', compiled' if compiled else ''}: {t:.3f} s for {TOKENS} tokens, {TOKENS / t:.0f} tokens/s, "
          f"{100 * flops / t / rate:.0f} % of the product", flush=True)


def decode(model, streams):
    """The time of a step: what more tokens cost more."""
    few, many = (4, 8) if SMALL else (32, 160)
    ids = torch.randint(VOCAB, (streams, 64), device=DEVICE)

    def generate(n):
        with torch.no_grad():
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, min_new_tokens=n,
                           max_new_tokens=n, pad_token_id=0)

    t = (seconds_of(lambda: generate(many)) - seconds_of(lambda: generate(few))) / (many - few)
    print(f"  decode of {streams:3}: {streams / t:.0f} tokens/s, {1e3 * t:.2f} ms a step", flush=True)


def attempt(call, *arguments):
    try:
        call(*arguments)
    except torch.OutOfMemoryError:
        print(f"  {call.__name__} {arguments[0] if call is train else ''}: no memory", flush=True)
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def main():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        print("skip PyTorch: it sees no GPU")
        return
    transformers.logging.set_verbosity_error()
    torch.backends.cuda.matmul.allow_tf32 = True
    rate = product_rate()
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE
    print(f"PyTorch {torch.__version__}, {device}: multiplies {rate * 1e-12:.1f} TFLOP/s")
    teacher = list(SIZES.values())[-1][0]
    for name, size in SIZES.items():
        print(f"{name}, {TOKENS} tokens in sequences of {LENGTH}")
        for compiled in (False,) if SMALL else (False, True):
            attempt(train, name, size, 0, rate, compiled)
            if name != "1.5B":
                attempt(train, name, size, teacher, rate, compiled)
        model = make(size, torch.bfloat16).eval()
        for streams in (1, 16, 256):
            attempt(decode, model, streams)


main()
