/** Weights that `load` takes at most unless told otherwise. */
export const MAX_WEIGHTS: number;

/** An artifact that cannot be read. */
export class TiepackError extends Error {
  /** The way out, where there is one. */
  readonly hint?: string;
}

export interface Tensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
  /** The element type that it had before packing. */
  readonly type: "f32" | "f16" | "bf16";
  readonly form: "matrix" | "embedding" | "vector";
  /** Number of the stored tensor that it is: equal for tied names. */
  readonly stored: number;
}

/** A run of bytes of the file that decodes to one or more stored tensors. */
export interface Stream {
  readonly kind: "exact" | "matrix" | "vectors" | "zeros" | "sum";
  readonly bytes: number;
  readonly tensors: readonly number[];
  /** The element type of each of `tensors` before packing. */
  readonly types: readonly ("f32" | "f16" | "bf16")[];
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
  /** Every tensor of the model, in canonical order. */
  readonly names: string[];
  has(name: string): boolean;
  /** Throws a `TiepackError` where there is no such tensor, as do `shape` and `data`. */
  tensor(name: string): Tensor;
  shape(name: string): readonly number[];
  data(name: string): Float32Array;
}

/**
 * Decodes an artifact and checks its hashes.
 *
 * Rejects with a `TiepackError` where the bytes are damaged, are no artifact, or hold more than `maxWeights` weights.
 */
export function load(
  bytes: ArrayBuffer | ArrayBufferView,
  options?: { maxWeights?: number },
): Promise<Model>;

/** Takes the decoder from elsewhere than beside this file: its bytes, or a compiled module. */
export function use(wasm: BufferSource | WebAssembly.Module): void;
