"""tiepack beside the packers it has to beat: one model, the same validation rows, one table.

  python examples/compare_packers.py --tiepack target/release/tiepack --peers PEERS --model MODEL --val VAL.bin --train TRAIN.bin

PEERS is the folder with packers.py, nncodec_pack.py, probe.py and golfnet.py; this interpreter needs what they need
(torch, numpy, safetensors, brotli, zstandard; nncodec for --nncodec; numba for --recipe; the lrzip command for its rows).

  --rows 128                      validation rows, from the first
  --caps 810000,905000,1125000    a tiepack artifact for each
  --effort normal                 fast, normal or max
  --nncodec -11.82,-11.005        log2 of NNCodec's mean step, a row for each
  --records 6:7:12.85:14,...      more settings of the records' packer: bits and clip (in standard deviations) of matrices
                                  and embedding, as BITS:EMBEDDING BITS:CLIP:EMBEDDING CLIP
  --recipe 3e-4,5e-4              step sizes of recipe.py, whose bytes are ideal code lengths
  --skip-packers                  leave packers.py's own list out
  --repeat 1                      packs per time; the median is shown
  --keep DIR                      keep the artifacts there

What the figures are:
- bytes of tiepack are the size of the file. A peer's are what its script counts, plus what that leaves out and a file
  needs (configuration, tie map, and for packers.py tensor names and shapes), as JSON under brotli; the charge is printed.
- KL, loss difference and same top of every row come from probe.py, so from PyTorch: tiepack's artifact is unpacked to
  safetensors and loaded like any other model. What tiepack says of itself stands beside it.
- seconds are wall-clock and leave out what is measured once per model, the curvature: tiepack from start to exit with
  cached statistics, verification included; a peer as its script counts. A second table has tiepack's times with and
  without cached statistics, and its memory.
- lossless rows hold every tensor bit for bit; tiepack's is compared with the model file after unpacking. probe.py keeps
  the original's probabilities in half precision, so even there the same top token falls a little short of 100 %.
Progress goes to stderr.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

LINE = re.compile(r"(?P<name>.*?)\s+(?P<bytes>\d+) B\s+[\d.]+ b/w\s+dloss (?P<loss>\S+)\s+KL (?P<kl>\S+)\s+"
                  r"same top (?P<top>\S+) %\s+(?P<seconds>\S+) s")


@dataclass
class Row:
    packer: str
    bytes: int
    kl: float
    loss: float
    top: float  # percent
    seconds: float
    own: float | None = None  # KL as the packer itself measured it


@dataclass
class Run:
    """One finished process."""
    output: str
    seconds: float
    cpu: float
    memory: int  # peak resident bytes


# Starts a command and writes down what it used. A process's peak memory begins at its parent's, so the parent is small.
LAUNCHER = """
import json, os, sys, time
start = time.monotonic()
child = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
_, status, used = os.wait4(child, 0)
memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
with open(sys.argv[1], "w") as out:
    json.dump((time.monotonic() - start, used.ru_utime + used.ru_stime, memory), out)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, echo=False, **options):
    """Runs a command, with its stdout on stderr if `echo`; exits where it fails."""
    command = [str(part) for part in command]
    say("$ " + " ".join(command))
    with tempfile.NamedTemporaryFile("r") as used:
        launch = [sys.executable, "-S", "-c", LAUNCHER, used.name, *command]
        process = subprocess.Popen(launch, stdout=subprocess.PIPE, text=True, **options)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if echo:
                say("  " + line.rstrip())
        if process.wait():
            sys.exit(f"exit code {process.returncode} of: {' '.join(command)}\n{''.join(lines)}")
        return Run("".join(lines), *json.load(used))


def peer(arguments, peers, charge, label=""):
    """Rows that a peer's script prints, with `charge` bytes for what it does not count."""
    environment = os.environ | {"PYTHONPATH": str(peers), "PYTHONDONTWRITEBYTECODE": "1"}
    output = run([sys.executable, *arguments], echo=True, env=environment).output
    found = [m for m in map(LINE.fullmatch, output.splitlines()) if m]
    if not found:
        sys.exit(f"no result in what {arguments[0]} printed:\n{output}")
    return [Row(" ".join(m["name"].split()) + label, int(m["bytes"]) + charge, float(m["kl"]), float(m["loss"]),
                float(m["top"]), float(m["seconds"])) for m in found]


