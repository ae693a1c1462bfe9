#!/usr/bin/env python3
"""Reference reader of .tiepack artifacts: artifact.md in plain Python, section by section. Speed does not matter here.

  python reader.py ARTIFACT                            check it and list its tensors
  python reader.py ARTIFACT --npz OUT.npz              write them as f32
  python reader.py ARTIFACT --against X.safetensors    compare bit by bit with what `tiepack unpack` wrote
  python reader.py ARTIFACT --expect EXPECTED.json     compare with the hashes of fixtures/golden

Needs numpy (for arrays only), and the `zstandard` package where a header is packed. All arithmetic that decides about a
bit is in Python integers, which are unbounded; where the format's numbers are not, the code says so.
"""
import argparse
import json
import math
import pathlib
import struct
import sys

import numpy as np

MAX_HEADER = 1 << 20
MAX_TENSORS = 16_384
MAX_NAMES = 1 << 22
MAX_WEIGHTS = 1 << 31
MAX_WINDOW = 8 << 20
LOSSLESS, MATRIX, VECTORS, ZERO, SUM = 0, 1, 2, 3, 4
F32, F16, BF16 = 0, 1, 2
# Of kept tensors; what numpy has no name for is bytes here.
KEPT_TYPES = ["<f4", "<f2", "<u2", "?", "u1", "i1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f8", "u1", "u1"]


class Rejected(Exception):
    """The file is damaged or not an artifact of version 1."""


def check(condition, what):
    if not condition:
        raise Rejected(what)


def clamp(x, low, high):
    return max(low, min(high, x))


# --- blake3 -----------------------------------------------------------------------------------------------------------
# Over arrays of chunks at once; numpy's unsigned integers wrap as the hash wants.

IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
MIXED = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def rotate(x, n):
    return (x >> np.uint32(n)) | (x << np.uint32(32 - n))


def compress(chain, block, counter, length, flags):
    """`chain` (8, n), `block` (16, n) u32; `counter` (n) u64; the new chaining values (8, n)."""
    n = chain.shape[1]
    full = lambda x: np.full(n, x, np.uint32)
    v = list(chain) + [full(x) for x in IV[:4]]
    v += [counter.astype(np.uint32), (counter >> np.uint64(32)).astype(np.uint32), full(length), full(flags)]
    m = list(block)
    for _ in range(7):
        for k, (a, b, c, d) in enumerate(MIXED):
            for x, first, second in ((m[2 * k], 16, 12), (m[2 * k + 1], 8, 7)):
                v[a] = v[a] + v[b] + x
                v[d] = rotate(v[d] ^ v[a], first)
                v[c] = v[c] + v[d]
                v[b] = rotate(v[b] ^ v[c], second)
        m = [m[p] for p in PERMUTATION]
    return np.stack([v[i] ^ v[i + 8] for i in range(8)])


def start(n):
    return np.repeat(np.array(IV, np.uint32)[:, None], n, 1)


