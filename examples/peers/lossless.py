"""General compressors on byte planes, bit for bit: all first bytes of a type's tensors, then all second bytes, and so on."""
import brotli
import torch
import zstandard

CODERS = [("zstd-22", lambda b: zstandard.compress(b, 22)),
          ("brotli-11", lambda b: brotli.compress(b, quality=11, lgwin=24))]


def rows(model, **_):
    planes = b""
    for dtype in sorted({model.tensors[name].dtype for name in model.stored}, key=str):
        data = b"".join(model.tensors[name].contiguous().view(torch.uint8).numpy().tobytes()
                        for name in model.stored if model.tensors[name].dtype == dtype)
        width = torch.empty(0, dtype=dtype).element_size()
        planes += b"".join(data[i::width] for i in range(width))
    for name, compress in CODERS:
        yield f"{name} on byte planes, exact", len(compress(planes)), {}
