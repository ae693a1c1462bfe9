// Reads tiepack artifacts. The decoder is tiepack.wasm, compiled from crates/tiepack-format; this file carries bytes in and
// arrays out.

/** Weights that `load` takes at most unless told otherwise: decoding as many needs up to 3 of the 4 GiB that wasm can address. */
export const MAX_WEIGHTS = 2 ** 27;

/** Arrays that hold kept tensors. JavaScript has none for f16, bf16 and fp8: these are bits. */
const ARRAYS = {
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  bool: Uint8Array,
  u8: Uint8Array,
  i8: Int8Array,
  i16: Int16Array,
  u16: Uint16Array,
  i32: Int32Array,
  u32: Uint32Array,
  i64: BigInt64Array,
  u64: BigUint64Array,
  f64: Float64Array,
  f8e4m3: Uint8Array,
  f8e5m2: Uint8Array,
};

/** An artifact that cannot be read; `hint` is the way out, where there is one. */
export class TiepackError extends Error {
  constructor(message, hint) {
    super(hint ? `${message} (${hint})` : message);
    this.name = "TiepackError";
    this.hint = hint;
  }
}

let compiled;

/** Takes the decoder from elsewhere than beside this file: its bytes, or a compiled module. */
export function use(wasm) {
  compiled = wasm instanceof WebAssembly.Module ? Promise.resolve(wasm) : WebAssembly.compile(wasm);
}

async function read() {
  const url = new URL("tiepack.wasm", import.meta.url);
  if (url.protocol === "file:" && globalThis.process?.versions?.node) {
    const { readFile } = await import("node:fs/promises");
    return WebAssembly.compile(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new TiepackError(`cannot fetch ${url}: ${response.status} ${response.statusText}`);
  return WebAssembly.compile(await response.arrayBuffer());
}

function module() {
  compiled ??= read();
  // A failure is not kept: the next call tries again.
  compiled.catch(() => (compiled = undefined));
  return compiled;
}

function parsed(config) {
  try {
    return JSON.parse(config);
  } catch (error) {
    throw new TiepackError(`the artifact's configuration is damaged: ${error.message}`);
  }
}

/** The type of each stored and each kept tensor. */
function types(description) {
  const all = [];
  for (const stream of description.streams) stream.tensors.forEach((t, i) => (all[t] = stream.types[i]));
  return all;
}

/** A decoded model. Tied names share one array. */
export class Model {
  #tensors;

  constructor(description, type, stored) {
    this.config = description.config ? parsed(description.config) : null;
    this.root = description.root;
    this.bytes = description.bytes;
    this.streams = description.streams;
    const tensor = ({ name, ...rest }) => [name, { ...rest, type: type[rest.stored], data: stored[rest.stored] }];
    this.#tensors = new Map(description.tensors.map(tensor));
  }

  get names() {
    return [...this.#tensors.keys()];
  }

  has(name) {
    return this.#tensors.has(name);
  }

  /** Shape, values and origin of a tensor. */
  tensor(name) {
    const tensor = this.#tensors.get(name);
    if (!tensor) throw new TiepackError(`the model has no tensor ${JSON.stringify(name)}`);
    return tensor;
  }

  shape(name) {
    return this.tensor(name).shape;
  }

  data(name) {
    return this.tensor(name).data;
  }
}

/** Decodes an artifact and checks its hashes. */
export async function load(bytes, { maxWeights = MAX_WEIGHTS } = {}) {
  if (bytes instanceof ArrayBuffer) bytes = new Uint8Array(bytes);
  if (!ArrayBuffer.isView(bytes)) throw new TypeError("load takes an ArrayBuffer or a view of one");
  if (!Number.isInteger(maxWeights) || maxWeights < 0 || maxWeights >= 2 ** 32) {
    throw new RangeError(`maxWeights is ${maxWeights}, allowed are whole numbers from 0 to ${2 ** 32 - 1}`);
  }
  const { byteOffset, byteLength } = bytes;
  // An instance for each file: its memory goes when it does.
  const { exports } = await WebAssembly.instantiate(await module());
  try {
    const file = exports.tiepack_allocate(byteLength) >>> 0;
    new Uint8Array(exports.memory.buffer).set(new Uint8Array(bytes.buffer, byteOffset, byteLength), file);
    const model = exports.tiepack_decode(file, byteLength, maxWeights);
    const at = exports.tiepack_description(model) >>> 0;
    const size = exports.tiepack_description_size(model) >>> 0;
    const text = new TextDecoder().decode(new Uint8Array(exports.memory.buffer, at, size));
    const description = JSON.parse(text);
    if (description.error) throw new TiepackError(description.error, description.hint);
    const type = types(description);
    const stored = [];
    for (const { stored: t, shape, form } of description.tensors) {
      if (stored[t]) continue;
      // Weights are f32 once decoded.
      const Values = form === "kept" ? ARRAYS[type[t]] : Float32Array;
      const size = shape.reduce((n, d) => n * d, Values.BYTES_PER_ELEMENT);
      const at = exports.tiepack_tensor(model, t) >>> 0;
      stored[t] = new Values(exports.memory.buffer.slice(at, at + size));
    }
    return new Model(description, type, stored);
  } catch (error) {
    // The decoder gives errors for whatever bytes; what is left is memory.
    if (error instanceof WebAssembly.RuntimeError) {
      throw new TiepackError("there is not enough memory to decode the artifact", `it has ${byteLength} bytes`);
    }
    throw error;
  }
}
