// The model, beside the page so that the page never stops. Nothing is fetched but the files of this folder.
//
// From the page: {id, picture: Blob}. To the page: {loaded, total} while the model comes, {ready: record},
// {failed: sentence}, and for each picture {id, probabilities} or {id, error}.

import * as ort from "./ort.js";
import { pixels } from "./pixels.js";

const MAX_BYTES = 256 * 1024 * 1024;
const MAX_PIXELS = 120_000_000;

const opened = open().catch((error) => {
  postMessage({ failed: `The model cannot be loaded: ${error.message}` });
  throw error;
});

async function open() {
  const record = await (await fetched("export.json")).json();
  if (record.format !== 1) throw new Error("export.json is of another format than this page.");
  const runtime = await unpacked(await bytes("ort.wasm.gz"));
  const graph = await bytes(record.model, (loaded, total) => postMessage({ loaded, total }));
  ort.env.wasm.numThreads = 1; // more ask for headers that a plain server does not send
  ort.env.wasm.wasmBinary = runtime;
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  postMessage({ ready: record });
  return { record, session };
}

async function fetched(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name} is not there (${answer.status}).`);
  return answer;
}

async function bytes(name, tell = () => {}) {
  const answer = await fetched(name);
  const total = Number(answer.headers.get("Content-Length"));
  const parts = [];
  let loaded = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    tell(loaded, Math.max(total, loaded));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// A server may have unpacked it on the way.
async function unpacked(data) {
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function classify(picture) {
  const { record, session } = await opened;
  if (picture.size > MAX_BYTES) throw new Error(`has more than the ${MAX_BYTES.toLocaleString("en")} bytes that are read`);
  let bitmap;
  try {
    const asStored = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
    bitmap = await createImageBitmap(picture, asStored);
  } catch {
    throw new Error("cannot be read as an image by this browser");
  }
  try {
    if (bitmap.width * bitmap.height > MAX_PIXELS) {
      throw new Error(`has more than the ${MAX_PIXELS.toLocaleString("en")} pixels that are read`);
    }
    const input = pixels(bitmap.width, bitmap.height, reader(bitmap), record.preprocess);
    const [height, width] = record.preprocess.size;
    const { logits } = await session.run({ pixels: new ort.Tensor("float32", input, [1, 3, height, width]) }, ["logits"]);
    return softmax(logits.data);
  } finally {
    bitmap.close();
  }
}

// Rows of the picture on white, a strip at a time: a canvas of a whole photograph is more than some phones allow.
function reader(bitmap) {
  return (left, top, width, count) => {
    const context = new OffscreenCanvas(width, count).getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, left, top, width, count, 0, 0, width, count);
    return context.getImageData(0, 0, width, count).data;
  };
}

function softmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const raised = Array.from(logits, (value) => Math.exp(value - most));
  const total = raised.reduce((a, b) => a + b);
  const found = raised.map((value) => value / total);
  if (!found.every(Number.isFinite)) throw new Error("has no prediction: the model gives numbers that are not finite");
  return found;
}

let last = Promise.resolve(); // one picture after the other
onmessage = ({ data: { id, picture } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, probabilities: await classify(picture) });
    } catch (error) {
      postMessage({ id, error: error.message });
    }
  });
};
