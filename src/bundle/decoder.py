"""The small decoder: from an artifact's streams to tensors. Bundles carry it, minified, with decoder.c, which it compiles, or
turns into Python where there is no compiler. Specified in formats/artifact.md.

A line marked with a number, and what is indented below it, is left out where no stream is of that codec. So are the
checks, what begins with `fine`: a bundle was made of a sound artifact, and has checked by its hash that it is still that.
"""
import concurrent.futures
import ctypes
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import types

import numpy as np


def fine(is_fine):
    if not is_fine:
        raise ValueError("the artifact is damaged")


def curve(reach, one):
    """65536 / (1 + exp(-x / 256)) from -reach to reach, with powers in units of 1 / one."""
    power, up = one, []
    for _ in range(reach + 1):
        up.append(min(65535, (65536 * one + (one < 1 << 64) * (one + power) // 2) // (one + power)))
        power = power * (4593706758521714574 * one >> 62) // one
    return [65536 - p for p in up[:0:-1]] + up


def make_tables(shape):
    """What decoder.c calls T."""
    squash, count = curve(3071, 1 << 64), np.arange(1024)
    parts = [
        curve(2816, 1 << 62),
        (np.log2(1 + count[:256] / 256) * 64 + 2) // 4,
        65536 * 2 ** (count[:16] / 16) + 0.5,
        327680 // (count + 80),
        327680 // (count + 500),
        squash,
        np.searchsorted(squash, range(8, 65536, 16)).clip(0, 6142) - 3071,
        shape,
    ]
    return np.concatenate(parts).astype("i4")


def compiled(source):
    """decoder.c as a library, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/d.so"
        for compiler in os.environ.get("CC", "cc"), "gcc", "clang":
            try:
                command = compiler.split() + ["-O3", "-shared", "-fPIC", "-xc", "-", "-o", path]
                subprocess.run(command, input=source.encode(), check=True, capture_output=True)
                return ctypes.CDLL(path)
            except Exception:
                pass


def translated(source):
    """decoder.c as Python: from `clamp` on its braces become indents, and its types go."""
    names = {"width": int.bit_length, "scaled": lambda a, b, s: a * b >> s}
    lines, depth = [], 0
    for piece in re.findall("[^{};]+[{;]|}", source[source.index("static I clamp"):]):
        if piece == "}":
            depth -= 1
        else:
            piece = re.sub(r"\b(static|const|void|int|I|B)\b *\*?", "", piece).strip().replace("/", "//")
            lines.append(" " * depth + "def " * (not depth) + piece[:-1])
            if piece[-1] == "{":
                lines[-1] += ":"
                depth += 1
    exec("\n".join(lines), names)
    return types.SimpleNamespace(**names)


def start(data):
    """What decoder.c calls io."""
    return np.array([4, 2**32 - 1, int.from_bytes(data[:4].ljust(4, b"\0"), "big"), len(data)] + [0] * 12)


def call(name, data, coder, *arguments):
    arguments, native = (coder, tables, *arguments), isinstance(kernel, ctypes.CDLL)
    given = [x if isinstance(x, int) else x.ctypes if native else x.tolist() for x in arguments]
    bad = getattr(kernel, name)(data, *given)
    for array, found in zip(arguments, given):
        if isinstance(found, list):
            array[:] = found
    if bad:
        raise ValueError("the artifact is damaged")


def fine_end(data, coder):
    fine(len(data) <= coder[0] <= len(data) + 8)


def varint(data, at):
    value = shift = 0
    while 1:
        fine(at < len(data) and shift < 64)
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            fine(value < 1 << 64 and (data[at - 1] or shift == 7))
            return value, at


def part(data, at):
    """What a length stands before, and where it ends."""
    n, at = varint(data, at)
    fine(at + n <= len(data))
    return data[at:at + n], at + n


def number(data):
    fine(data)
    return int.from_bytes(data, "little", signed=True)


def sides(shape):
    """Rows and columns of a matrix; values and width of anything else."""
    return int(np.prod(shape[:-1])), (shape or [1])[-1]


def indices(data, rows, cols, exponents=None, odd=0, turn=0, plain=0):
    """Values in steps, a column a row."""
    if exponents is None:
        exponents = np.zeros(rows + cols, "i4")
    out = np.zeros(cols * rows, "i4")
    memory = np.zeros(239510, "i4"), np.zeros(rows * 6 + 66, "i8")
    coder = start(data)
    call("indices", data, coder, *memory, rows, cols, exponents, odd, turn, plain, out)
    fine_end(data, coder)
    return out.reshape(cols, rows)


MACHINES = {0: (0, 0), 2: (2, 1), 3: (5, 2), 4: (9, 2), 5: (18, 4), 6: (33, 10), 7: (78, 43), 8: (166, 121)}


def matrix(data, rows, cols):
    fine(len(data) > 2 and data[0] < 32 and data[0] & 15 in MACHINES)
    base = number(data[1:3])
    fine(abs(base) <= 6400)
    scales, at = part(data, 3)
    exponents = np.zeros(rows + cols, "i4")
    coder = start(scales)
    call("exponents", scales, coder, np.zeros(16896, "i4"), rows, cols, exponents)
    fine_end(scales, coder)
    values = indices(data[at:], rows, cols, exponents, *MACHINES[data[0] & 15], data[0] >> 4)
    steps = np.exp2((base + 16 * np.arange(-32, 33)) / 64).astype("f4")
    return values.T.astype("f4") * steps[exponents[:rows, None] + exponents[rows:] + 32]


def vectors(data, shapes):  # 2
    full = [(int(np.prod(s)), sides(s)[1]) for s in shapes]
    groups, done, at = [], {}, 0
    for width in dict.fromkeys(w for n, w in full if n):
        recipes = []
        for _ in range(sum(n // w for n, w in full if w == width)):
            fine(len(data) > at + 1)
            step, back, gain = number(data[at:at + 1]), data[at + 1], 0
            at += 2
            if back:
                gain = number(data[at:at + 1])
                at += 1
            centre, at = varint(data, at)
            centre = centre >> 1 ^ -(centre & 1)
            fine(back <= len(recipes) and abs(step) <= 100 and abs(centre) <= 1 << 24)
            recipes.append((step, centre, back, gain))
        size, at = varint(data, at)
        groups.append((width, recipes, size))
    for width, recipes, size in groups:
        fine(at + size <= len(data))
        rest = indices(data[at:at + size], width, len(recipes)).astype("i8") // 2
        at += size
        for k, (step, centre, back, gain) in enumerate(recipes):
            if back:
                their_step, their_centre = recipes[k - back][:2]
                shift = their_step - step - 4
                moved = gain * (rest[k - back] - their_centre)
                if -41 < shift < 0:
                    moved = moved + (1 << -shift - 1) >> -shift
                else:
                    moved = moved << shift if -1 < shift < 25 else 0
                centre = np.clip(centre + moved, -1 << 24, 1 << 24)
            rest[k] += centre
        fine(abs(rest).max() <= 1 << 24)
        done[width] = iter(rest.astype("f4") * np.exp2([r[:1] for r in recipes]).astype("f4"))
    fine(at == len(data))
    return [np.array([next(done[w]) for _ in range(n // w)] if n else [], "f4") for n, w in full]


def low_rank(data, at, rows, cols):  # 4
    rank, at = varint(data, at)
    fine(0 < rank <= min(rows, cols, 4096) and at + rank <= len(data))
    exponents = np.frombuffer(data, "i1", rank, at).astype("i8")[:, None]
    least = exponents.min()
    fine(abs(exponents).max() <= 100 and exponents.max() - least <= 20)
    at += rank
    factors = []
    for n in rows, cols:
        coded, at = part(data, at)
        factors.append(indices(coded, n, rank).astype("i8") // 2)
        fine(abs(factors[-1]).max() < 1 << 15)
    return ((factors[0] << exponents - least).T @ factors[1]).astype("f4") * np.float32(2.0**least), at


def lossless(data, shapes, element):  # 0
    sizes = [(int(np.prod(s)), max(sides(s)[1], 1)) for s in shapes]
    fine(sum(n for n, _ in sizes) <= 2048 * (len(data) + 8))
    memory = np.zeros(73176, "i4"), np.zeros(140 + 2 * max(w for _, w in sizes), "i8")
    coder, found = start(data), []
    for n, width in sizes:
        out = np.zeros(n, "u4")
        fields = ((8, 23), (5, 10), (8, 7))[element]
        call("lossless", data, coder, *memory, *fields, n // width, width, out)
        found.append(out.astype("u2").view("f2").astype("f4") if element == 1 else (out << 8 * element).view("f4"))
    fine_end(data, coder)
    return found


def stream(entry):
    """The tensors of a stream; of a sum its terms, of which the first may be a gain."""
    codec, shapes, element, data = entry[:4]
    if codec == 0:  # 0
        return lossless(data, shapes, element)  # 0
    if codec == 2:  # 2
        return vectors(data, shapes)  # 2
    if codec == 3:  # 3
        fine(not data)  # 3
        return [np.zeros(s, "f4") for s in shapes]  # 3
    fine(codec in (1, 4) and len(shapes) == 1 and len(shapes[0]) > 1)
    rows, cols = sides(shapes[0])
    if codec == 4:  # 4
        terms, found, at = data[:1], [], 1  # 4
        fine(terms and 0 < terms[0] < 8)  # 4
        if terms[0] & 1:  # 4
            fine(len(data) > 2)  # 4
            found.append(np.float32(number(data[1:3]) / 4096))  # 4
            at = 3  # 4
        if terms[0] & 2:  # 4
            term, at = low_rank(data, at, rows, cols)  # 4
            found.append(term)  # 4
        if terms[0] & 4:  # 4
            return found + [matrix(data[at:], rows, cols)]  # 4
        fine(at == len(data))  # 4
        return found  # 4
    return [matrix(data, rows, cols)]


def decode(entries, shapes, data):
    """The tensors of `shapes`, in order. `entries`: of each stream of `data` codec, number of tensors, their element type, the
    number of the tensor that it starts from or -1, and length."""
    at, jobs, tensors, make = 0, [], [], concurrent.futures.ThreadPoolExecutor
    for codec, count, element, need, size in entries:
        jobs.append((codec, shapes[:count], element, data[at:at + size], need))
        shapes = shapes[count:]
        at += size
    if not isinstance(kernel, ctypes.CDLL):
        print("tiepack: no C compiler, decoding in Python: minutes for each megabyte", file=sys.stderr)
        # Windows knows no fork, and a worker may have no children.
        if hasattr(os, "fork") and not multiprocessing.current_process().daemon:
            make = multiprocessing.get_context("fork").Pool
    with make() as workers:
        for job, found in zip(jobs, workers.map(stream, jobs)):
            gained = isinstance(found[0], np.float32)
            fine((job[4] < 0) != gained and job[4] < len(tensors))
            if gained:  # 4
                fine(tensors[job[4]].shape == tuple(job[1][0]))  # 4
                found[0] = tensors[job[4]].reshape(sides(job[1][0])) * found[0]  # 4
            if job[0] == 4:  # 4
                found = [sum(found[1:], found[0])]  # 4
            for shape, tensor in zip(job[1], found):
                tensors.append(np.ascontiguousarray(tensor).reshape(shape))
    return tensors
