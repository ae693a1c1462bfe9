"""The packer of the challenge's best records: GPTQ on rows clipped at multiples of their standard deviation, then bytes
shuffled and compressed with brotli 11.

Source: records from April 2026 on in github.com/openai/parameter-golf (SDClip GPTQ): scale = k * std(row) / R as f16,
integers in [-R, R], columns by falling Hessian diagonal, damping 1 %; GPTQ is arXiv:2210.17323. Settings as they were
published (k = 12.85 for matrices, 20 for the table, int6 and int8) and coarser ones.
"""
import brotli
import numpy as np
import torch

SETTINGS = [(31, 127, 12.85, 20.0), (15, 63, 12.85, 20.0)]  # range of matrices, of the table; their k


def gptq(w, h, scale, most):
    """Integers (R, C) of a matrix on a grid of one step a row, each column's error pushed onto the later ones."""
    columns = w.shape[1]
    order = h.diagonal().argsort(descending=True)
    w, h = w[:, order].clone(), h[order][:, order].clone()
    h += 0.01 * h.diagonal().mean() * torch.eye(columns)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    q = torch.zeros_like(w)
    for j in range(columns):
        q[:, j] = (w[:, j] / scale).round().clamp(-most, most)
        error = (w[:, j] - q[:, j] * scale) / upper[j, j]
        w[:, j + 1 :] -= torch.outer(error, upper[j, j + 1 :])
    out = torch.empty_like(q)
    out[:, order] = q
    return out


def pack(model, curvature, setting):
    matrix, table, k, k_table = setting
    integers, scales, kept, back = [], [], [], {}
    for name in model.stored:
        w = model.tensors[name].float()
        if name not in curvature:
            kept.append(w.half())
            back[name] = w.half().float()
            continue
        embedding = not name.startswith("blocks.")
        most, factor = (table, k_table) if embedding else (matrix, k)
        scale = (factor * w.std(dim=1) / most).clamp_min(1e-10).half().float()
        q = gptq(w, curvature[name]["input"], scale, most)
        integers.append(q.to(torch.int8).numpy().tobytes())
        scales.append(scale.half().numpy().tobytes())
        back[name] = q * scale[:, None]
    halves = b"".join(t.numpy().tobytes() for t in kept) + b"".join(scales)
    pairs = np.frombuffer(halves, np.uint8).reshape(-1, 2)
    data = b"".join(integers) + pairs[:, 0].tobytes() + pairs[:, 1].tobytes()
    return len(brotli.compress(data, quality=11, lgwin=24)), back


def rows(model, curvature, **_):
    for setting in SETTINGS:
        bits = [most.bit_length() + 1 for most in setting[:2]]
        yield (f"challenge records' packer, int{bits[0]}/int{bits[1]} + brotli", *pack(model, curvature, setting))
