/** Weights that `load` takes at most unless told otherwise. */
export const MAX_WEIGHTS: number;

/** An artifact that cannot be read. */
export class TiepackError extends Error {
  /** The way out, where there is one. */
  readonly hint?: string;
}

/** The arrays that hold a tensor of each type bit for bit: f16, bf16 and fp8 as bits, bool as 0 and 1. */
export interface Arrays {
  f32: Float32Array;
  f16: Uint16Array;
  bf16: Uint16Array;
  bool: Uint8Array;
  u8: Uint8Array;
  i8: Int8Array;
  i16: Int16Array;
  u16: Uint16Array;
  i32: Int32Array;
  u32: Uint32Array;
  i64: BigInt64Array;
  u64: BigUint64Array;
  f64: Float64Array;
  f8e4m3: Uint8Array;
  f8e5m2: Uint8Array;
}

export type Type = keyof Arrays;

interface Common {
  readonly shape: readonly number[];
  /** Number of the stored tensor that it is: equal for tied names. Kept tensors are numbered after the stored ones. */
  readonly stored: number;
}

export interface Weights extends Common {
  readonly form: "matrix" | "embedding" | "vector";
  /** The element type that they had before packing. */
  readonly type: "f32" | "f16" | "bf16";
  /** f32, whatever `type` says. */
  readonly data: Float32Array;
}

/** A tensor that is no weight, such as integers, booleans or a table: kept bit for bit. */
export type Kept = { [T in Type]: Common & { readonly form: "kept"; readonly type: T; readonly data: Arrays[T] } }[Type];

/** `form` tells which: `"kept"`, or what weights are in their layer. */
export type Tensor = Weights | Kept;

/** A run of bytes of the file that decodes to one or more stored tensors, or to the kept tensors of one type. */
export interface Stream {
  readonly kind: "exact" | "matrix" | "vectors" | "zeros" | "sum" | "kept";
  readonly bytes: number;
  readonly tensors: readonly number[];
  /** The element type of each of `tensors` before packing. */
  readonly types: readonly Type[];
  /** Stored tensors that it starts from. */
  readonly needs: readonly number[];
}

/** A decoded model. Tied names share one array. */
export class Model {
  private constructor();
  /** The model's config.json; `null`: it has none. */
  readonly config: unknown;
  /** blake3 of all that was decoded, in hexadecimal digits. */
  readonly root: string;
  /** Bytes of the file. */
  readonly bytes: number;
  readonly streams: readonly Stream[];
  /** The names that the packed file had, in canonical order, then those of kept tensors. Several may name one tensor. */
  readonly names: string[];
  has(name: string): boolean;
  /** Throws a `TiepackError` where there is no such tensor, as do `shape` and `data`. */
  tensor(name: string): Tensor;
  shape(name: string): readonly number[];
  /** Weights are a `Float32Array`; of kept tensors `tensor(name).type` tells the array. */
  data(name: string): Arrays[Type];
}

/**
 * Decodes an artifact and checks its hashes.
 *
 * Rejects with a `TiepackError` where the bytes are damaged, are no artifact, or hold more than `maxWeights` weights, or a
 * kept tensor of more values.
 */
export function load(
  bytes: ArrayBuffer | ArrayBufferView,
  options?: { maxWeights?: number },
): Promise<Model>;

/** Takes the decoder from elsewhere than beside this file: its bytes, or a compiled module. */
export function use(wasm: BufferSource | WebAssembly.Module): void;
