// The small decoder: what of an artifact's streams is too slow in numpy. One file of C99 for gcc and clang, without a
// dependency; decoder.py drives it. Specified in formats/artifact.md.
//
// From the line "common" on it is C and, but for its braces and types, Python: where there is no compiler decoder.py turns
// it into that and runs it. Hence no ?:, !, && and ++, every block in braces, every variable with its first value, every
// statement on its own; what is divided is never negative.
//
// `T`, the tables, come from decoder.py: logistic (5633, from -2816), fractions of log16 (256), 2^(k/16) in 2^-16 (16), rates
// of nodes and of corrections (1024 each), squash (6143, from -3071), stretch (4096), starting shapes (2 x 25 x 2 x 28).
// `data` is the stream, `io` the coder: place in the stream, range, code, the stream's bytes; from 4 on it is scratch. `t`
// and `r` are zeroed memory. Exported functions return 1 where a stream is not what a writer writes, else 0.
typedef unsigned char B;
typedef long long I;
typedef unsigned long long U;
static I width(U x) {
    return 64 - __builtin_clzll(x);
}
// a * b >> s, where the product may have more than 64 bits.
static I scaled(U a, U b, int s) {
    return (a >> s) * b + ((a & ((1ULL << s) - 1)) * b >> s);
}
// common
static I clamp(I x, I low, I high) {
    if (x < low) { return low; }
    if (x > high) { return high; }
    return x;
}

static I bit(const B *data, I *io, I p) {
    I bound = io[1] * p >> 16;
    I answer = io[2] < bound;
    if (answer) { io[1] = bound; }
    else {
        io[1] -= bound;
        io[2] -= bound;
    }
    while (io[1] < 16777216) {
        io[1] <<= 8;
        io[2] = io[2] << 8 & 4294967295;
        if (io[0] < io[3]) { io[2] |= data[io[0]]; }
        io[0] += 1;
    }
    return answer;
}

static I even(const B *data, I *io, I n) {
    I value = 0;
    while (n > 0) {
        value = value * 2 + bit(data, io, 32768);
        n -= 1;
    }
    return value;
}

// --- Indices: codecs 1, 2 and 4 ---

// A term is its value, then its count.
static void learn(const int *T, int *t, I at, I rates, I error, I part) {
    t[at] += error * T[rates + t[at + 1] / 16] * part >> 20;
    t[at + 1] = clamp(t[at + 1] + part, 0, 16383);
}

static I logistic(const int *T, I x) {
    return T[2816 + clamp(x + 128 >> 8, -2816, 2816)];
}

static I ask(const B *data, I *io, const int *T, int *t, I node, I recent, I state, I part, I b) {
    node += b * 2;
    recent += b * 2;
    state += b * 2;
    I p = logistic(T, (t[node] * (16 - part) + t[node + 112] * part >> 4) + t[recent] + t[state]);
    I answer = bit(data, io, p);
    I error = answer * 65536 - p;
    learn(T, t, node, 5905, error, 16 - part);
    learn(T, t, node + 112, 5905, error, part);
    learn(T, t, recent, 6929, error, 16);
    learn(T, t, state, 6929, error, 16);
    return answer;
}

static I log16(const int *T, I x) {
    I o = width(x + (x == 0)) - 1;
    return 16 * o + T[5633 + ((x << 8 - clamp(o, 0, 8) >> clamp(o, 8, 63) - 8) & 255)];
}

static I cost(const int *T, I log, I v) {
    v *= T[5889 + (-log & 15)];
    v = v << clamp(-log >> 4, 0, 20) >> clamp(-(-log >> 4), 0, 40);
    return (log >> 4) * 45426 + (log & 15) * 2839 + clamp(v, 0, 524288);
}

