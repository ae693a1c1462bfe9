"""How much an error in each matrix costs: mean input energies and squared output gradients, by PyTorch.

Labels are drawn from the model's own predictions, so it is the Fisher information: K-FAC (arXiv:1503.05671), its factors
E[x x^T] and E[g^2] per matrix, tied uses summed.
"""
import torch
import torch.nn.functional as F

import forward
import model as models

ROWS, BATCH = 128, 4


class Tap(torch.autograd.Function):
    """A linear layer that adds up its inputs' second moments and its gradients' squares."""

    @staticmethod
    def forward(ctx, x, w, sums):
        ctx.save_for_backward(x, w)
        ctx.sums = sums
        return F.linear(x, w)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        flat_x, flat_g = x.flatten(0, -2), g.flatten(0, -2)
        ctx.sums["input"] += flat_x.T @ flat_x
        ctx.sums["output"] += flat_g.square().sum(0)
        ctx.sums["uses"] += 1
        return g @ w, None, None


def measure(model, train, seed=0):
    """By stored matrix: H (C, C) and G (R), per token; G is summed over uses, H is their mean."""
    torch.manual_seed(seed)
    length, ids = model.config["train_seq_len"], models.tokens(train)
    rows = min(ROWS, (len(ids) - 1) // length)
    starts = [r * ((len(ids) - 1) // length) // rows * length for r in range(rows)]
    batch = torch.stack([ids[s : s + length] for s in starts])
    p = {name: t.clone().requires_grad_() for name, t in model.whole({}).items()}
    sums, by_tensor = {}, {id(p[name]): source for name, source in model.alias.items()}
    for name in model.matrices:
        r, c = model.tensors[name].shape
        sums[name] = {"input": torch.zeros(c, c), "output": torch.zeros(r), "uses": 0}
    tap = lambda x, w: Tap.apply(x, w, sums[by_tensor[id(w)]])
    for x in batch.split(BATCH):
        out = forward.logits(model.config, p, x, linear=tap)
        drawn = torch.distributions.Categorical(logits=out.detach()).sample()
        F.cross_entropy(out.flatten(0, 1), drawn.flatten(), reduction="sum").backward()
    count, batches = batch.numel(), -(-rows // BATCH)
    return {name: {"input": s["input"] * batches / (count * max(s["uses"], 1)), "output": s["output"] / count}
            for name, s in sums.items()}
