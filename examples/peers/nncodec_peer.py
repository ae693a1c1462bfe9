"""NNCodec, the reference software of ISO/IEC 15938-17 (DeepCABAC), from its package `nncodec`.

Source: github.com/fraunhoferhhi/nncodec. Each matrix gets the step that curvature asks for: with the loss 1/2 sum G_i H_jj e^2 and
errors of step^2/12, the optimum has G * d * step^2 equal for all matrices, as for tiepack's; one exponent moves all of them.
"""
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

OCTAVES = (3.5, 2.7)  # the step of the average weight below the root mean square of all: about 4 and 3 bits


def qps(model, curvature):
    """log2 of each matrix's step over that of the average one."""
    energy = {name: float(c["output"].mean() * c["input"].diagonal().mean()) for name, c in curvature.items()}
    logs = {name: -0.5 * math.log2(max(e, 1e-30)) for name, e in energy.items()}
    total = sum(model.tensors[name].numel() for name in logs)
    mean = sum(logs[name] * model.tensors[name].numel() for name in logs) / total
    return {name: log - mean for name, log in logs.items()}


def rows(model, curvature, **_):
    from nncodec import nnc
    params = {name: model.tensors[name].float().numpy() for name in model.stored}
    relative = qps(model, curvature)
    energy = sum(model.tensors[name].float().square().sum().item() for name in relative)
    rms = math.sqrt(energy / sum(model.tensors[name].numel() for name in relative))
    for octaves in OCTAVES:
        base = math.log2(rms) - octaves
        # The standard counts steps in quarter octaves: step = 2^(qp / 4), nearly.
        chosen = {name: int(round(4 * (base + log))) for name, log in relative.items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.nnc"
            nnc.compress(params, bitstream_path=str(path), qp=int(round(4 * base)), qp_per_tensor=chosen)
            back = nnc.decompress(str(path))
            size = path.stat().st_size
        back = {name: torch.from_numpy(np.asarray(v, dtype=np.float32).copy()) for name, v in back.items()}
        yield f"NNCodec (ISO/IEC 15938-17), curvature steps, {2**base:.4f}", size, back
