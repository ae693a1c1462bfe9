"""The challenge baseline's packer: int8 per row, zlib 9.

Source: train_gpt.py of github.com/openai/parameter-golf (quantize_state_dict_int8). Matrices: each row clipped at the
0.9999984 quantile of its magnitudes, scale = clip / 127 as f16; small tensors kept as f16, control tensors as f32.
"""
import io
import zlib

import torch

NAME, QUANTILE, KEPT = "int8 per row + zlib, the challenge's baseline", 0.9999984, 65_536
CONTROL = ("attn_scale", "mlp_scale", "resid_mix", "q_gain", "skip_weight")


def pack(model):
    """Bytes, and the tensors as they come back."""
    held, back = {}, {}
    for name in model.stored:
        w = model.tensors[name].float()
        if w.numel() <= KEPT or w.ndim != 2:
            kept = w if any(word in name for word in CONTROL) else w.half()
            held[name], back[name] = kept, kept.float()
            continue
        clip = torch.quantile(w.abs(), QUANTILE, dim=1)
        scale = (clip / 127).clamp_min(1 / 127)
        q = (w.clamp(-clip[:, None], clip[:, None]) / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        held[name] = (q, scale.half())
        back[name] = q.float() * scale.half().float()[:, None]
    file = io.BytesIO()
    torch.save(held, file)
    return len(zlib.compress(file.getvalue(), 9)), back


def rows(model, **_):
    yield (NAME, *pack(model))
