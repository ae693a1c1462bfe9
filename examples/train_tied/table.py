#!/usr/bin/env python3
"""Which shape is worth its bytes: trains every shape with several seeds, packs all to one cap, prints a table.

    python examples/train_tied/table.py DATA OUT [--steps 300] [--seeds 3] [--cap 48000] [--jobs 2]

DATA holds train_*.bin, val_*.bin and the tokenizer. Every run reads the same number of training tokens. OUT keeps a folder
for every run; what is there already is not done again, so a table that was broken off goes on. Needs the release builds of
`tiepack` and of the `train_tied` example, and nothing but Python's standard library.
"""
import argparse
import concurrent.futures
import json
import pathlib
import statistics
import subprocess
import sys

TARGET = pathlib.Path(__file__).resolve().parents[2] / "target" / "release"
SHAPES = {
    "untied": [],
    "ALBERT: one block": ["--shape", "albert"],
    "Universal: one block, depth embedding": ["--shape", "universal"],
    "cycle of 2 + LoRA 4": ["--shape", "cycle", "--blocks", "2", "--rank", "4"],
    "1 early + trunk + 2 late, LoRA 4": ["--shape", "trunk", "--early", "1", "--late", "2", "--rank", "4"],
    "Dynamic Layer Tying": ["--shape", "dynamic", "--decide-every", "3"],
    "wider: cycle of 2, width for 2 bits a weight": ["--shape", "cycle", "--blocks", "2", "--rank", "0", "--bits", "2"],
}


def run(args, name, seed, flags):
    """Trains and packs one model; what is known of it."""
    slug = "".join(c if c.isalnum() else "-" for c in name)
    folder = args.out / f"{slug}-{seed}"
    kept = folder / "result.json"
    if kept.exists():
        return json.loads(kept.read_text())
    folder.mkdir(parents=True, exist_ok=True)

    def call(*command):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
        return json.loads(done.stdout)

    network = ["--dim", args.dim, "--steps", args.steps, "--cap", args.cap]
    trained = call(TARGET / "examples" / "train_tied", args.data, folder, *network, *flags, "--seed", seed, "--threads", 1,
                   "--val-rows", args.val_rows, "--checkpoint-every", 0, "--json", "--quiet")
    calib = ["--calib", *sorted(args.data.glob("train_*.bin"))]
    val = ["--val", *sorted(args.data.glob("val_*.bin")), "--val-rows", args.val_rows]
    packed = call(TARGET / "tiepack", "pack", folder, "-o", folder / "packed.tiepack", "--cap", args.cap, "--effort", "fast",
                  "--heal", "off", "--threads", 1, *calib, *val, "--json")["verdict"]
    result = dict(name=name, seed=seed, width=trained["width"], weights=trained["weights"], copies=trained["copies"],
                  trained=trained["validation"]["bits_per_byte"], bytes=packed["artifact"]["bytes"],
                  packed=packed["evaluation"]["packed"]["bits_per_byte"], tokens=trained["training_tokens"])
    kept.write_text(json.dumps(result))
    print(f"{name}, seed {seed}: {result['trained']:.4f} trained, {result['packed']:.4f} packed", file=sys.stderr, flush=True)
    return result


def row(name, results):
    """A line of the table."""
    def cell(key):
        values = [result[key] for result in results]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        return f"{statistics.mean(values):.4f} ± {error:.4f}"

    def span(key):
        low, high = (f"{f(result[key] for result in results):,}" for f in (min, max))
        return low if low == high else f"{low} to {high}"

    return f"| {name} | {span('width')} | {span('weights')} | {span('bytes')} | {cell('trained')} | {cell('packed')} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--cap", type=int, default=48000, help="bytes of every packed file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--val-rows", type=int, default=1024)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    args = parser.parse_args()

    def all_of(shapes):
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            # Seed by seed: a table that is broken off has every shape.
            tasks = [(name, pool.submit(run, args, name, seed, flags)) for seed in range(args.seeds)
                     for name, flags in shapes.items()]
            return [(name, task.result()) for name, task in tasks]

    results = all_of(SHAPES)
    mean = lambda name: statistics.mean(result["packed"] for other, result in results if other == name)
    best = min(SHAPES, key=mean)
    aware = {f"{name}; pack-aware, noise": SHAPES[name] + ["--pack-aware", "noise"] for name in dict.fromkeys([best, "untied"])}
    results += all_of(aware)
    print(f"{results[0][1]['tokens']:,} training tokens, cap {args.cap:,} bytes, {args.seeds} seeds, bits per byte\n")
    print("| shape | width | stored weights | packed bytes | trained | packed |\n|---|---|---|---|---|---|")
    for name in [*SHAPES, *aware]:
        print(row(name, [result for other, result in results if other == name]))


if __name__ == "__main__":
    main()
