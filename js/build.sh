#!/usr/bin/env bash
# Builds tiepack.wasm and the example's page. Needs Rust with the target wasm32-unknown-unknown, and Node; wasm-opt of binaryen
# makes the file smaller where it is installed (npm install).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Panics name source files: the paths shall say nothing of the machine that builds.
export RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$(cd .. && pwd)=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"

cargo build --release --locked --target wasm32-unknown-unknown --manifest-path wasm/Cargo.toml \
    --target-dir "${CARGO_TARGET_DIR:-wasm/target}"
cp "${CARGO_TARGET_DIR:-wasm/target}/wasm32-unknown-unknown/release/tiepack_wasm.wasm" tiepack.wasm
optimizer=$(PATH="$PWD/node_modules/.bin:$PATH" command -v wasm-opt || true)
if [ -n "$optimizer" ]; then
    "$optimizer" -Oz --enable-bulk-memory --enable-bulk-memory-opt --enable-sign-ext --enable-nontrapping-float-to-int \
        --enable-mutable-globals --enable-reference-types --enable-multivalue tiepack.wasm -o tiepack.wasm
fi
node example/build.mjs
node -e '
  const { gzipSync, brotliCompressSync } = require("node:zlib");
  const wasm = require("node:fs").readFileSync("tiepack.wasm");
  console.log(`tiepack.wasm: ${wasm.length} bytes, ${gzipSync(wasm, { level: 9 }).length} with gzip, ${brotliCompressSync(wasm).length} with brotli`);'
