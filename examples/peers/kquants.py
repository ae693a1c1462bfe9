"""llama.cpp's Q6_K and Q4_K without an importance matrix.

Source: the block formats of github.com/ggml-org/llama.cpp (ggml-common.h) as its Python package `gguf` reads them back. That
package does not quantize to them, so the search for scales is written here, and what it wrote is read by the package.
Blocks are 256 weights of a row; a matrix whose rows are no multiple of that takes Q8_0 (32), else f16, as llama.cpp does.
"""
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize


def halves(x):
    return x.astype(np.float16).view(np.uint8).reshape(len(x), 2)


def q6_k(w):
    """Rows of 256 weights as blocks of 210 bytes: 16 groups with a scale each, integers of 6 bits."""
    groups = w.reshape(-1, 16, 16)
    peak = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)
    best, scale = np.full(groups.shape[:2], -1.0), np.zeros(groups.shape[:2])
    for nudge in range(-9, 10):
        inverse = np.divide(-(32 + 0.1 * nudge), peak, out=np.zeros_like(peak), where=peak != 0)
        q = np.clip(np.rint(inverse * groups), -32, 31)
        weight = groups**2
        xq, qq = (weight * groups * q).sum(-1), (weight * q * q).sum(-1)
        gain = np.divide(xq**2, qq, out=np.zeros_like(xq), where=qq > 0)
        better = gain > best
        best = np.where(better, gain, best)
        scale = np.where(better, np.divide(xq, qq, out=np.zeros_like(xq), where=qq > 0), scale)
    top = np.take_along_axis(scale, np.abs(scale).argmax(-1)[:, None], -1)[:, 0]
    d = (top / -128).astype(np.float16).astype(np.float64)
    steps = np.clip(np.rint(np.divide(scale, d[:, None], out=np.zeros_like(scale), where=d[:, None] != 0)), -128, 127)
    full = (d[:, None] * steps)[..., None]
    q = np.clip(np.rint(np.divide(groups, full, out=np.zeros_like(groups), where=full != 0)), -32, 31)
    q = (q.astype(np.int16) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate((q[:, :, :2] & 15 | (q[:, :, 2:] & 15) << 4,), 2).reshape(-1, 128)
    high = (q[:, :, 0] >> 4 | (q[:, :, 1] >> 4) << 2 | (q[:, :, 2] >> 4) << 4 | (q[:, :, 3] >> 4) << 6).reshape(-1, 64)
    return np.concatenate((low, high, steps.astype(np.int8).view(np.uint8), halves(d)), 1)


def q4_k(w):
    """Rows of 256 weights as blocks of 144 bytes: 8 groups with a scale and a minimum each, integers of 4 bits."""
    groups = w.reshape(-1, 8, 32)
    low = np.minimum(groups.min(-1), 0)
    scale = (groups.max(-1) - low) / 15
    for _ in range(5):  # integers and their best line, in turn
        q = np.clip(np.rint((groups - low[..., None]) / np.where(scale > 0, scale, 1)[..., None]), 0, 15)
        mean_q, mean_x = q.mean(-1), groups.mean(-1)
        spread = ((q - mean_q[..., None]) ** 2).sum(-1)
        fit = ((q - mean_q[..., None]) * (groups - mean_x[..., None])).sum(-1)
        scale = np.where(spread > 0, fit / np.where(spread > 0, spread, 1), scale)
        low = np.minimum(mean_x - scale * mean_q, 0)
    d, dmin = ((v.max(-1) / 63).astype(np.float16).astype(np.float64) for v in (scale, -low))
    over = lambda v, unit: np.clip(np.rint(np.divide(v, unit[:, None], out=np.zeros_like(v), where=unit[:, None] > 0)), 0, 63)
    s, m = over(scale, d).astype(np.uint8), over(-low, dmin).astype(np.uint8)
    full, least = (d[:, None] * s)[..., None], (dmin[:, None] * m)[..., None]
    q = np.clip(np.rint(np.divide(groups + least, full, out=np.zeros_like(groups), where=full > 0)), 0, 15)
    q = q.astype(np.uint8).reshape(-1, 4, 2, 32)
    scales = np.concatenate((s[:, :4] | (s[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6,
                             s[:, 4:] & 15 | (m[:, 4:] & 15) << 4), 1)
    return np.concatenate((halves(d), halves(dmin), scales, (q[:, :, 0] | q[:, :, 1] << 4).reshape(-1, 128)), 1)


TYPES = [(Type.Q6_K, "Q6_K", q6_k), (Type.Q4_K, "Q4_K", q4_k)]


def rows(model, say, **_):
    for kind, label, pack in TYPES:
        size, back, taken = 0, {}, 0
        for name in model.stored:
            w = np.ascontiguousarray(model.tensors[name].float().numpy())
            columns = w.shape[-1] if name in model.matrices else 0
            if columns and columns % 256 == 0:
                data = pack(w.astype(np.float64).reshape(-1, 256))
                values, taken = dequantize(data.reshape(len(w), -1), kind), taken + w.size
            elif columns and columns % 32 == 0:
                data = quantize(w, Type.Q8_0)
                values = dequantize(data, Type.Q8_0)
            else:
                data = w.astype(np.float16)
                values = data.astype(np.float32)
            size, back[name] = size + data.nbytes, torch.from_numpy(np.asarray(values, np.float32).reshape(w.shape).copy())
        if not taken:
            say(f"llama.cpp {label}: no matrix of this model has rows of a multiple of 256; left out")
            continue
        yield f"llama.cpp {label}, no importance matrix", size, back
