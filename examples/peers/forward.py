"""The forward pass of the Parameter Golf challenge's baseline in PyTorch, written from its description, without tiepack.

Source: train_gpt.py of github.com/openai/parameter-golf: RMS norms without gains, U-shaped skips, grouped-query attention
with normed and rotated queries and keys, squared ReLU, tanh soft-capped logits. Other networks have no forward pass here;
compare.py lets tiepack itself measure them.
"""
import torch
import torch.nn.functional as F

ARCH = "parameter-golf-baseline"
PLAIN = {"arch", "vocab_size", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult", "tie_embeddings",
         "logit_softcap", "rope_base", "train_seq_len"}


def knows(config):
    """Whether this is the baseline without any of its descendants' changes."""
    return config.get("arch") == ARCH and config.get("tie_embeddings", True) and set(config) <= PLAIN


def logits(config, p, ids, linear=F.linear):
    """Logits (B, T, V) of token ids (B, T), with all tensors `p` by name."""
    layers, dim, heads, kv = (config[k] for k in ("num_layers", "model_dim", "num_heads", "num_kv_heads"))
    size, (batch, length) = dim // heads, ids.shape
    frequency = config["rope_base"] ** (-torch.arange(0, size, 2, device=ids.device).float() / size)
    angle = torch.outer(torch.arange(length, device=ids.device).float(), frequency)
    cos, sin = angle.cos(), angle.sin()

    def norm(x):
        return F.rms_norm(x, (x.shape[-1],))

    def split(x, n):
        return x.view(batch, length, n, size).transpose(1, 2)

    def rotated(x):
        a, b = norm(x).chunk(2, -1)
        return torch.cat((a * cos + b * sin, b * cos - a * sin), -1)

    x = x0 = norm(F.embedding(ids, p["tok_emb.weight"]))
    half, kept = layers // 2, []
    for i in range(layers):
        own = lambda name: p[f"blocks.{i}.{name}"]
        if i >= half and kept:
            x = x + p["skip_weights"][i - half] * kept.pop()
        mix = own("resid_mix")
        x = mix[0] * x + mix[1] * x0
        n = norm(x)
        q = rotated(split(linear(n, own("attn.c_q.weight")), heads)) * own("attn.q_gain")[:, None, None]
        k = rotated(split(linear(n, own("attn.c_k.weight")), kv))
        v = split(linear(n, own("attn.c_v.weight")), kv)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        y = linear(y.transpose(1, 2).reshape(batch, length, dim), own("attn.proj.weight"))
        x = x + own("attn_scale") * y
        hidden = linear(norm(x), own("mlp.fc.weight")).relu().square()
        x = x + own("mlp_scale") * linear(hidden, own("mlp.proj.weight"))
        if i < half:
            kept.append(x)
    cap = config["logit_softcap"]
    return cap * torch.tanh(linear(norm(x), p["tok_emb.weight"]) / cap)
