// Makes index.html, one file that needs no server: page.html with index.js and tiepack.wasm inside.
import { readFile, writeFile } from "node:fs/promises";

const file = (name) => new URL(name, import.meta.url);
const page = await readFile(file("page.html"), "utf8");
const wasm = await readFile(file("../tiepack.wasm"));
const library = await readFile(file("../index.js"), "utf8");
const place = "/* index.js */";
if (!page.includes(place)) throw new Error(`page.html has no ${place}`);
// A module of its own inside the page, imported by address.
const inside = `const LIBRARY = ${JSON.stringify(library)};
const WASM = "${wasm.toString("base64")}";`;
await writeFile(file("index.html"), page.replace(place, () => inside.replaceAll("</script", "<\\/script")));