// Values in steps, column after column, into `out`. `E`: exponents of rows, then of columns. States are on the grid of their
// lowest bit; `odd` and `turn` are what a state on grid 1 and an odd index add to the next one (the names of states do
// not matter). In `t`: nodes (1400 terms), corrections by group (3584) and by place (114688), signs (68), escapes (30). In `r`
// for each row prior, sum, ratio or inverse, log, lead, magnitude; then T and N of each exponent.
int indices(const B *data, I *io, const int *T, int *t, I *r, int rows, int cols, const int *E, int odd, int turn,
            int plain, int *out) {
    if ((rows == 0) | (cols == 0)) { return 0; }
    I level = even(data, io, 8);
    I k = T[5889 + level % 8 * 2];
    level = k << level / 8 >> 16;
    I i = 0;
    while (i < 1400) {
        t[i * 2] = T[18192 + plain * 1400 + i] * 4096;
        i += 1;
    }
    I average = 0;
    i = 0;
    while (i < rows) {
        k = T[5889 + (-E[i] & 3) * 4];
        r[i * 6] = clamp(k << 16 + (-E[i] >> 2) >> 16, 1, 1 << 30);
        average += r[i * 6];
        i += 1;
    }
    average = clamp(average / rows, 1, 1 << 30);
    i = 0;
    while (i < rows) {
        r[i * 6] = clamp(r[i * 6] * level / average, 16, 2147483648);
        i += 1;
    }
    I columns = 0;
    k = 30;
    I height = 65536;
    I last = 65536;
    I deviation = 21845;
    I number = 4;
    I e = -16;
    while (e < 17) {
        I j = 0;
        while (j < cols) {
            if (E[rows + j] == e) {
                if (columns > 1) {
                    I d = columns / (columns & -columns);
                    if ((d == 1) | (d == 3)) {
                        average = 0;
                        i = 0;
                        while (i < rows) {
                            r[i * 6 + 2] = scaled(r[i * 6 + 1], 1099511627776 / r[i * 6], 24) / columns;
                            average += r[i * 6 + 2];
                            i += 1;
                        }
                        average = clamp(average / rows, 1, 1152921504606846976);
                        d = 0;
                        i = 0;
                        while (i < rows) {
                            I x = clamp(r[i * 6 + 2], 0, average * 8) * 65536 / average - 65536;
                            d += x * x >> 16;
                            i += 1;
                        }
                        k = clamp(131072 / clamp(d / rows - 65536 / columns, 1, 1 << 30), 2, 1000);
                        height = clamp(average, 1, 4194304);
                    }
                }
                i = 0;
                while (i < rows) {
                    I x = r[i * 6 + 1] + (r[i * 6] * (k * height) >> 16);
                    x = clamp(scaled(x, 4294967296 / (columns + k), 32), 16, 2147483648);
                    r[i * 6 + 2] = 17592186044416 / x;
                    r[i * 6 + 3] = log16(T, x) - 192;
                    i += 1;
                }
                I at = rows;
                at = at * 6 + e * 2 + 32;
                I centre = clamp((r[at] + last) / (r[at + 1] + 1), 1, 1152921504606846976);
                I count = clamp(number * 131072 / clamp(deviation, 1, 1152921504606846976), 2, 1000);
                I total = 0;
                I balance = 0;
                I decayed = 0;
                I weight = 0;
                I state = 0;
                i = 0;
                while (i < rows) {
                    I grid = state & 1;
                    I log1 = (total + centre * count) / (i + count) * 150;
                    log1 = log16(T, decayed + log1) - log16(T, weight + 9830400);
                    I log2 = log16(T, decayed + centre * count) - log16(T, weight + count * 65536);
                    I lean = clamp((r[i * 6 + 4] >> 16) + 4, 0, 8);
                    lean = log1 * (8 - lean) + log2 * lean + 4 >> 3;
                    I log = r[i * 6 + 3] + lean;
                    I recent = log16(T, decayed + centre) - log16(T, weight + 65536) - lean;
                    recent = ((clamp(log + 32 >> 4, 0, 3) * 16 + clamp(recent + 64 >> 3, 0, 15)) * 2 + grid) * 56 + 2800;
                    I place = (clamp(log + 48 >> 4, 0, 15) * 256 + state) * 56 + 9968;
                    log = clamp(log, -96, 511);
                    I shift = clamp(log - 8 >> 4, 0, 99);
                    log += 96 - clamp(shift - 3, 0, 99) * 16;
                    I node = ((log / 8 + clamp(shift, 0, 3)) * 2 + grid) * 56;
                    I part = log % 8 * 2 + 1;
                    I x = 0;
                    I answer = 1;
                    while (answer > 0) {
                        answer = ask(data, io, T, t, node, recent, place, part, x);
                        x += answer;
                        if (x == 14) { answer = 0; }
                    }
                    I high = x;
                    I n = 0;
                    if (x == 14) {
                        answer = 1;
                        while (answer > 0) {
                            if (n == 30) { return 1; }
                            I p = t[239480 + n] + 32768;
                            answer = bit(data, io, p);
                            p += (65535 - p >> 4) * answer - (p >> 4) * (1 - answer);
                            t[239480 + n] = clamp(p, 16, 65520) - 32768;
                            n += answer;
                        }
                        x += (1 << n) - 1 + even(data, io, n);
                        n = 0;
                    }
                    I low = 0;
                    while (n < shift) {
                        I b = 0;
                        if (n == 0) { b = 14 + clamp(high, 0, 5); }
                        if (n == 1) { b = 20 + low + (high > 0) * 2; }
                        if (n == 2) { b = (high == 0) * (24 + low); }
                        if (b > 0) { answer = ask(data, io, T, t, node, recent, place, part, b); }
                        else { answer = bit(data, io, 32768); }
                        low = low * 2 + answer & 3;
                        x = x * 2 + answer;
                        n += 1;
                    }
                    if (x > 268435456) { return 1; }
                    // From the rank to the distance from zero.
                    I v = x * 2 + grid * (plain * 2 - 1) * ((x > 0) | plain);
                    answer = 0;
                    if (v > 0) {
                        I c = total + 1048576;
                        c = (balance * 32 + c / 2 + c * 64) / c - 64;
                        c = (clamp(c, -8, 8) * 4 + clamp(width(v), 1, 4)) * 2 + 239406;
                        n = logistic(T, t[c]);
                        answer = bit(data, io, n);
                        learn(T, t, c, 6929, answer * 65536 - n, 16);
                    }
                    out[j * rows + i] = v - answer * v * 2;
                    state = state >> 1 ^ grid * odd ^ ((x + grid * plain * (1 - answer)) & 1) * turn;
                    v = clamp(v, 0, 524288);
                    r[i * 6 + 4] += cost(T, r[i * 6 + 3] + log1, v) - cost(T, r[i * 6 + 3] + log2, v) - (r[i * 6 + 4] >> 7);
                    r[i * 6 + 5] = v;
                    v = clamp(v * r[i * 6 + 2] >> 16, 0, 2097152);
                    total += v;
                    balance += v - answer * v * 2;
                    decayed += v - (decayed >> 4);
                    weight += 65536 - (weight >> 4);
                    i += 1;
                }
                if (columns > 0) {
                    I d = clamp(total / rows * 65536 / centre, 0, 524288) - 65536;
                    deviation = clamp(deviation + (d * d >> 16) - 65536 / rows, 0, 1152921504606846976);
                    number += 1;
                }
                total = clamp((total + centre * count) / (rows + count), 1, 1152921504606846976);
                last = (last * 7 + total * 3) / 10;
                r[at] += total;
                r[at + 1] += 1;
                i = 0;
                while (i < rows) {
                    r[i * 6 + 1] += r[i * 6 + 5] * (268435456 / clamp(total, 2048, 1152921504606846976));
                    i += 1;
                }
                columns += 1;
            }
            j += 1;
        }
        e += 1;
    }
    return 0;
}

