"""tiepack beside the packers it has to beat: one model, the same validation rows, one table.

  python examples/peers/compare.py [MODEL]

MODEL is a folder with model.safetensors, config.json, ties.json, train_*.bin and val_*.bin; without one it is
fixtures/pep-tiny. The first run makes an environment under target/ and installs requirements.txt into it, then builds tiepack.

  --val FILE, --train FILE    token shards, where they do not lie in MODEL
  --caps 70kB,100kB,140kB     a tiepack artifact for each [default: 3, 4 and 5 bits a weight]
  --rows 128                  validation rows, from the first
  --effort normal             fast, normal or max
  --only a,b                  these peers only: int8_zlib, records, nncodec_peer, kquants, lossless
  --json FILE                 the rows as JSON, as `tiepack frontier --peers FILE` takes them
  --here                      use this interpreter's packages and tiepack on PATH (or --tiepack FILE) as they are

What the figures are:
- bytes are those of a real file, or of what a peer writes plus what that leaves out and a file needs (configuration, tie
  map, names, shapes), as JSON under brotli.
- every row was read back before it was measured. KL, loss difference and same top come from forward.py, an independent
  pass in PyTorch, for the challenge's baseline; for other networks from `tiepack diff`, and the peers that need PyTorch's
  curvature are left out. tiepack's artifacts are unpacked and loaded like any other model.
- seconds are wall-clock of packing alone; for tiepack from start to exit, measuring and verifying included.
Progress goes to stderr, the table to stdout.
"""
import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEERS = ["int8_zlib", "records", "nncodec_peer", "kquants", "lossless"]
NEED_CURVATURE = {"records", "nncodec_peer"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def environment():
    """The interpreter of the environment under target/, made where there is none."""
    folder = ROOT / "target" / "peers"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = folder / "installed"
    wanted = (HERE / "requirements.txt").read_text()
    if not done.exists() or done.read_text() != wanted:
        say(f"installing requirements.txt into {folder.relative_to(ROOT)}")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"], check=True)
        done.write_text(wanted)
    return python


def build():
    say("building tiepack")
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
    return ROOT / "target" / "release" / "tiepack"


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = lambda text: pathlib.Path(text).resolve()
    parser.add_argument("model", type=path, nargs="?", default=ROOT / "fixtures" / "pep-tiny")
    parser.add_argument("--val", type=path)
    parser.add_argument("--train", type=path)
    parser.add_argument("--caps")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--only", default=",".join(PEERS))
    parser.add_argument("--json", type=path)
    parser.add_argument("--tiepack", default="tiepack")
    parser.add_argument("--here", action="store_true")
    return parser.parse_args(argv)


def first(folder, pattern):
    found = sorted(folder.glob(pattern))
    if not found:
        sys.exit(f"there is no {pattern} in {folder}: name one")
    return found[0]


def ours(args, model, score, val, train):
    """tiepack's rows: packed, unpacked, and loaded like any other model."""
    import tempfile

    import model as models
    caps = args.caps or ",".join(str(model.weights * bits // 8) for bits in (3, 4, 5))
    for cap in [*caps.split(","), "lossless"]:
        with tempfile.TemporaryDirectory() as folder:
            artifact = pathlib.Path(folder) / "model.tiepack"
            kind = ["--lossless", "--cap", "100GB"] if cap == "lossless" else ["--cap", cap, "--effort", args.effort]
            command = [args.tiepack, "pack", args.model, "-o", artifact, *kind, "--calib", train, "--val", val, "--quiet"]
            start = time.monotonic()
            done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
            seconds = time.monotonic() - start
            if done.returncode:
                say(f"tiepack --cap {cap}: exit code {done.returncode}")
                continue
            subprocess.run([args.tiepack, "unpack", artifact, "-o", f"{folder}/out", "--quiet"], check=True,
                           stdout=subprocess.DEVNULL)
            back = models.load(f"{folder}/out")
            changed = {name: back.tensors[name] for name in model.stored}
            label = "tiepack --lossless, exact" if cap == "lossless" else f"tiepack --cap {cap}"
            yield label, artifact.stat().st_size, score(changed), seconds, True


def theirs(args, model, score, train):
    import forward
    measured = None
    for name in [p for p in args.only.split(",") if p]:
        if name in NEED_CURVATURE and not forward.knows(model.config):
            say(f"{name}: left out, it needs PyTorch's curvature of this network")
            continue
        if name in NEED_CURVATURE and measured is None:
            import curvature
            say("measuring curvature in PyTorch")
            measured = curvature.measure(model, train)
        try:
            packed = importlib.import_module(name).rows(model=model, curvature=measured, say=say)
            start = time.monotonic()
            for label, size, back in packed:
                seconds = time.monotonic() - start
                yield label, size + model.overhead(), score(back), seconds, False
                start = time.monotonic()
        except ImportError as why:
            say(f"{name}: left out, {why}")


def table(model, score, rows):
    print(f"{model.folder.name}: {model.weights:,} stored weights in matrices; KL and loss by {score.name}, nats per token.\n")
    print("| packer | bytes | bits a weight | KL | loss difference | same top token | seconds |\n|---|---|---|---|---|---|---|")
    for label, size, (kl, loss, same), seconds, mine in sorted(rows, key=lambda row: -row[1]):
        name = f"**{label}**" if mine else label
        print(f"| {name} | {size:,} | {8 * size / model.weights:.2f} | {kl:.4f} | {loss:+.4f} | {100 * same:.1f} % | "
              f"{seconds:.1f} |")


def main():
    args = parse(sys.argv[1:])
    if not args.here:
        binary = build() if args.tiepack == "tiepack" else args.tiepack
        command = [environment(), __file__, *sys.argv[1:], "--here", "--tiepack", binary]
        sys.exit(subprocess.run([str(part) for part in command]).returncode)
    sys.path.insert(0, str(HERE))
    import forward
    import model as models
    import score as scores
    model = models.load(args.model)
    val, train = args.val or first(args.model, "val_*.bin"), args.train or first(args.model, "train_*.bin")
    score = (scores.Torch(model, val, args.rows) if forward.knows(model.config)
             else scores.Tiepack(model, val, args.rows, args.tiepack))
    rows = []
    for row in [*theirs(args, model, score, train), *ours(args, model, score, val, train)]:
        rows.append(row)
    table(model, score, rows)
    if args.json:
        as_json = [{"packer": label, "bytes": size, "kl": max(kl, 0.0), "loss": loss, "same_top": same}
                   for label, size, (kl, loss, same), _, mine in rows if not mine and kl > 1e-6]
        args.json.write_text(json.dumps(as_json, indent=1) + "\n")


if __name__ == "__main__":
    main()