def raw_tensors(path):
    """Name: (element type, shape, bytes), as the file has them."""
    from safetensors import deserialize
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in deserialize(path.read_bytes())}


class Tiepack:
    def __init__(self, args, model, probe, folder, cache):
        self.args, self.model, self.probe, self.folder, self.cache = args, model, probe, folder, cache
        self.times = []

    def pack(self, name, options):
        """The artifact, its verdict, and the packs that were timed."""
        a, artifact = self.args, self.folder / f"{name}.tiepack"
        command = [a.tiepack, "pack", a.model, "-o", artifact, "--val", a.val, "--val-rows", a.rows, "--json", "--quiet",
                   *options]
        done, files = [], set()
        for repetition in range(a.repeat):
            # Every repetition has its own cache, so that each measures once and finds its own afterwards.
            done.append(run(command if "--lossless" in options else [*command, "--cache", self.cache / str(repetition)]))
            files.add(artifact.read_bytes())
        assert len(files) == 1, "the same command gave different files"
        report = json.loads(done[-1].output)
        assert artifact.stat().st_size == report["verdict"]["artifact"]["bytes"], "the verdict is about another file"
        return artifact, report, done

    def unpack(self, artifact):
        out = self.folder / (artifact.stem + "-unpacked")
        run([self.args.tiepack, "unpack", artifact, "-o", out, "--force", "--quiet"])
        return out / "model.safetensors"

    def row(self, label, artifact, report, done, weights):
        """Evaluates unpacked weights with PyTorch."""
        import torch
        from safetensors.torch import load_file
        tensors = {k: v.float() for k, v in load_file(weights).items()}
        assert tensors.keys() == self.model.tensors.keys(), "the artifact has other tensors than the model"
        for name, source in self.model.alias.items():
            assert torch.equal(tensors[name], tensors[source]), f"{name} is no longer tied to {source}"
        loss, kl, same = self.probe(tensors)
        size, own = artifact.stat().st_size, report["verdict"]["evaluation"]["cost"]
        say(f"  {size} B: KL {kl:.5f}, by itself {own['divergence']['mean']['value']:.5f}; loss {loss:+.5f}, by itself "
            f"{own['nats_per_token']['value']:+.5f}")
        return Row(label, size, kl, loss, 100 * same, middle(done, "seconds"), own["divergence"]["mean"]["value"])

    def capped(self, cap):
        a = self.args
        options = ["--cap", cap, "--calib", a.train, "--effort", a.effort]
        artifact, report, done = self.pack(cap, options)
        if not report["cached_statistics"]:
            self.time(f"{cap:,}, statistics measured", report, done)
            first = artifact.read_bytes()
            artifact, report, done = self.pack(cap, options)
            assert artifact.read_bytes() == first, "cached statistics change the artifact"
        assert report["cached_statistics"], "the statistics were not found again"
        self.time(f"{cap:,}, statistics cached", report, done)
        return self.row(f"**tiepack --cap {cap:,}**", artifact, report, done, self.unpack(artifact))

    def lossless(self, tensors):
        artifact, report, done = self.pack("lossless", ["--lossless", "--cap", "1GB"])
        self.time("--lossless", report, done)
        weights = self.unpack(artifact)
        assert raw_tensors(weights) == tensors, "not every tensor came back bit for bit"
        return self.row("**tiepack --lossless**", artifact, report, done, weights)

    def time(self, label, report, done):
        steps = ", ".join(f"{step['stage']} {step['seconds']:.1f}" for step in report["steps"])
        memory = max(run.memory for run in done) / 2**20
        self.times.append([label, f"{middle(done, 'seconds'):.1f}", f"{middle(done, 'cpu'):.1f}",
                           f"{steps}, verify {report['verdict']['seconds']:.1f}", f"{memory:.0f}"])


def middle(runs, field):
    return statistics.median(getattr(run, field) for run in runs)