// --- Counters and mixing: scale exponents, codec 0 ---

// A counter is its probability above one half, then its number of answers.
static void update(int *t, I at, I answer) {
    I n = t[at + 1] * 2 + 3;
    if (answer) { t[at] += (2097151 - t[at]) * 2 / n; }
    else { t[at] -= (t[at] + 2097152) * 2 / n; }
    t[at + 1] = clamp(t[at + 1] + 1, 0, 1000);
}

// What `n` counters think, weighed; their places are in `io` from 4 on. The weights are in `t` from `w` on, the last that of a
// constant opinion if there is one.
static I mixed(const B *data, I *io, const int *T, int *t, I w, I n, I constant) {
    I i = 0;
    I p = 0;
    while (i < n + constant) {
        io[10 + i] = 256;
        if (i < n) { io[10 + i] = T[14096 + (t[io[4 + i]] + 2097152 >> 10)]; }
        p += t[w + i] * io[10 + i];
        i += 1;
    }
    p = T[11024 + clamp(p >> 16, -3071, 3071)];
    I sure = clamp(p, 32, 65504);
    I answer = bit(data, io, sure);
    p = answer * 65536 - constant * p - (1 - constant) * sure;
    i = 0;
    while (i < n + constant) {
        t[w + i] = clamp(t[w + i] + (p * io[10 + i] + 65536 >> 17), -2147483648, 2147483647);
        if (i < n) { update(t, io[4 + i], answer); }
        i += 1;
    }
    return answer;
}

// `rows`, then `cols` numbers from -16 to 16. Each of the two lists has counters (65 x 64) and weights of its own in `t`.
int exponents(const B *data, I *io, const int *T, int *t, int rows, int cols, int *out) {
    I bad = 0;
    I at = 0;
    I before = 16;
    while (at < rows + cols) {
        I base = (at >= rows) * 8448;
        if (at == rows) { before = 16; }
        I node = 1;
        while (node < 64) {
            io[4] = base + node * 2;
            io[5] = base + (before + 1) * 128 + node * 2;
            I w = base + 8320 + node * 2;
            if (t[io[4] + 1] == 0) {
                t[w] = 49152;
                t[w + 1] = 16384;
            }
            node = node * 2 + mixed(data, io, T, t, w, 2, 0);
        }
        before = node - 64;
        bad |= before > 32;
        out[at] = before - 16;
        at += 1;
    }
    return bad;
}