def chunks(data, first, count, size, root):
    """Chaining values of `count` chunks of `size` bytes each."""
    blocks = max(1, -(-size // 64))
    words = np.frombuffer(data.ljust(count * blocks * 64, b"\0") if count == 1 else data, "<u4")
    words = words.reshape(count, blocks, 16)
    chain, counter = start(count), np.arange(first, first + count, dtype=np.uint64)
    for b in range(blocks):
        flags = (CHUNK_START if b == 0 else 0) | (CHUNK_END | root if b == blocks - 1 else 0)
        chain = compress(chain, words[:, b].T, counter, min(64, size - 64 * b), flags)
    return chain


def blake3(data):
    data = bytes(data)
    whole = max(0, (len(data) - 1) // 1024)  # chunks before the last, which alone may be short
    rest = data[whole * 1024:]
    nodes = chunks(rest, whole, 1, len(rest), ROOT if whole == 0 else 0)
    if whole:
        nodes = np.concatenate([chunks(data[:whole * 1024], 0, whole, 1024, 0), nodes], 1)
    # Neighbours are joined level by level; one left over waits for the next level.
    while nodes.shape[1] > 1:
        pairs = nodes.shape[1] // 2
        left, right = nodes[:, 0:2 * pairs:2], nodes[:, 1:2 * pairs:2]
        flags = PARENT | (ROOT if nodes.shape[1] == 2 else 0)
        joined = compress(start(pairs), np.concatenate([left, right]), np.zeros(pairs, np.uint64), 64, flags)
        nodes = np.concatenate([joined, nodes[:, 2 * pairs:]], 1)
    return nodes[:, 0].astype("<u4").tobytes()


# --- Conventions, file, header ----------------------------------------------------------------------------------------

class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n, what):
        check(n <= len(self.data) - self.at, f"{what} should take {n} bytes, {len(self.data) - self.at} are left")
        self.at += n
        return self.data[self.at - n:self.at]

    def varint(self, what):
        value = 0
        for shift in range(0, 64, 7):
            byte = self.take(1, what)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                check(byte > 0 or shift == 0, f"{what} is not in its shortest form")
                check(value < 1 << 64, f"{what} does not fit 64 bits")
                return value
        raise Rejected(f"{what} does not fit 64 bits")

    def within(self, low, high, what):
        value = self.varint(what)
        check(low <= value <= high, f"{what} is {value}, allowed are {low} to {high}")
        return value

    def finish(self, what):
        check(self.at == len(self.data), f"{len(self.data) - self.at} bytes are left over at the end of {what}")


class Stream:
    def __init__(self, codec, tensors):
        self.codec, self.tensors = codec, tensors
        self.types, self.needs, self.data = [], [], b""


def unzstd(packed, size, what):
    try:
        import zstandard
    except ImportError:
        raise SystemExit(f"{what} is packed with zstd: `pip install zstandard` to read it") from None
    try:
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        raw = unpacker.decompress(packed)
    except zstandard.ZstdError as e:
        raise Rejected(f"{what} does not unpack: {e}") from None
    whole = unpacker.eof and not unpacker.unused_data and len(raw) == size
    check(whole, f"{what} is not one frame of its size")
    return raw


def parse(data):
    """Config text, names and shapes, tie map, streams, labels, kept tensors, root."""
    check(data[:3] == b"TPK" and len(data) >= 44, "not a tiepack artifact")
    check(data[3:4] == b"1", "another version of the format")
    check(blake3(data[:-8])[:8] == data[-8:], "the checksum does not match")
    r = Reader(data[:-40])
    r.take(4, "magic")
    size = r.within(0, MAX_HEADER, "length of the header")
    packed = r.within(0, MAX_HEADER, "length of the packed header")
    header = unzstd(r.take(packed, "packed header"), size, "the header") if packed else r.take(size, "header")
    config, names, source, streams, lengths, labels, groups = parse_header(Reader(header))
    for stream, length in zip(streams, lengths):
        stream.data = r.take(length, "stream")
    sizes = [math.prod(shape) * np.dtype(KEPT_TYPES[kind]).itemsize for kind, run, _ in groups for _, shape in run]
    check(sum(sizes) <= max(1 << 24, 4096 * len(data)), "so few bytes cannot hold such tensors")
    kept = [tensor for group in groups for tensor in kept_tensors(r, *group)]
    r.finish("the streams")
    return config, names, source, streams, labels, kept, data[-40:-8]


def kept_tensors(r, kind, run, length):
    """(name, type, array) of the tensors of one stream."""
    element = np.dtype(KEPT_TYPES[kind])
    counts = [math.prod(shape) for _, shape in run]
    raw = unzstd(r.take(length, "stream"), sum(counts) * element.itemsize, "a stream of kept tensors")
    words = np.frombuffer(raw, "u1").reshape(element.itemsize, -1).T.copy().view(element).ravel()
    parts = np.split(words, np.cumsum(counts)[:-1])
    return [(name, kind, part.reshape(shape)) for (name, shape), part in zip(run, parts)]


def parse_labels(r, names):
    """Every label with the number of its tensor."""
    rules = [(text(r, MAX_HEADER, "a label"), text(r, MAX_HEADER, "a label"))
             for _ in range(r.within(0, len(names), "number of rules"))]
    labels = []
    for name, _ in names:
        fitting = [rule for rule in rules if name.startswith(rule[0])]
        before, after = max(reversed(fitting), key=lambda rule: len(rule[0]), default=("", ""))
        labels.append([after + name[len(before):]])
    tensor = 0
    for _ in range(r.within(0, len(names), "number of tensors with labels of their own")):
        tensor += r.within(0, len(names), "distance of a tensor with labels")
        check(tensor < len(names), "a label is that of no tensor")
        labels[tensor] = [text(r, MAX_HEADER, "a label") for _ in range(r.within(1, MAX_TENSORS, "number of labels"))]
        tensor += 1
    labels = [(label, tensor) for tensor, own in enumerate(labels) for label in own]
    check(sum(len(label.encode()) for label, _ in labels) <= MAX_NAMES, "the labels are too long")
    return labels


def parse_kept(r):
    """Type, (name, shape) of its tensors, and the length of its stream, of every run."""
    names, groups, least = parse_names(r), [], 0
    check(names, "kept tensors are announced and there are none")
    while names:
        kind = r.within(least, len(KEPT_TYPES) - 1, "type of kept tensors")
        run = r.within(1, len(names), "run of kept tensors")
        groups.append((kind, names[:run], r.varint("length of a stream of kept tensors")))
        names, least = names[run:], kind + 1
    return groups


def text(r, high, what):
    try:
        return r.take(r.within(0, high, "length of " + what), what).decode()
    except UnicodeDecodeError:
        raise Rejected(what + " is not UTF-8 text") from None


def volume(shape):
    """What a shape counts against the limits: an empty tensor as much as its other dimensions multiply to."""
    return math.prod(d for d in shape if d)


def parse_names(r):
    """(name, shape) of every tensor, in canonical order."""
    kinds = []
    for _ in range(r.within(0, MAX_TENSORS, "number of kinds")):
        in_layers = r.within(0, 5, "form of a tensor") % 2
        parts = [text(r, MAX_NAMES, "a name") for _ in range(1 + in_layers)]
        rank = r.within(0, 8, "number of dimensions")
        shape = tuple(r.within(0, 1 << 31, "dimension") for _ in range(rank))
        check(volume(shape) <= MAX_WEIGHTS, "a tensor is too large")
        kinds.append((parts, shape))
    n = r.within(0, MAX_TENSORS, "number of tensors")
    places = []
    while len(places) < n:
        for _ in range(r.within(0, n - len(places), "run of tensors")):
            check(kinds, "there are tensors but no kinds")
            kind = r.within(0, len(kinds) - 1, "kind of a tensor")
            step = r.varint("step of a layer") if len(kinds[kind][0]) == 2 else 0
            places.append((kind, step >> 1 if step % 2 == 0 else -(step >> 1) - 1))
        if len(places) == n:
            break
        length = r.within(1, n - len(places), "run of repeated tensors")
        distance = r.within(1, len(places), "distance of a repetition")
        for _ in range(length):
            places.append(places[-distance])
    names, layer, total = [], 0, 0
    for kind, step in places:
        parts, shape = kinds[kind]
        if len(parts) == 2:
            layer += step
            check(0 <= layer < 1 << 16, "a layer's number is out of range")
        name = str(layer).join(parts)
        total += len(name.encode())
        check(total <= MAX_NAMES, "the names are too long")
        names.append((name, shape))
    check(len(dict(names)) == len(names), "two tensors have one name")
    return names


def parse_header(r):
    flags = r.within(0, 3, "flags")
    config = text(r, MAX_HEADER, "the config")
    names = parse_names(r)
    n = len(names)
    source, stored = [], 0
    while len(source) < n:
        fresh = r.within(0, n - len(source), "run of stored tensors")
        source += range(stored, stored + fresh)
        stored += fresh
        if len(source) == n:
            break
        length = r.within(1, n - len(source), "run of tied tensors")
        distance = r.within(1, len(source), "distance of a tie")
        for _ in range(length):
            source.append(source[-distance])

    count = r.within(0, stored, "number of streams")
    free, streams = list(range(stored)), []
    while len(streams) < count:
        tag = r.within(0, 511, "codec of a stream")
        if tag % 2 == 0:
            run = r.within(1, min(count - len(streams), len(free)), "run of streams")
            streams += [Stream(tag // 2, [t]) for t in free[:run]]
            del free[:run]
        else:
            runs = r.within(1, len(free), "number of runs")
            at, tensors = 0, []
            for _ in range(runs):
                at += r.within(0, len(free) - at, "tensors that a stream skips")
                take = r.within(1, len(free) - at, "tensors that a stream takes")
                tensors += free[at:at + take]
                del free[at:at + take]
            streams.append(Stream(tag // 2, tensors))
    check(not free, "a stored tensor is in no stream")

    def runs(total, high, what):
        values = []
        while len(values) < total:
            value = r.within(0, high, what)
            values += [value] * r.within(1, total - len(values), "run of " + what)
        return values

    types = iter(runs(stored, 2, "element types"))
    for stream in streams:
        stream.types = [next(types) for _ in stream.tensors]
    at, known = 0, set()
    for k in range(r.within(0, count, "number of streams that need others")):
        step = r.varint("distance of a stream that needs others")
        check(at + step < count and (step > 0 or k == 0), "a stream that needs others is out of order")
        for stream in streams[at:at + step]:
            known.update(stream.tensors)
        at += step
        for _ in range(r.within(1, stored, "number of tensors that a stream needs")):
            streams[at].needs.append(r.varint("tensor that a stream needs"))
        check(known.issuperset(streams[at].needs), "a stream needs a tensor of no earlier stream")
    lengths = [r.varint("length of a stream") for _ in streams]
    labels = parse_labels(r, names) if flags & 1 else []
    groups = parse_kept(r) if flags & 2 else []
    r.finish("the header")
    all_names = [name for name, _ in labels or names] + [name for _, run, _ in groups for name, _ in run]
    check(len(set(all_names)) == len(all_names), "two tensors have one name")
    return config, names, source, streams, lengths, labels, groups


# --- Binary coder -----------------------------------------------------------------------------------------------------

class Bits:
    def __init__(self, data):
        self.data, self.at, self.range, self.code = data, 4, 2**32 - 1, int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def bit(self, p):
        bound = self.range * p >> 16
        if self.code < bound:
            answer, self.range = 1, bound
        else:
            answer, self.code, self.range = 0, self.code - bound, self.range - bound
        while self.range < 1 << 24:
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.range, self.code, self.at = self.range << 8, (self.code << 8 | byte) & 0xFFFFFFFF, self.at + 1
        return answer

    def even(self, count):
        value = 0
        for _ in range(count):
            value = value << 1 | self.bit(32768)
        return value

    def finish(self):
        check(len(self.data) <= self.at <= len(self.data) + 8, "a stream was not read to its end, or far beyond it")


# --- Counters and mixing ----------------------------------------------------------------------------------------------

def ensemble_tables():
    upper, e = [], 1 << 64
    for _ in range(3072):
        upper.append(min(65535, (1 << 80) // ((1 << 64) + e)))
        e = e * 18374827034086858296 >> 64
    squash = [65536 - p for p in upper[:0:-1]] + upper  # from -3071 to 3071
    stretch, s = [], 0
    for i in range(4096):
        while s < 6142 and squash[s] < 16 * i + 8:
            s += 1
        stretch.append(s - 3071)
    return squash, stretch


SQUASH, STRETCH = ensemble_tables()


class Counter:
    __slots__ = ("q", "n")

    def __init__(self):
        self.q, self.n = 1 << 21, 0

    def p(self):
        return self.q >> 6

    def opinion(self):
        return STRETCH[self.q >> 10]

    def learn(self, answer):
        step, over = ((1 << 22) - 1 - self.q if answer else -self.q) * 2, 2 * self.n + 3
        self.q += step // over if step >= 0 else -(-step // over)
        self.n = min(self.n + 1, 1000)


class Table(dict):
    """Counters by context, made when first asked for."""

    def __missing__(self, key):
        self[key] = Counter()
        return self[key]


def mixed_probability(weights, opinions):
    return SQUASH[clamp(sum(w * s for w, s in zip(weights, opinions)) >> 16, -3071, 3071) + 3071]


def learn_weights(weights, opinions, answer, p):
    error = 65536 * answer - p
    for i, s in enumerate(opinions):
        weights[i] = clamp(weights[i] + ((error * s + 65536) >> 17), -2**31, 2**31 - 1)


# --- Lossless streams (codec 0) ---------------------------------------------------------------------------------------

def log_linear(x):
    x = max(x, 1)
    o = x.bit_length() - 1
    return 16 * o + (16 * x >> o) % 16


class Lossless:
    def __init__(self, data, element):
        self.io = Bits(data)
        self.exponent, self.mantissa = {F32: (8, 23), F16: (5, 10), BF16: (8, 7)}[element]
        self.top = self.io.even(8)
        self.octave, self.octave_weights = [Table() for _ in range(5)], {}
        self.leading, self.leading_weights = [Table() for _ in range(3)], {}
        self.beyond, self.frequencies = Table(), {}
        self.sum = self.n = 0

    def bit(self, p):
        return self.io.bit(clamp(p, 32, 65504))

    def mixed(self, tables, weights, contexts):
        counters = [table[c] for table, c in zip(tables, contexts)]
        opinions = [c.opinion() for c in counters] + [256]
        p = mixed_probability(weights, opinions)
        answer = self.bit(p)
        learn_weights(weights, opinions, answer, p)
        for c in counters:
            c.learn(answer)
        return answer

    def noise(self, key):
        f = self.frequencies.setdefault(key, [0, 0])
        answer = self.bit((2 * f[0] + 1) * 32768 // (f[1] + 1))
        f[0] += answer
        f[1] += 1
        return answer

    def tensor(self, shape):
        count, width = math.prod(shape), max(shape[-1] if shape else 1, 1)
        words, column_sums, above = [], [0] * width, [0] * width
        for i in range(count // width):
            row_sum = left = 0
            for j in range(width):
                usual = (self.sum + 2**18) // (self.n + 4)
                rows = log_linear((row_sum + 3 * usual) // (j + 3))
                cols = log_linear((column_sums[j] + 3 * usual) // (i + 3))
                both = clamp(rows + cols - log_linear(usual), 0, 512)
                word, octave = self.value(both, rows, cols, left, above[j])
                words.append(word)
                first = (word & (1 << self.mantissa) - 1) >> self.mantissa - 7
                magnitude = (128 + first << 16) >> octave
                row_sum += magnitude
                column_sums[j] += magnitude
                self.sum += magnitude
                self.n += 1
                left = above[j] = octave
        return words

    def value(self, both, rows, cols, left, above):
        octave = 0
        while octave < 24:
            k = octave
            weights = self.octave_weights.setdefault(k, [32768, 13107, 13107, 13107, 13107, 0])
            contexts = [(x + 16 * k) // 4 for x in (both, rows, cols)] + [(left, above, k), k]
            if self.mixed(self.octave, weights, contexts):
                break
            octave += 1
        exponent = self.top - octave
        if octave == 24:
            node = 1
            for _ in range(8):
                counter = self.beyond[node]
                answer = self.bit(counter.p())
                counter.learn(answer)
                node = 2 * node + answer
            exponent -= node - 256
        check(exponent >= 0, "a negative exponent")
        far = octave == 24
        word = self.noise((far, "sign")) << self.exponent | exponent
        prefix = 1
        for b in range(self.mantissa - 1, -1, -1):
            if self.mantissa - b <= 3:
                weights = self.leading_weights.setdefault(prefix, [32768, 13107, 13107, 0])
                contexts = [(x, prefix) for x in (octave, (both + 16 * octave) // 8, (rows + 16 * octave) // 8)]
                answer = self.mixed(self.leading, weights, contexts)
            else:
                answer = self.noise((far, b))
            prefix = prefix << 1 | answer
            word = word << 1 | answer
        return word, octave


def widened(words, element):
    words = np.array(words, np.uint32)
    if element == F32:
        return words.view("<f4")
    if element == F16:
        return words.astype("<u2").view("<f2").astype("<f4")
    return (words << np.uint32(16)).view("<f4")


def lossless(stream, shapes):
    check(len(set(stream.types)) == 1, "a lossless stream has one element type")
    check(sum(map(math.prod, shapes)) <= 2048 * (len(stream.data) + 8), "so few bytes cannot hold so many values")
    coder = Lossless(stream.data, stream.types[0])
    tensors = [widened(coder.tensor(shape), stream.types[0]).reshape(shape) for shape in shapes]
    coder.io.finish()
    return tensors


# --- Scale exponents --------------------------------------------------------------------------------------------------

def exponents(data, counts):
    io, lists = Bits(data), []
    for count in counts:
        alone, after, weights = Table(), Table(), {}
        values, before = [], 16
        for _ in range(count):
            node = 1
            for _ in range(6):
                counters = alone[node], after[before, node]
                opinions = [c.opinion() for c in counters]
                w = weights.setdefault(node, [49152, 16384])
                p = clamp(mixed_probability(w, opinions), 32, 65504)
                answer = io.bit(p)
                learn_weights(w, opinions, answer, p)
                for c in counters:
                    c.learn(answer)
                node = 2 * node + answer
            before = node - 64
            values.append(before - 16)
        check(all(v <= 16 for v in values), "a scale exponent is out of range")
        lists.append(values)
    io.finish()
    return lists


# --- Trellis ----------------------------------------------------------------------------------------------------------

CODES = {3: (0o13, 0o4), 4: (0o23, 0o4), 5: (0o45, 0o10), 6: (0o103, 0o24), 7: (0o235, 0o126), 8: (0o515, 0o362)}


class Trellis:
    def __init__(self, log_states, plain):
        self.states, self.plain = 1 << log_states, plain
        if log_states == 0:
            self.next, self.grid = [(0, 0)], [0]
        elif log_states == 2:
            self.next, self.grid = [(0, 2), (2, 0), (1, 3), (3, 1)], [0, 0, 1, 1]
        else:
            check(log_states in CODES, "an unknown trellis")
            h0, h1 = CODES[log_states]
            move = lambda s, parity: s >> 1 ^ (s & 1) * (h0 >> 1) ^ parity * (h1 >> 1)
            self.next = [(move(s, 0), move(s, 1)) for s in range(self.states)]
            self.grid = [s & 1 for s in range(self.states)]

    def magnitude(self, grid, rank):
        if grid == 0:
            return 2 * rank
        return 2 * rank + 1 if self.plain else max(2 * rank - 1, 0)

    def index(self, grid, rank, negative):
        if negative:
            return -rank
        return rank + 1 if grid == 1 and self.plain else rank

    def value(self, grid, q):
        if grid == 0:
            return 2 * q
        return 2 * q - 1 if self.plain else 2 * q - (q > 0) + (q < 0)


# --- Integer logarithm and logistic terms -----------------------------------------------------------------------------

def log_fraction(m):
    x, bits = 256 + m << 22, 0
    for _ in range(6):
        x = x * x >> 30
        bits <<= 1
        if x >= 2 << 30:
            x >>= 1
            bits |= 1
    return (bits + 2) // 4


FRACTION = [log_fraction(m) for m in range(256)]


def log16(x):
    x = max(x, 1)
    o = x.bit_length() - 1
    return 16 * o + FRACTION[(x >> o - 8 if o >= 8 else x << 8 - o) & 255]


def logistic_table():
    one, power, upper = 1 << 62, 1 << 62, []
    for _ in range(2817):
        upper.append(((one << 16) + (one + power) // 2) // (one + power))
        power = power * 4593706758521714574 >> 62
    return [65536 - p for p in upper[:0:-1]] + upper  # from -2816 to 2816


LOGISTIC = logistic_table()


def logistic(x):
    return LOGISTIC[clamp(x + 128 >> 8, -2816, 2816) + 2816]


class Term:
    __slots__ = ("value", "count")

    def __init__(self, value=0):
        self.value, self.count = value, 0

    def learn_part(self, error, part):
        self.value += error * (327680 // (self.count // 16 + 80)) * part >> 20
        self.count = min(self.count + part, 16383)

    def learn(self, error):
        self.value += error * (327680 // (self.count // 16 + 500)) >> 16
        self.count = min(self.count + 16, 16383)


class Terms(dict):
    def __missing__(self, key):
        self[key] = Term()
        return self[key]


# --- Expected magnitudes ----------------------------------------------------------------------------------------------

ONE = 1 << 16
QUARTERS = [65536, 77936, 92682, 110218]
SIXTEENTHS = [65536, 68438, 71468, 74632, 77936, 81386, 84990, 88752, 92682, 96785, 101070, 105545, 110218, 115098,
              120194, 125515]


def inverse_scale(e):
    octave, quarter = divmod(-e, 4)
    return QUARTERS[quarter] << octave if octave >= 0 else max(QUARTERS[quarter] >> -octave, 1)


def laplace(log, v):
    octave, sixteenth = divmod(-log, 16)
    octave, scaled = clamp(octave, -40, 20), v * SIXTEENTHS[sixteenth]
    ratio = scaled << octave if octave >= 0 else scaled >> -octave
    return (log >> 4) * 45426 + (log & 15) * 2839 + min(ratio, 8 << 16)


class Scales:
    def __init__(self, row_exponents, col_exponents, level):
        self.rows, self.col_exponents = len(row_exponents), col_exponents
        raw = [inverse_scale(e) for e in row_exponents]
        mean = max(sum(raw) // self.rows, 1)
        self.prior = [clamp(r * level // mean, 16, 1 << 31) for r in raw]
        self.sum, self.columns, self.row_count, self.level = [0] * self.rows, 0, 30, ONE
        self.lead = [0] * self.rows
        self.classes, self.last = {}, ONE
        self.deviation, self.number = 21845, 4

    def begin_column(self, j):
        n = self.columns
        if n in (2, 3) or n > 3 and n & (n & -n) - 1 == 0 and n >> (n & -n).bit_length() - 1 in (1, 3):
            self.weigh_rows(n)
        share, pull = 2**32 // (n + self.row_count), self.row_count * self.level
        self.row_log, self.row_inverse = [], []
        for prior, total in zip(self.prior, self.sum):
            r = clamp((total + (prior * pull >> 16)) * share >> 32, 16, 1 << 31)
            self.row_log.append(log16(r) - 192)
            self.row_inverse.append(2**44 // r)
        self.cls = self.classes.setdefault(self.col_exponents[j], [0, 0])
        self.center = max((self.cls[0] + self.last) // (self.cls[1] + 1), 1)
        self.count = clamp(2 * self.number * ONE // max(self.deviation, 1), 2, 1000)
        self.total = self.balance = self.decayed = self.weight = 0
        self.magnitudes = []

    def weigh_rows(self, n):
        ratios = [(s * (2**40 // p) >> 24) // n for s, p in zip(self.sum, self.prior)]
        mean = max(sum(ratios) // self.rows, 1)
        squares = [(min(ratio * ONE // mean, 8 * ONE) - ONE)**2 >> 16 for ratio in ratios]
        beyond = max(sum(squares) // self.rows - ONE // n, 1)
        self.row_count = clamp(2 * ONE // beyond, 2, 1000)
        self.level = min(mean, 64 * ONE)

    def expect(self, i):
        prior = self.center * self.count
        whole = (self.total + prior) // (i + self.count)
        logs = (log16(self.decayed + whole * 150) - log16(self.weight + 150 * ONE),
                log16(self.decayed + prior) - log16(self.weight + self.count * ONE))
        self.guesses = [log + self.row_log[i] for log in logs]
        share = clamp((self.lead[i] >> 16) + 4, 0, 8)
        column = logs[0] * (8 - share) + logs[1] * share + 4 >> 3
        recent = log16(self.decayed + self.center) - log16(self.weight + ONE) - column
        return self.row_log[i] + column, recent

    def lean(self):
        total = self.total + 16 * ONE
        return clamp((32 * self.balance + total // 2) // total, -8, 8)

    def see(self, i, magnitude, negative):
        v = min(magnitude, 1 << 19)
        self.magnitudes.append(v)
        self.lead[i] += laplace(self.guesses[0], v) - laplace(self.guesses[1], v) - (self.lead[i] >> 7)
        x = min(v * self.row_inverse[i] >> 16, 32 * ONE)
        self.total += x
        self.balance += -x if negative else x
        self.decayed += x - (self.decayed >> 4)
        self.weight += ONE - (self.weight >> 4)

    def end_column(self):
        if self.columns > 0:
            relative = min(self.total // self.rows * ONE // self.center, 8 * ONE)
            self.deviation = max(self.deviation + ((relative - ONE)**2 >> 16) - ONE // self.rows, 0)
            self.number += 1
        factor = max((self.total + self.center * self.count) // (self.rows + self.count), 1)
        self.last = (7 * self.last + 3 * factor) // 10
        self.cls[0] += factor
        self.cls[1] += 1
        inverse = 2**28 // max(factor, 2048)
        self.sum = [s + v * inverse for s, v in zip(self.sum, self.magnitudes)]
        self.columns += 1


# --- Indices ----------------------------------------------------------------------------------------------------------

SHAPE = json.loads(pathlib.Path(__file__).with_name("shape.json").read_text())
EIGHTHS = [65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194]


class Model:
    def __init__(self, io, trellis):
        self.io, self.trellis = io, trellis
        self.nodes = [[[Term(s << 12) for s in bits] for bits in grids] for grids in SHAPE[trellis.plain]]
        self.recent, self.state, self.signs, self.escapes = Terms(), Terms(), Terms(), [32768] * 30

    def place(self, log, recent, grid, state):
        self.recent_key = clamp(log + 32 >> 4, 0, 3), clamp(recent + 64 >> 3, 0, 15), grid
        self.state_key = clamp(log + 48 >> 4, 0, 15), state
        log = clamp(log, -96, 511)
        self.shift = max((log - 24) // 16 + 1, 0)
        offset = log - 16 * max(self.shift - 3, 0) + 96
        node = offset // 8 + min(self.shift, 3)
        self.pair = self.nodes[node][grid], self.nodes[node + 1][grid]
        self.part = 2 * (offset % 8) + 1

    def bit(self, b):
        first, second = self.pair[0][b], self.pair[1][b]
        recent, state = self.recent[self.recent_key, b], self.state[self.state_key, b]
        shape = first.value * (16 - self.part) + second.value * self.part >> 4
        p = logistic(shape + recent.value + state.value)
        answer = self.io.bit(p)
        error = 65536 * answer - p
        first.learn_part(error, 16 - self.part)
        second.learn_part(error, self.part)
        recent.learn(error)
        state.learn(error)
        return answer

    def rank(self):
        high = 0
        while high < 14 and self.bit(high):
            high += 1
        if high == 14:
            high += self.escape()
        rank, low = high, 0
        for k in range(self.shift):
            if k == 0:
                answer = self.bit(14 + min(high, 5))
            elif k == 1:
                answer = self.bit((20 if high == 0 else 22) + low)
            elif k == 2 and high == 0:
                answer = self.bit(24 + low)
            else:
                answer = self.io.bit(32768)
            low = (2 * low + answer) & 3
            rank = 2 * rank + answer
        check(rank <= 1 << 28, "an index is out of range")
        return rank

    def escape(self):
        k = 0
        while True:
            p = self.escapes[k]
            more = self.io.bit(p)
            self.escapes[k] = clamp(p + (65535 - p >> 4) if more else p - (p >> 4), 16, 65520)
            if not more:
                return (1 << k | self.io.even(k)) - 1
            k += 1
            check(k <= 29, "an index is out of range")

    def sign(self, lean, magnitude):
        term = self.signs[lean, min(magnitude.bit_length() - 1, 3)]
        p = logistic(term.value)
        negative = self.io.bit(p)
        term.learn(65536 * negative - p)
        return negative


def indices(data, row_exponents, col_exponents, trellis):
    """For each column a list of the values, in steps."""
    io, rows = Bits(data), len(row_exponents)
    columns = [None] * len(col_exponents)
    if rows and columns:
        level = io.even(8)
        scales = Scales(row_exponents, col_exponents, EIGHTHS[level % 8] << level // 8 >> 16)
        model = Model(io, trellis)
        for j in sorted(range(len(columns)), key=lambda j: col_exponents[j]):
            scales.begin_column(j)
            column, state = [], 0
            for i in range(rows):
                log, recent = scales.expect(i)
                grid = trellis.grid[state]
                model.place(log, recent, grid, state)
                rank = model.rank()
                magnitude = trellis.magnitude(grid, rank)
                negative = model.sign(scales.lean(), magnitude) if magnitude else 0
                q = trellis.index(grid, rank, negative)
                scales.see(i, magnitude, negative)
                column.append((q, trellis.value(grid, q)))
                state = trellis.next[state][q & 1]
            scales.end_column()
            columns[j] = column
    io.finish()
    return columns


# --- Matrix streams (codec 1) -----------------------------------------------------------------------------------------

# 2^(k/64), rounded to f32: none is so near a tie that rounding to f64 first would matter.
ROOTS = [np.float32(2.0**(k / 64)) for k in range(64)]


def power(n):
    """2^(n/64) in f32."""
    octave, k = divmod(n, 64)
    if octave < -126:
        return np.float32(0)
    if octave > 127:
        return np.float32(np.inf)
    return ROOTS[k] * np.float32(2.0**octave)


def sides(shapes):
    check(len(shapes) == 1 and len(shapes[0]) >= 2, "the stream holds one matrix")
    return math.prod(shapes[0][:-1]), shapes[0][-1]


def matrix(stream, shapes):
    return [grid_values(stream.data, *sides(shapes)).reshape(shapes[0])]


def grid_values(data, rows, cols):
    r = Reader(data)
    kind = r.take(1, "kind of trellis")[0]
    check(kind < 32, "an unknown trellis")
    trellis = Trellis(kind & 15, kind >> 4)
    base = struct.unpack("<h", r.take(2, "base step"))[0]
    check(abs(base) <= 6400, "the base step is out of range")
    scales = r.take(r.varint("length of the scales"), "scales")
    row_exponents, col_exponents = exponents(scales, (rows, cols))
    columns = indices(r.take(len(r.data) - r.at, "indices"), row_exponents, col_exponents, trellis)
    w = np.zeros((rows, cols), "<f4")
    for j, column in enumerate(columns):
        for i, (_, value) in enumerate(column):
            w[i, j] = np.float32(value) * power(base + 16 * (row_exponents[i] + col_exponents[j]))
    return w


# --- Vector streams (codec 2) -----------------------------------------------------------------------------------------

LIMIT = 1 << 24


def signed(byte):
    return byte - 256 if byte >= 128 else byte


def predict(recipe, reference, i):
    step, centre, _, gain = recipe
    if reference is None:
        return centre
    (their_step, their_centre, _, _), values = reference
    product, shift = gain * (values[i] - their_centre), their_step - step - 4
    if 0 <= shift <= 24:
        scaled = product << shift
    elif -40 <= shift < 0:
        scaled = product + (1 << -shift - 1) >> -shift
    else:
        scaled = 0
    return clamp(centre + scaled, -LIMIT, LIMIT)


def vectors(stream, shapes):
    r = Reader(stream.data)
    width_of = lambda shape: shape[-1] if shape else 1
    full = [shape for shape in shapes if math.prod(shape) > 0]
    groups = {}
    for width in dict.fromkeys(map(width_of, full)):
        recipes = []
        for n in range(sum(math.prod(s) // width for s in full if width_of(s) == width)):
            step, back = signed(r.take(1, "step")[0]), r.take(1, "reference")[0]
            gain = signed(r.take(1, "gain")[0]) if back else 0
            zigzag = r.varint("centre")
            centre = zigzag >> 1 if zigzag % 2 == 0 else -(zigzag >> 1) - 1
            check(back <= n and abs(step) <= 100 and abs(centre) <= LIMIT, "a recipe is out of range")
            recipes.append((step, centre, back, gain))
        groups[width] = recipes, r.varint("length of the remainders")
    decoded = {}
    for width, (recipes, length) in groups.items():
        remainders = indices(r.take(length, "remainders"), [0] * width, [0] * len(recipes), Trellis(0, 0))
        done = []
        for recipe, column in zip(recipes, remainders):
            reference = done[-recipe[2]] if recipe[2] else None
            values = [predict(recipe, reference, i) + q for i, (q, _) in enumerate(column)]
            check(all(abs(v) <= LIMIT for v in values), "a value is out of range")
            done.append((recipe, values))
        decoded[width] = iter([np.array(values, "<f4") * np.float32(2.0**recipe[0]) for recipe, values in done])
    r.finish("the vectors")
    tensors = []
    for shape in shapes:
        width = width_of(shape)
        count = math.prod(shape) // width if math.prod(shape) else 0
        parts = [next(decoded[width]) for _ in range(count)]
        tensors.append(np.concatenate(parts + [np.zeros(0, "<f4")]).reshape(shape))
    return tensors


# --- Sums (codec 4) ---------------------------------------------------------------------------------------------------

def low_rank(r, rows, cols):
    rank = r.within(1, min(rows, cols, 4096), "rank")
    exponents = [signed(e) for e in r.take(rank, "exponents")]
    least = min(exponents)
    check(least >= -100 and max(exponents) <= 100 and max(exponents) - least <= 20, "an exponent is out of range")
    factors = []
    for n in (rows, cols):
        data = r.take(r.varint("length of a factor"), "factor")
        factors.append([[q for q, _ in column] for column in indices(data, [0] * n, [0] * rank, Trellis(0, 0))])
    check(all(abs(q) < 1 << 15 for factor in factors for column in factor for q in column), "an integer is too large")
    a, b = (np.array(factor, np.int64) for factor in factors)
    shifts = np.array([e - least for e in exponents], np.int64)[:, None]
    return ((a << shifts).T @ b).astype("<f4") * np.float32(2.0**least)


def sums(stream, shapes, needs):
    (rows, cols), r = sides(shapes), Reader(stream.data)
    terms = r.take(1, "terms")[0]
    check(0 < terms < 8, "unknown terms")
    check(len(needs) == terms % 2 and all(p.shape == shapes[0] for p in needs), "the tensors needed are not those wanted")
    values = []
    if terms & 1:
        gain = struct.unpack("<h", r.take(2, "gain"))[0]
        values.append(needs[0].reshape(rows, cols) * (np.float32(gain) / np.float32(4096)))
    if terms & 2:
        values.append(low_rank(r, rows, cols))
    rest = r.take(len(r.data) - r.at, "residual")
    if terms & 4:
        values.append(grid_values(rest, rows, cols))
    else:
        check(not rest, "bytes are left over at the end of a sum")
    total = values[0]
    for value in values[1:]:
        total = total + value
    return [total.reshape(shapes[0])]


def zeros(stream, shapes):
    check(not stream.data, "a stream of zeros is not empty")
    return [np.zeros(shape, "<f4") for shape in shapes]


# --- Root -------------------------------------------------------------------------------------------------------------

CODECS = {LOSSLESS: lossless, MATRIX: matrix, VECTORS: vectors, ZERO: zeros}


def tensor_hash(tensor):
    front = struct.pack(f"<{tensor.ndim + 1}Q", tensor.ndim, *tensor.shape)
    return blake3(front + np.ascontiguousarray(tensor, "<f4").tobytes())


def root_of(hashes, source, names, config, labels, kept):
    extra = b""
    if labels or kept:
        extra = b"\xff" + struct.pack("<Q", len(labels))
        for label, tensor in labels:
            extra += struct.pack("<IQ", tensor, len(label.encode())) + label.encode()
        extra += struct.pack("<Q", len(kept))
        for name, kind, array in kept:
            extra += struct.pack("<Q", len(name.encode())) + name.encode()
            extra += struct.pack(f"<{array.ndim + 2}Q", kind, array.ndim, *array.shape) + array.tobytes()
    named = [struct.pack("<IQ", t, len(name.encode())) + name.encode() for t, (name, _) in zip(source, names)]
    return blake3(struct.pack("<Q", len(hashes)) + b"".join(hashes)
                  + struct.pack("<Q", len(source)) + b"".join(named) + config.encode() + extra)


def decode(data):
    """Tensors by label, weights in f32, tied ones sharing an array; the root; the hashes of the stored tensors."""
    config, names, source, streams, labels, kept, root = parse(data)
    shapes = {}
    for (name, shape), t in zip(names, source):
        check(shapes.setdefault(t, shape) == shape, f"{name} shares a tensor of another shape")
    check(sum(map(volume, shapes.values())) <= min(max(1 << 24, 4096 * len(data)), MAX_WEIGHTS), "so few bytes cannot hold such a model")
    stored = {}
    for stream in streams:
        own = [shapes[t] for t in stream.tensors]
        if stream.codec == SUM:
            tensors = sums(stream, own, [stored[t] for t in stream.needs])
        else:
            check(stream.codec in CODECS and not stream.needs, f"unknown codec {stream.codec}, or one that needs nothing")
            tensors = CODECS[stream.codec](stream, own)
        stored.update(zip(stream.tensors, tensors))
    hashes = [tensor_hash(stored[t]) for t in range(len(stored))]
    check(root_of(hashes, source, names, config, labels, kept) == root, "the decoded tensors do not match the root")
    labels = labels or [(name, i) for i, (name, _) in enumerate(names)]
    tensors = {label: stored[source[i]] for label, i in labels} | {name: array for name, _, array in kept}
    return tensors, root, hashes


# --- Command ----------------------------------------------------------------------------------------------------------

WEIGHTS = {"F32": F32, "F16": F16, "BF16": BF16}
OTHERS = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8",
          "U64": "<u8", "F64": "<f8", "F8_E4M3": "u1", "F8_E5M2": "u1"}


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            raw = data[8 + size:][begin:end]
            if entry["dtype"] in WEIGHTS:
                element = WEIGHTS[entry["dtype"]]
                tensors[name] = widened(np.frombuffer(raw, "<u4" if element == F32 else "<u2"), element)
            else:
                tensors[name] = np.frombuffer(raw, OTHERS[entry["dtype"]])
            tensors[name] = tensors[name].reshape(entry["shape"])
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=pathlib.Path)
    parser.add_argument("--npz", type=pathlib.Path)
    parser.add_argument("--against", type=pathlib.Path)
    parser.add_argument("--expect", type=pathlib.Path)
    args = parser.parse_args()
    try:
        tensors, root, hashes = decode(args.artifact.read_bytes())
    except Rejected as e:
        sys.exit(f"{args.artifact}: {e}")
    print(f"{args.artifact}: {len(hashes)} tensors under {len(tensors)} names, root {root.hex()}")
    if args.npz:
        np.savez(args.npz, **tensors)
    if args.against:
        others = read_safetensors(args.against)
        differing = [n for n in tensors.keys() | others.keys() if n not in tensors or n not in others
                     or tensors[n].shape != others[n].shape or tensors[n].tobytes() != others[n].tobytes()]
        if differing:
            sys.exit(f"{len(differing)} tensors differ: {', '.join(sorted(differing)[:5])}")
        print(f"all {len(others)} are bit-identical with {args.against}")
    if args.expect:
        wanted = json.loads(args.expect.read_text())[args.artifact.name]
        if wanted["root"] != root.hex() or wanted["tensors"] != [h.hex() for h in hashes]:
            sys.exit("the hashes are not those expected")
        print(f"hashes are those of {args.expect}")


if __name__ == "__main__":
    main()
