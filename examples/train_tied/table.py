"""What sharing is worth at equal packed bytes and equal training tokens: trains every shape, packs it, prints a table.

  cargo build --release --bins --examples
  python examples/train_tied/table.py DATA OUT --cap 120000 --steps 150 --seeds 3

DATA is a folder of token shards (`tiepack tokens` makes them). Every model is trained on the same tokens in the same order, packed with
`--effort fast` to the same cap, and scored by the packed file's bits per byte on the first validation rows. ± is one standard
error over seeds. It needs Python alone.
"""
import argparse
import json
import pathlib
import statistics
import subprocess

BUILT = pathlib.Path(__file__).resolve().parent.parent.parent / "target" / "release"
SHAPES = {
    "untied": "--shape untied",
    "ALBERT: one block": "--shape albert",
    "Universal: one block, depth embedding": "--shape universal",
    "cycle of 2, low-rank terms of every step": "--shape cycle --blocks 2 --rank 8",
    "early 1, trunk, late 2 of rank 8": "--shape trunk --early 1 --late 2 --rank 8",
    "Dynamic Layer Tying": "--shape dynamic",
    "width scaling: cycle of 2, 3 bits a weight": "--shape cycle --blocks 2 --rank 0 --bits 3 --cap {cap}",
    "untied, pack-aware": "--shape untied --pack-aware straight --cap {cap}",
    "width scaling, pack-aware": "--shape cycle --blocks 2 --rank 0 --bits 3 --pack-aware straight --cap {cap}",
}


def run(*command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def one(args, options, seed, folder):
    options = options.format(cap=args.cap).split()
    trained = run(BUILT / "examples" / "train_tied", args.data, folder, *options, "--steps", args.steps, "--seed", seed,
                  "--val-rows", args.val_rows, "--checkpoint-every", 0, "--json", "--quiet")
    calibration, validation = sorted(args.data.glob("train_*.bin"))[0], sorted(args.data.glob("val_*.bin"))[0]
    packed = run(BUILT / "tiepack", "pack", folder, "-o", folder / "packed.tiepack", "--cap", args.cap, "--effort", "fast",
                 "--calib", calibration, "--val", validation, "--val-rows", args.val_rows, "--json", "-q")
    evaluation = packed["verdict"]["evaluation"]
    return {
        "weights": trained["weights"],
        "width": trained["width"],
        "before": evaluation["cost"]["original"]["bits_per_byte"],
        "after": evaluation["packed"]["bits_per_byte"],
        "bytes": (folder / "packed.tiepack").stat().st_size,
        "seconds": trained["step_seconds"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--cap", type=int, default=120_000)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--val-rows", type=int, default=512)
    args = parser.parse_args()
    found = {name: [] for name in SHAPES}
    # Seed by seed, so that what is there after an interruption is a table.
    for seed in range(args.seeds):
        for at, (name, options) in enumerate(SHAPES.items()):
            found[name].append(one(args, options, seed, args.out / f"{at}-{seed}"))
        (args.out / "table.json").write_text(json.dumps(found, indent=1))
        print(f"after {seed + 1} seeds\n\n| shape | width | weights | bits per byte trained | packed | bytes |\n|---|---|---|---|---|---|")
        for name, runs in sorted(found.items(), key=lambda kv: statistics.mean(r["after"] for r in kv[1])):
            mean = lambda key: statistics.mean(r[key] for r in runs)
            error = statistics.stdev(r["after"] for r in runs) / len(runs) ** 0.5 if len(runs) > 1 else float("nan")
            weights = f"{mean('weights'):,.0f}"
            print(f"| {name} | {runs[0]['width']} | {weights} | {mean('before'):.4f} | {mean('after'):.4f} ± {error:.4f} | {mean('bytes'):,.0f} |")
        print(flush=True)


if __name__ == "__main__":
    main()
