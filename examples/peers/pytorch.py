"""tiepack's own passes beside plain PyTorch: sliding windows, and tokens per second.

  python examples/peers/pytorch.py sliding [MODEL] --stride 64 --tokens 4096
  python examples/peers/pytorch.py speed [MODEL] --rows 16 --rounds 5 --threads 2 [--device cuda:0]

`sliding` scores tokens as the challenge does, in a plain loop of one forward pass a window, and compares `tiepack eval`.
`speed` alternates forward passes, statistics and training gradients of both, in f32, and prints medians; the statistics are
the same weighted Gram products behind the same backward pass, the gradient is that of the divergence from a teacher. CPU seconds count all threads, which is what a busy machine leaves comparable.

MODEL is fixtures/pep-tiny or a folder of the challenge's baseline. It needs the packages of requirements.txt (those of
`target/peers` do), and `cargo build --release --bins --examples`.
"""
import argparse
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

# Threads of PyTorch that wait for each other sleep: on a busy machine those that spin are many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.nn.functional as F

import forward
import model as models

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILT = ROOT / "target" / "release"


@torch.no_grad()
def sliding(args, model, val):
    """Nats of the first tokens: windows begin every `stride` tokens, each token is scored by the first window that has it."""
    length, p = model.config["train_seq_len"], model.whole({})
    ids = models.tokens(val)[: args.tokens + 1]
    nats, scored = 0.0, 0
    for start in range(0, len(ids), args.stride):
        end = min(start + length, len(ids) - 1)
        if end <= scored:
            break
        lp = F.log_softmax(forward.logits(model.config, p, ids[start:end][None])[0].double(), -1)
        own = ids[start + 1 : end + 1]
        nats -= lp.gather(-1, own[:, None])[scored - start :].sum().item()
        scored = end
    assert scored == args.tokens, f"{scored} tokens scored"
    command = [BUILT / "tiepack", "eval", args.model, "--val", val, "--stride", args.stride, "--limit", args.tokens, "--json", "-q"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    evaluation = json.loads(done.stdout)["evaluation"]
    theirs, ours = nats / scored, evaluation["packed"]["nats_per_token"]
    print(f"{scored} tokens, windows of {length}, stride {args.stride}: nats per token PyTorch {theirs:.9f}, "
          f"tiepack {ours:.9f}, relative difference {ours / theirs - 1:+.1e}")
    if evaluation["text_bytes"]:
        bits = nats / math.log(2) / evaluation["text_bytes"]
        print(f"bits per byte PyTorch {bits:.9f}, tiepack {evaluation['packed']['bits_per_byte']:.9f}")


class Tap(torch.autograd.Function):
    """A linear layer that adds up tiepack's statistics: |g|² x xᵀ, and |x|² g gᵀ in blocks of rows."""

    @staticmethod
    def forward(ctx, x, w, sums):
        ctx.save_for_backward(x, w)
        ctx.sums = sums
        return F.linear(x, w)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        flat_x, flat_g = x.flatten(0, -2), g.flatten(0, -2)
        a, b = flat_x * flat_g.norm(dim=1, keepdim=True), flat_g * flat_x.norm(dim=1, keepdim=True)
        ctx.sums["input"].addmm_(a.T, a)
        if len(w) <= 1024:
            ctx.sums["output"].addmm_(b.T, b)
        elif ctx.sums["embedding"]:
            ctx.sums["output"] += b.square().sum(0)
        else:
            for part, total in zip(b.split(512, 1), ctx.sums["output"].split(512)):
                total[:, : part.shape[1]].addmm_(part.T, part)
        return g @ w, None, None


def speed(args, model, val):
    torch.set_num_threads(args.threads)
    length = model.config["train_seq_len"]
    rows = min(args.rows, (len(models.tokens(val)) - 1) // length)
    ids = models.tokens(val)[: rows * length].view(rows, length).to(args.device)
    batches = ids.split(max(1, args.batch // length))
    p = {name: t.to(args.device).clone().requires_grad_() for name, t in model.whole({}).items()}
    by_tensor = {id(p[name]): source for name, source in model.alias.items()}
    sums = {}
    for name in model.matrices:
        r, c = model.tensors[name].shape
        embedding = "emb" in name
        shape = (r, r) if r <= 1024 else (r,) if embedding else (r, 512)
        zeros = lambda *shape: torch.zeros(*shape, device=args.device)
        sums[name] = {"input": zeros(c, c), "output": zeros(shape), "embedding": embedding}
    tap = lambda x, w: Tap.apply(x, w, sums[by_tensor[id(w)]])

    @torch.no_grad()
    def only_forward():
        for x in batches:
            F.log_softmax(forward.logits(model.config, p, x), -1)

    def curvature():
        for x in batches:
            out = forward.logits(model.config, p, x, linear=tap)
            signs = torch.randint(0, 2, out.shape, device=args.device) * 2 - 1
            root = out.detach().softmax(-1).sqrt() * signs
            out.backward(root - root.square() * root.sum(-1, keepdim=True))

    student = {name: t.detach().clone().requires_grad_() for name, t in p.items()}

    def gradient():
        for x in batches:
            with torch.no_grad():
                teacher = F.log_softmax(forward.logits(model.config, p, x), -1)
            own = F.log_softmax(forward.logits(model.config, student, x), -1)
            F.kl_div(own, teacher, log_target=True, reduction="sum").backward()

    found = {}
    for _ in range(args.rounds):
        for name, run in (("forward", only_forward), ("statistics", curvature), ("gradient", gradient)):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if args.device != "cpu":
                torch.cuda.synchronize()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            found.setdefault((name, "PyTorch"), []).append((ids.numel() / wall, ids.numel() / cpu))
        command = [BUILT / "examples" / "speed", args.model, "--tokens", val, "--rows", rows, "--times", 3, "--threads", args.threads, "--device", args.device]
        # As the binary does for itself: candle's own threads would wait for each other.
        env = {**os.environ, "CANDLE_NUM_THREADS": "1"}
        out = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True, env=env).stdout
        for name, wall, cpu in re.findall(r"(\w+): median (\d+) tokens/s.* (\d+) tokens a CPU second", out):
            found.setdefault((name, "tiepack"), []).append((float(wall), float(cpu)))
    print(f"{model.folder.name}: {ids.numel()} tokens a pass, medians of {args.rounds} alternating rounds, {args.threads} threads, {args.device}")
    for name in ("forward", "statistics", "gradient"):
        medians = {who: [statistics.median(column) for column in zip(*found[name, who])] for who in ("PyTorch", "tiepack")}
        told = ", ".join(f"{who} {wall:,.0f} tokens/s, {cpu:,.0f} a CPU second" for who, (wall, cpu) in medians.items())
        ratio = [a / b for a, b in zip(medians["tiepack"], medians["PyTorch"])]
        print(f"{name}: {told}; tiepack {ratio[0]:.2f} times PyTorch by the clock, {ratio[1]:.2f} times by CPU time")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sliding", "speed"])
    parser.add_argument("model", type=pathlib.Path, nargs="?", default=ROOT / "fixtures" / "pep-tiny")
    parser.add_argument("--val", type=pathlib.Path)
    parser.add_argument("--stride", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2048, help="tokens of one pass in PyTorch; tiepack chooses its own")
    parser.add_argument("--device", default="cpu", help="of `speed`: cpu or cuda:N, where tiepack was built with its feature cuda")
    args = parser.parse_args()
    model = models.load(args.model)
    if not forward.knows(model.config):
        sys.exit(f"{args.model} is not the challenge's baseline: there is no forward pass of it here")
    val = args.val or next(iter(sorted(args.model.glob("val_*.bin"))), None)
    if not val:
        sys.exit(f"there is no val_*.bin in {args.model}: name a shard by --val")
    {"sliding": sliding, "speed": speed}[args.what](args, model, val)


if __name__ == "__main__":
    main()
