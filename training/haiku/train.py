"""Train the haiku model on the CPU and write it as GGUF.

    python training/haiku/train.py --out haiku.gguf --words words.txt

The seed, the number of steps and the number of threads decide the result; the same three on the same kind of
processor give the same file.  Examples are packed one after another, so that the model meets every position.
"""

import argparse
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import export
import torch
from corpus import examples, words
from model import Decoder, Shape
from tokenizer import BOS, Tokenizer, forms
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Settings:
    """How the model is trained."""

    seed: int = 575
    steps: int = 1100
    batch: int = 32
    length: int = 256
    rate: float = 4e-3
    last_rate: float = 1e-4
    warmup: int = 50
    decay: float = 0.05
    threads: int = 2


def stream(settings: Settings, tokenizer: Tokenizer) -> Iterator[tuple[int, bool]]:
    """Tokens of one example after another, each with whether the model has to learn to write it."""
    for prompt, haiku in examples(settings.seed, 1 << 40):
        yield BOS, False
        for token in tokenizer.encode(prompt):
            yield token, False
        for token in tokenizer.encode_haiku(haiku):
            yield token, True


def batches(settings: Settings, tokenizer: Tokenizer) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of tokens and their masks, each row starting at the start of an example."""
    source = stream(settings, tokenizer)
    pending = [next(source)]
    while True:
        rows = []
        for _ in range(settings.batch):
            row, pending = pending, []
            while len(row) <= settings.length:
                row.append(next(source))
            while not pending or pending[-1][0] != BOS:
                pending.append(next(source))
            pending = pending[-1:]
            rows.append(row)
        table = torch.tensor(rows)
        yield table[..., 0], table[..., 1].bool()


def learning_rate(settings: Settings, step: int) -> float:
    """Warm up in a line, then fall along a cosine."""
    if step < settings.warmup:
        return settings.rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.last_rate + (settings.rate - settings.last_rate) * 0.5 * (1 + math.cos(math.pi * done))


def relate_forms(model: Decoder, tokenizer: Tokenizer) -> None:
    """Start the forms of one word near each other, so that the model soon knows them for the same word."""
    weight = model.token_embd.weight.data
    for word in words():
        own = [tokenizer.ids[form] for form in forms(word)]
        weight[own] = (weight[own] + weight[own[0]]) * 0.7


def train(settings: Settings, tokenizer: Tokenizer) -> Decoder:
    """Train a model from nothing."""
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(settings.threads)
    model = Decoder(Shape(vocabulary=len(tokenizer)))
    relate_forms(model, tokenizer)
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    norms = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))
    start, source = time.monotonic(), batches(settings, tokenizer)
    for step in range(settings.steps):
        tokens, learn = next(source)
        hidden = model(tokens[:, :-1])[learn[:, 1:]]
        loss = functional.cross_entropy(model.logits(hidden), tokens[:, 1:][learn[:, 1:]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        optimizer.step()
        optimizer.zero_grad()
        if step % 25 == 0 or step == settings.steps - 1:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - start:.0f} s", flush=True)
    return model


def main() -> None:
    """Train, write the model and the list of its subjects, and say what came out."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--words", type=Path, help="the list of subjects to write")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    args = parser.parse_args()
    settings, tokenizer = Settings(steps=args.steps, seed=args.seed), Tokenizer()
    print(settings)
    model = train(settings, tokenizer)
    export.write(args.out, model, tokenizer, {"seed": settings.seed, "steps": settings.steps})
    if args.words:
        args.words.write_text("\n".join(words()) + "\n")
    data = args.out.read_bytes()
    count = sum(weight.numel() for weight in model.parameters())
    print(f"{count} parameters, {len(tokenizer)} tokens, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
