"""KL against the time that healing takes: one pack for every number of steps, a table, a picture.

  python examples/peers/heal_curve.py [MODEL] [--cap 100kB] [--steps 0,20,60,120,300,900] [--svg curve.svg] [-- PACK OPTIONS]

MODEL is fixtures/pep-tiny where none is given; whatever follows `--` goes to `tiepack pack` (as --calib, --val, --val-rows). Needs
Python 3.9 alone; builds tiepack first, or takes --tiepack FILE. The time is that of healing as pack's own `time` line has it; run
it on a machine that does nothing else. Progress goes to stderr, the table to stdout.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

STYLE = """svg { color-scheme: light dark; --paper: #fff; --ink: #1c1e22; --soft: #686c74; --rule: #e2dfd6; --accent: #0f766e;
  font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #1b1e22; --ink: #ebe9e3; --soft: #9a9fa8; --rule: #30343a; --accent: #2dd4bf; }
}
text { fill: var(--ink); } .soft { fill: var(--soft); } .end { text-anchor: end; } .mid { text-anchor: middle; }
.rule { stroke: var(--rule); } .curve { stroke: var(--accent); stroke-width: 2.2; fill: none; }
.bar { stroke: var(--accent); stroke-width: 1.4; } .dot { fill: var(--accent); } .paper { fill: var(--paper); }"""


def pack(tiepack, model, cap, steps, options):
    """KL with its standard error, loss difference with its, bytes, and seconds of healing."""
    with tempfile.TemporaryDirectory() as folder:
        command = [tiepack, "pack", model, "-o", f"{folder}/model.tiepack", "--cap", cap,
                   "--heal", str(steps) if steps else "off", "--json", "--quiet", *options]
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    document = json.loads(done.stdout) if done.stdout else {}
    if done.returncode:
        sys.exit(f"tiepack pack --heal {steps}: exit code {done.returncode}: {document.get('error', '')}")
    cost = document["verdict"]["evaluation"]["cost"]
    seconds = sum(stage["seconds"] for stage in document["stages"] if stage["stage"] == "heal")
    return cost["divergence"]["mean"], cost["nats_per_token"], document["verdict"]["artifact"]["bytes"], seconds


def draw(points, title):
    """An SVG of KL over seconds; the height is logarithmic."""
    width, height, left, right, top, bottom = 720, 320, 62, 44, 40, 48
    longest = max(seconds for *_, seconds in points) or 1.0
    # Room above and below for the bars and the numbers of steps.
    low, high = (f(kl["value"] for _, kl, *_ in points) for f in (min, max))
    low, high = math.log(low) - 0.12, math.log(high) + 0.18
    x = lambda seconds: left + seconds / longest * (width - left - right)
    y = lambda kl: top + (high - math.log(kl)) / (high - low) * (height - top - bottom)
    out = [f'<rect class="paper" width="{width}" height="{height}" rx="10"/>',
           f'<text x="{left}" y="24" class="soft">KL(original ‖ packed), nats a token, by steps: {title}</text>',
           f'<text x="{width - right}" y="{height - 10}" class="soft end">seconds of healing</text>']
    unit = 10 ** math.floor(math.log10(math.exp(high)))
    for mark in (n * scale for scale in (unit / 10, unit) for n in range(1, 10)):
        if low <= math.log(mark) <= high:
            out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" class="rule"/>')
            out.append(f'<text x="{left - 8}" y="{y(mark) + 4:.1f}" class="soft end">{mark:.4g}</text>')
    step = 10 ** math.floor(math.log10(longest))
    step = next(step / part for part in (1, 2, 5, 10) if longest * part / step >= 4)
    for k in range(int(longest / step) + 1):
        out.append(f'<text x="{x(k * step):.1f}" y="{height - bottom + 20}" class="soft mid">{k * step:g}</text>')
    line = " ".join(f"{x(seconds):.1f},{y(kl['value']):.1f}" for _, kl, _, _, seconds in ordered(points))
    out.append(f'<polyline points="{line}" class="curve"/>')
    for steps, kl, _, _, seconds in ordered(points):
        ends = [y(kl["value"] + sign * kl["standard_error"]) for sign in (-1, 1)]
        out.append(f'<line x1="{x(seconds):.1f}" x2="{x(seconds):.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" class="bar"/>')
        out.append(f'<circle cx="{x(seconds):.1f}" cy="{y(kl["value"]):.1f}" r="4" class="dot"/>')
        out.append(f'<text x="{x(seconds) + 7:.1f}" y="{y(kl["value"]) - 7:.1f}">{steps or "off"}</text>')
    body = "\n".join(out)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="KL against seconds of healing">\n<style>\n{STYLE}\n</style>\n{body}\n</svg>\n')


def ordered(points):
    return sorted(points, key=lambda point: point[-1])


def main():
    argv, options = sys.argv[1:], []
    if "--" in argv:
        argv, options = argv[:argv.index("--")], argv[argv.index("--") + 1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, nargs="?", default=ROOT / "fixtures" / "pep-tiny")
    parser.add_argument("--cap", default="100kB")
    parser.add_argument("--steps", default="0,20,60,120,300,900")
    parser.add_argument("--svg", type=pathlib.Path)
    parser.add_argument("--tiepack")
    args = parser.parse_args(argv)
    tiepack = args.tiepack
    if not tiepack:
        print("building tiepack", file=sys.stderr)
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
        tiepack = ROOT / "target" / "release" / "tiepack"
    points = []
    print("| steps | seconds of healing | bytes | KL | loss |\n|---|---|---|---|---|", flush=True)
    for steps in (int(part) for part in args.steps.split(",")):
        kl, loss, size, seconds = pack(tiepack, args.model, args.cap, steps, options)
        points.append((steps, kl, loss, size, seconds))
        print(f"| {steps or 'off'} | {seconds:.0f} | {size:,} | {kl['value']:.4f} ± {kl['standard_error']:.4f} "
              f"| {loss['value']:+.4f} ± {loss['standard_error']:.4f} |", flush=True)
    if args.svg:
        args.svg.write_text(draw(points, f"{args.model.name} at {args.cap}"), encoding="utf-8")


if __name__ == "__main__":
    main()
