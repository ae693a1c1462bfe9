"""Seconds of a training step beside PyTorch's: the same network, tokens of a step, optimisers and number of threads, in f32.

  cargo build --release --examples
  python examples/train_tied/speed.py [--dim 256 --layers 9 --context 256] [--threads 2] [--rounds 3]

The peer is fixtures/make_fixture.py, eager PyTorch. Rounds alternate; what is printed is the medians. CPU seconds count all threads,
which is what a busy machine leaves comparable. It needs torch, numpy and safetensors (target/peers/bin/python has them once
examples/peers/compare.py has run).
"""
import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "fixtures" / "pep-tiny"
SHAPE = "LAYERS, DIM, HEADS, KV, MULT, VOCAB, LENGTH = 6, 80, 4, 2, 2, 1024, 128"
STEPS = "BATCH, DECIDE_EVERY = 16, 8"


def cpu(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def ours(args):
    """Wall and CPU seconds of a step: a long run less a short one."""
    def run(steps):
        with tempfile.TemporaryDirectory() as out:
            command = [ROOT / "target/release/examples/train_tied", DATA, out, "--steps", steps, "--dim", args.dim, "--layers",
                       args.layers, "--context", args.context, "--batch", args.batch, "--threads", args.threads, "--val-rows", 1,
                       "--checkpoint-every", 0, "--quiet"]
            began, used = time.time(), cpu(resource.RUSAGE_CHILDREN)
            subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, check=True)
            return time.time() - began, cpu(resource.RUSAGE_CHILDREN) - used
    short, long = run(3), run(3 + args.steps)
    return [(b - a) / args.steps for a, b in zip(short, long)]


def peer(args):
    """The same for PyTorch, after three steps to warm up; runs in a process of its own."""
    source = (ROOT / "fixtures" / "make_fixture.py").read_text()
    assert SHAPE in source and STEPS in source
    source = source.replace(SHAPE, f"LAYERS, DIM, HEADS, KV, MULT, VOCAB, LENGTH = {args.layers}, {args.dim}, 4, 2, 2, 1024, {args.context}")
    source = source.replace(STEPS, f"BATCH, DECIDE_EVERY = {args.batch // args.context}, 10**9")
    script = {"__name__": "peer"}
    exec(compile(source, "make_fixture.py", "exec"), script)
    import numpy
    import torch
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokens, parameters, rope = script["read_shard"](DATA / "train_000.bin"), script["new_parameters"](), script["rope_tables"]()
    train = lambda steps: script["train"](parameters, rope, tokens, steps, 0.1, numpy.random.default_rng(0))
    train(3)
    began, used = time.time(), cpu(resource.RUSAGE_SELF)
    train(args.steps)
    print((time.time() - began) / args.steps, (cpu(resource.RUSAGE_SELF) - used) / args.steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in dict(dim=80, layers=6, context=128, batch=2048, threads=1, steps=20, rounds=3).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(args)
    # Threads of PyTorch that wait for each other sleep: on a busy machine those that spin are many times slower.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(args.threads)}
    found = {"train_tied": [], "PyTorch": []}
    for _ in range(args.rounds):
        found["train_tied"].append(ours(args))
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--peer"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              env=env, text=True, check=True)
        found["PyTorch"].append([float(seconds) for seconds in done.stdout.split()])
    for name, rounds in found.items():
        wall, used = (statistics.median(times) * 1000 for times in zip(*rounds))
        print(f"{name:10}  {wall:7.0f} ms a step, {used:7.0f} CPU ms")


if __name__ == "__main__":
    main()
