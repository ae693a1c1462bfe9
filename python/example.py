"""Trains a network that tiepack does not know, packs it, and bundles it with a script: python example.py [SECONDS]"""
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import tiepack.torch

DATA = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "pep-tiny"
NETWORK = '''import torch
class Network(torch.nn.Module):  # gated linear recurrence, one pair of matrices for all layers, head tied to the embedding
    def __init__(self, vocab=1024, width=160, layers=4):
        super().__init__()
        self.embed, self.norm = torch.nn.Embedding(vocab, width), torch.nn.LayerNorm(width)
        self.pair = torch.nn.Parameter(torch.randn(3, width, width) / width**0.5)
        self.decay = torch.nn.Parameter(torch.linspace(0.5, 4, layers)[:, None].repeat(1, width))
        self.head = torch.nn.Linear(width, vocab, bias=False)
        self.head.weight = torch.nn.init.normal_(self.embed.weight, std=0.05)
    def forward(self, ids):
        x, steps = self.embed(ids), torch.arange(ids.shape[1])
        for decay in self.decay:
            y = self.norm(x)
            a = torch.sigmoid(decay)[:, None, None] ** (steps[:, None] - steps).clamp(min=0).float() * (steps[:, None] >= steps)
            y = torch.einsum("dts,bsd->btd", a, torch.nn.functional.linear(y, self.pair[0]))
            x = x + torch.nn.functional.linear(torch.relu(y) * torch.nn.functional.linear(self.norm(x), self.pair[1]), self.pair[2])
        return self.head(self.norm(x))
'''
SCRIPT = NETWORK + '''
import tiepack, sys, numpy as np
tokens = torch.from_numpy(np.fromfile(sys.argv[1], "<u2", offset=1024).astype("i8"))
model = Network(); model.load_state_dict(tiepack.bundled())
with torch.no_grad():
    losses = [torch.nn.functional.cross_entropy(model(r[None, :-1])[0], r[1:]).item() for r in tokens[:64 * 129].view(64, 129)]
print("loss of the bundle %.6f" % np.mean(losses))
'''
exec(NETWORK)
rows = {k: np.fromfile(DATA / f"{k}_000.bin", "<u2", offset=1024).astype("i8") for k in ("train", "val")}
rows = {k: torch.from_numpy(v[:len(v) // 129 * 129].reshape(-1, 129)) for k, v in rows.items()}
model, end = Network(), time.time() + float(sys.argv[1] if len(sys.argv) > 1 else 60)
optimizer = torch.optim.Adam(model.parameters(), 2e-3)
while time.time() < end:
    batch = rows["train"][torch.randint(len(rows["train"]), (8,))]
    loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad(), loss.backward(), optimizer.step()

def losses(module):
    with torch.no_grad():
        return [F.cross_entropy(module(row[None, :-1])[0], row[1:]).item() for row in rows["val"][:64]]

statistics = tiepack.torch.measure(model, rows["train"][:256, :-1].split(4))
pathlib.Path("script.py").write_text(SCRIPT)
report = tiepack.torch.pack(model, statistics, "network.tiepack", cap="100kB", bundle="script.py", evaluate=losses)
judged = report["verdict"]["judged"]
print("loss {original:.6f}, packed {packed:.6f}, difference {difference[value]:+.4f} ± {difference[standard_error]:.4f}".format(**judged))
print({name: f"{n:,}" for name, n in report["bundle"]["bytes"].items()}, "bytes")
