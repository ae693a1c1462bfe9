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

const u64 = (n) => Buffer.from(new BigUint64Array([BigInt(n)]).buffer);

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
    const kept = [];
    for (const name of model.names) {
      const tensor = model.tensor(name);
      assert.equal(tensor.data, model.data(name));
      if (tensor.form === "kept") {
        kept.push(tensor.stored);
        continue;
      }
      assert.ok(tensor.data instanceof Float32Array);
      assert.equal(tensor.data.length, tensor.shape.reduce((n, d) => n * d, 1));
      hashes[tensor.stored] = hash(tensor);
    }
    assert.deepEqual(hashes, wanted.tensors);
    // The ledger: streams, and what stands around them.
    const streams = model.streams.reduce((sum, stream) => sum + stream.bytes, 0);
    assert.ok(streams > 0 && streams < model.bytes);
    assert.deepEqual(model.streams.flatMap((stream) => stream.tensors).sort((a, b) => a - b), [...hashes.keys(), ...kept]);
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

// What formats/reader.py decodes: type, array, shape, first and last value, of f16 its bits.
const KEPT = {
  "buffers.9.table": ["f32", Float32Array, [9, 3], 2.5414356575786326e33, -2.2188765188253336e23],
  "buffers.10.table": ["f16", Uint16Array, [10, 3], 30523, 46099],
  "buffers.11.table": ["bf16", Uint16Array, [11, 3], 54997, 32150],
  "buffers.1.table": ["bool", Uint8Array, [1, 3], 1, 1],
  "buffers.2.table": ["u8", Uint8Array, [2, 3], 230, 61],
  "buffers.3.table": ["i8", Int8Array, [3, 3], 30, -73],
  "buffers.4.table": ["i16", Int16Array, [], -9858, -9858],
  "buffers.5.table": ["u16", Uint16Array, [5, 3], 27522, 57201],
  "buffers.6.table": ["i32", Int32Array, [6, 3], -1440562120, 173280511],
  "buffers.7.table": ["u32", Uint32Array, [7, 3], 216678298, 909796885],
  "buffers.0.table": ["i64", BigInt64Array, [], -1776274744588319978n, -1776274744588319978n],
  "buffers.8.table": ["u64", BigUint64Array, [], 13877530464494452639n, 13877530464494452639n],
  "buffers.12.table": ["f64", Float64Array, [], 1.1914445724340432e111, 1.1914445724340432e111],
  nothing: ["f64", Float64Array, [0, 2], undefined, undefined],
  "buffers.13.table": ["f8e4m3", Uint8Array, [13, 3], 245, 11],
  "buffers.14.table": ["f8e5m2", Uint8Array, [14, 3], 75, 41],
};

test("kept tensors are arrays of their type", async () => {
  const model = await load(await golden("v1-beside.tiepack"));
  const kept = model.names.filter((name) => model.tensor(name).form === "kept");
  assert.deepEqual(kept, Object.keys(KEPT));
  for (const [name, [type, Values, shape, first, last]] of Object.entries(KEPT)) {
    const tensor = model.tensor(name);
    assert.equal(tensor.type, type, name);
    assert.equal(tensor.data.constructor, Values, name);
    assert.deepEqual(tensor.shape, shape, name);
    assert.equal(tensor.data.length, shape.reduce((n, d) => n * d, 1), name);
    assert.deepEqual([tensor.data.at(0), tensor.data.at(-1)], [first, last], name);
  }
  const streams = model.streams.filter((stream) => stream.kind === "kept");
  assert.deepEqual(streams.flatMap((stream) => stream.tensors), kept.map((name) => model.tensor(name).stored));
  assert.deepEqual(streams.flatMap((stream) => stream.types), kept.map((name) => model.tensor(name).type));
});

/** What the packed file called a tensor. */
const labelled = (name) => ({ bank: ["bank", "store"], kept: ["left.alone"] })[name] ?? [`net.${name}`];

test("names are those of the packed file", async () => {
  const model = await load(await golden("v1-beside.tiepack"));
  assert.equal(model.data("bank"), model.data("store"));
  assert.deepEqual(model.shape("left.alone"), [3, 5]);
  // The same network without labels.
  const plain = await load(await golden("v1-foreign.tiepack"));
  assert.deepEqual(model.names, [...plain.names.flatMap(labelled), ...Object.keys(KEPT)]);
  assert.equal(model.has("kept"), false);
});

/** The root as formats/artifact.md says, made of nothing but what the model gives and the names in the header. */
function root(model, canonical) {
  const u32 = (n) => Buffer.from(new Uint32Array([n]).buffer);
  const named = (name) => [u64(Buffer.byteLength(name)), Buffer.from(name)];
  const bytes = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength);
  const weights = model.names.filter((name) => model.tensor(name).form !== "kept");
  const kept = model.names.filter((name) => model.tensor(name).form === "kept");
  const hashes = [];
  for (const name of weights) hashes[model.tensor(name).stored] = Buffer.from(hash(model.tensor(name)), "hex");
  const parts = [u64(hashes.length), ...hashes, u64(canonical.length)];
  for (const { name, stored } of canonical) parts.push(u32(stored), ...named(name));
  parts.push(Buffer.from(model.config === null ? "" : JSON.stringify(model.config)), Buffer.from([255]), u64(weights.length));
  const at = new Map(canonical.flatMap(({ name }, i) => labelled(name).map((label) => [label, i])));
  for (const name of weights) parts.push(u32(at.get(name)), ...named(name));
  parts.push(u64(kept.length));
  for (const name of kept) {
    const { type, shape, data } = model.tensor(name);
    parts.push(...named(name), u64(TYPES.indexOf(type)), u64(shape.length), ...shape.map(u64), bytes(data));
  }
  return hex(blake3(Buffer.concat(parts)));
}

// By their number in the format.
const TYPES = ["f32", "f16", "bf16", "bool", "u8", "i8", "i16", "u16", "i32", "u32", "i64", "u64", "f64", "f8e4m3", "f8e5m2"];

test("the root is that of the labels and the kept tensors that are given", async () => {
  const plain = await load(await golden("v1-foreign.tiepack"));
  const canonical = plain.names.map((name) => ({ name, stored: plain.tensor(name).stored }));
  const model = await load(await golden("v1-beside.tiepack"));
  assert.equal(root(model, canonical), expected["v1-beside.tiepack"].root);
});

test("an empty kept tensor may have a side that in bytes is beyond 32 bits", async () => {
  const most = [0x80, 0x80, 0x80, 0x80, 8];
  // Nothing but one kept tensor: a kind "a" of 2^31 by 0, one tensor of it, f64, and an empty zstd frame.
  const frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];
  const header = [2, 0, 0, 0, 0, 0, 1, 0, 1, 0x61, 2, ...most, 0, 1, 1, 0, 12, 1, frame.length];
  const covered = [0, 0, 255n, 0, 1, 1, 0x61n, 12, 2, 2 ** 31, 0];
  const root = blake3(Buffer.concat(covered.map((n) => (typeof n === "bigint" ? Buffer.from([Number(n)]) : u64(n)))));
  const model = await load(sealed(Buffer.from([...Buffer.from("TPK1"), header.length, 0, ...header, ...frame, ...root])), { maxWeights: 2 ** 31 });
  assert.deepEqual(model.names, ["a"]);
  assert.deepEqual(model.shape("a"), [2 ** 31, 0]);
  assert.equal(model.data("a").length, 0);
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
  const name = "v1-beside.tiepack";
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