def lossless_peers(model, tensors, charge):
    """General compressors on byte planes: all first bytes of an element type's tensors, then all second bytes, ..."""
    import brotli
    import zstandard
    stored = [tensors[name] for name in model.matrices + model.small]
    planes = b""
    for dtype in sorted({t[0] for t in stored}):
        data = b"".join(t[2] for t in stored if t[0] == dtype)
        width = {"BF16": 2, "F16": 2, "F32": 4}[dtype]
        planes += b"".join(data[i::width] for i in range(width))
    for name, compress in (("zstd-22", lambda b: zstandard.compress(b, 22)),
                           ("brotli-11", lambda b: brotli.compress(b, quality=11, lgwin=24))):
        start = time.monotonic()
        size = len(compress(planes)) + charge
        yield Row(f"{name} on byte planes, lossless", size, 0.0, 0.0, 100.0, time.monotonic() - start)


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def parse(argv):
    argv = list(argv)
    if "--nncodec" in argv[:-1]:  # argparse takes a list of negative numbers for an option
        i = argv.index("--nncodec")
        argv[i : i + 2] = [f"--nncodec={argv[i + 1]}"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage=argparse.SUPPRESS)
    numbers = lambda text: [int(n) for n in text.split(",")]
    for name in ("tiepack", "peers", "model", "val", "train"):
        parser.add_argument(f"--{name}", type=lambda p: pathlib.Path(p).resolve(), required=True)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--caps", type=numbers, default=[810_000, 905_000, 1_125_000])
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--nncodec", default="")
    parser.add_argument("--records", default="")
    parser.add_argument("--recipe", default="")
    parser.add_argument("--skip-packers", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path)
    return parser.parse_args(argv)


def main():
    args = parse(sys.argv[1:])
    load = os.getloadavg()[0]
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(args.peers))
    import brotli
    from golfnet import Model, shard
    from probe import Probe

    model = Model(args.model)
    tensors = raw_tensors(args.model / "model.safetensors")
    about = {file: json.loads((args.model / file).read_text()) for file in ("config.json", "ties.json")}
    about["ties.json"] = about["ties.json"]["copies"]
    shapes = {name: tensors[name][:2] for name in model.matrices + model.small}
    charge = lambda what: len(brotli.compress(json.dumps(what, separators=(",", ":")).encode(), quality=11))
    bare, named = charge(about), charge(about | {"tensors": shapes})

    files = [args.model, args.val, args.train]
    rows = []
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as cache:
        folder = args.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tiepack = Tiepack(args, model, Probe(model, shard(args.val), args.rows), folder, pathlib.Path(cache))
        rows += [tiepack.capped(cap) for cap in args.caps]
        rows.append(tiepack.lossless(tensors))
    rows += lossless_peers(model, tensors, named)
    if args.nncodec:
        script = args.peers / "nncodec_pack.py"
        rows += peer([script, *files, args.nncodec, "curvature", args.rows], args.peers, bare)
    if not args.skip_packers:
        rows += peer([args.peers / "packers.py", *files, args.rows], args.peers, named)
    if args.records:
        settings = [tuple(map(float, s.split(":"))) for s in args.records.split(",")]
        settings = [(int(b), int(e), k, s) for b, e, k, s in settings]
        code = f"import sys, packers; packers.RECORDS = {settings}; packers.main(*sys.argv[1:])"
        rows += peer(["-c", code, *files, args.rows], args.peers, named)
    if args.recipe:
        rows += peer([args.peers / "recipe.py", *files, args.recipe, "tcq-rdo-r50-c50", args.rows], args.peers, named,
                     " (ideal code lengths, without vectors)")

    # packers.py run twice prints its fixed row twice.
    rows = list({(r.packer, r.bytes): r for r in rows}.values())
    print(f"{args.model.name}: {model.stored_weights:,} stored weights, the first {args.rows} validation rows of "
          f"{model.config['train_seq_len']} tokens.\n")
    table(["packer", "bytes, everything", "bits a weight", "KL, nats/token", "by itself", "loss difference", "same top, %",
           "seconds"],
          [[r.packer, f"{r.bytes:,}", f"{8 * r.bytes / model.stored_weights:.3f}", f"{r.kl:.5f}",
            "" if r.own is None else f"{r.own:.5f}", f"{r.loss:+.5f}", f"{r.top:.2f}", f"{r.seconds:.1f}"]
           for r in sorted(rows, key=lambda r: -r.bytes)])
    print(f"Peers' bytes include {named} for configuration, tie map, names and shapes ({bare} without names for NNCodec, "
          "which has them in its stream).\n")
    table([f"tiepack --effort {args.effort}", "wall s", "CPU s", "of it", "peak MiB"], tiepack.times)
    print(f"{os.cpu_count()} logical cores ({platform.machine()}), load average {load:.1f} at the start, "
          f"{os.getloadavg()[0]:.1f} at the end, median of {args.repeat}.")


if __name__ == "__main__":
    main()
