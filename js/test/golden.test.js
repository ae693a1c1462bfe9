// Every golden artifact decodes to the hashes that it was written with, and damage is an exception.
import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import test from "node:test";

import { blake3 } from "@noble/hashes/blake3.js";

import { TiepackError, load } from "../index.js";

const folder = new URL("../../fixtures/golden/", import.meta.url);
const expected = JSON.parse(await readFile(new URL("expected.json", folder), "utf8"));
const golden = (name) => readFile(new URL(name, folder));
const hex = (bytes) => Buffer.from(bytes).toString("hex");

/** Hash of a tensor as formats/artifact.md says: rank and dimensions as u64, then the values as f32. */
function hash({ shape, data }) {
  const front = new BigUint64Array([shape.length, ...shape].map(BigInt));
  return hex(blake3(Buffer.concat([Buffer.from(front.buffer), Buffer.from(data.buffer, data.byteOffset, data.byteLength)])));
}

/** The file with a fitting checksum; `body` are all bytes before it. */
const sealed = (body) => Buffer.concat([body, blake3(body).subarray(0, 8)]);

test("every golden artifact is tried", async () => {
  const files = (await readdir(folder)).filter((name) => name.endsWith(".tiepack"));
  assert.deepEqual(files.sort(), Object.keys(expected).sort());
});

for (const [name, wanted] of Object.entries(expected)) {
  test(`${name} decodes to the same bits`, async () => {
    const file = await golden(name);
    const model = await load(file);
    assert.equal(model.root, wanted.root);
    assert.equal(model.bytes, file.length);
    const hashes = [];
    for (const name of model.names) {
      const tensor = model.tensor(name);
      assert.ok(tensor.data instanceof Float32Array);
      assert.equal(tensor.data.length, tensor.shape.reduce((n, d) => n * d, 1));
      hashes[tensor.stored] = hash(tensor);
    }
    assert.deepEqual(hashes, wanted.tensors);
    // The ledger: streams, and what stands around them.
    const streams = model.streams.reduce((sum, stream) => sum + stream.bytes, 0);
    assert.ok(streams > 0 && streams < model.bytes);
    assert.deepEqual(model.streams.flatMap((stream) => stream.tensors).sort((a, b) => a - b), [...hashes.keys()]);
  });
}

test("tied names share one array", async () => {
  const model = await load(await golden("v1-quantized.tiepack"));
  const [first, last] = [0, 2].map((layer) => model.data(`blocks.${layer}.attn.c_q.weight`));
  assert.equal(first, last);
  assert.notEqual(first, model.data("blocks.1.attn.c_q.weight"));
  assert.throws(() => model.data("no such tensor"), TiepackError);
  assert.equal(model.config.num_layers, 3);
});

test("views and buffers are taken alike", async () => {
  const file = await golden("v1-foreign.tiepack");
  const wide = new Uint8Array(file.length + 7);
  wide.set(file, 5);
  const { root } = await load(new Uint8Array(wide.buffer, 5, file.length));
  assert.equal(root, expected["v1-foreign.tiepack"].root);
  assert.equal((await load(new Uint8Array(file).buffer)).root, root);
  await assert.rejects(load("text"), TypeError);
});

test("more weights than allowed are refused", async () => {
  await assert.rejects(load(await golden("v1-foreign.tiepack"), { maxWeights: 100 }), TiepackError);
  await assert.rejects(load(await golden("v1-foreign.tiepack"), { maxWeights: -1 }), RangeError);
});

test("damage gives an exception of ours, never a trap", async () => {
  const name = "v1-foreign.tiepack";
  const file = await golden(name);
  await assert.rejects(load(new Uint8Array()), /not a tiepack artifact/);
  await assert.rejects(load(file.subarray(0, 100)), TiepackError);
  const body = file.subarray(0, file.length - 8);
  let same = 0;
  for (let at = 4; at < body.length; at++) {
    const bad = Buffer.from(body);
    bad[at] ^= 1 << at % 8;
    try {
      // What does not matter gives the same tensors: the root says so.
      assert.equal((await load(sealed(bad))).root, expected[name].root);
      same++;
    } catch (error) {
      assert.ok(error instanceof TiepackError, `byte ${at}: ${error.stack}`);
      assert.doesNotMatch(error.message, /not enough memory/);
    }
  }
  assert.ok(same < body.length / 20, `${same} of ${body.length}`);
});