// --- Lossless streams: codec 0 ---

static I loglinear(I x) {
    I o = width(x + (x == 0)) - 1;
    return 16 * o + (x << 4 >> o & 15);
}

// Bits that are nearly noise: what answers there were.
static I noise(const B *data, I *io, I *r, I at) {
    I answer = bit(data, io, clamp((r[at] * 2 + 1) * 32768 / (r[at + 1] + 1), 32, 65504));
    r[at] += answer;
    r[at + 1] += 1;
    return answer;
}

// One tensor of `values` values after the other in the rows of `width` that each has; what is learned stays in `t` and `r`.
// `r`: the largest exponent, sum and number of magnitudes, 64 pairs of noise, then for each column sum and octave.
// `t`: counters of octaves by both (256), rows (256), columns (256), octave (32), neighbours (32768); of mantissas by octave
// (256), both (1024), rows (1024); of the binary exponent (256). Weights, six for each octave and four for each prefix.
int lossless(const B *data, I *io, const int *T, int *t, I *r, int exponent, int mantissa, int rows, int cols, int *out) {
    I i = 0;
    if (r[0] == 0) {
        r[0] = even(data, io, 8) + 1;
        while (i < 176) {
            t[73000 + i] = 13107;
            if (i < 144) {
                if (i % 6 == 0) { t[73000 + i] = 32768; }
                if (i % 6 == 5) { t[73000 + i] = 0; }
            }
            else {
                if (i % 4 == 0) { t[73000 + i] = 32768; }
                if (i % 4 == 3) { t[73000 + i] = 0; }
            }
            i += 1;
        }
    }
    i = 0;
    while (i < cols * 2) {
        r[140 + i] = 0;
        i += 1;
    }
    i = 0;
    while (i < rows) {
        I row = 0;
        I left = 0;
        I j = 0;
        while (j < cols) {
            I at = 140 + j * 2;
            I usual = (r[1] + 262144) / (r[2] + 4);
            I rs = loglinear((row + usual * 3) / (j + 3));
            I both = loglinear((r[at] + usual * 3) / (i + 3));
            io[6] = both;
            both = clamp(rs + both - loglinear(usual), 0, 512);
            I cs = io[6];
            I k = 0;
            I answer = 0;
            while (answer == 0) {
                io[4] = (both + k * 16) / 4 * 2;
                io[5] = (rs + k * 16) / 4 * 2 + 512;
                io[6] = (cs + k * 16) / 4 * 2 + 1024;
                io[7] = (left * 32 + r[at + 1]) * 64 + k * 2 + 1600;
                io[8] = k * 2 + 1536;
                answer = mixed(data, io, T, t, 73000 + k * 6, 5, 1);
                k += 1 - answer;
                if (k == 24) { answer = 1; }
            }
            I value = k;
            I far = k == 24;
            if (far) {
                I node = 1;
                while (node < 256) {
                    answer = bit(data, io, clamp(t[72200 + node * 2] + 2097152 >> 6, 32, 65504));
                    update(t, 72200 + node * 2, answer);
                    node = node * 2 + answer;
                }
                value += node - 256;
            }
            value = r[0] - 1 - value;
            if (value < 0) { return 1; }
            far = far * 64 + 4;
            value |= noise(data, io, r, far + 62) << exponent;
            I b = mantissa - 1;
            I prefix = 1;
            while (b >= 0) {
                if (mantissa - b < 4) {
                    io[4] = 67200 + (k * 8 + prefix) * 2;
                    io[5] = 67712 + ((both + k * 16) / 8 * 8 + prefix) * 2;
                    io[6] = 69760 + ((rs + k * 16) / 8 * 8 + prefix) * 2;
                    answer = mixed(data, io, T, t, 73144 + prefix * 4, 3, 1);
                    prefix = prefix * 2 + answer;
                }
                else { answer = noise(data, io, r, far + b * 2); }
                value = value * 2 + answer;
                b -= 1;
            }
            out[i * cols + j] = value;
            value = (128 + (value >> mantissa - 7 & 127)) << 16 >> k;
            row += value;
            r[at] += value;
            r[1] += value;
            r[2] += 1;
            left = k;
            r[at + 1] = k;
            j += 1;
        }
        i += 1;
    }
    return 0;
}
