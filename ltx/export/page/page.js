// Runs the exported graph in the browser. Files come from this page's own folder; photographs go nowhere.

const element = (id) => document.getElementById(id);
const status = (text) => { element("status").textContent = text; };
const LIKELIEST = 5;
const MOST_PIXELS = 16384; // the longest side that a browser draws

let about, model, ort, session, backend;
let photograph = null; // pixels at the size of the classifier, RGBA
let answer = null; // { logits, mask, target }
let working = Promise.resolve();

// -- loading --------------------------------------------------------------------------------------------------------

async function fetched(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** The content of a gzip file, whether or not the server has already unpacked it. */
async function unpacked(path) {
  const bytes = await fetched(path);
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes.buffer;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function open(kind) {
  const [script, loader, code] = about.backends[kind];
  const runtime = await import(`./runtime/${script}`);
  runtime.env.wasm.wasmPaths = { mjs: new URL(`./runtime/${loader}`, document.baseURI).href };
  runtime.env.wasm.wasmBinary = await unpacked(`./runtime/${code}.gz`);
  runtime.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  runtime.env.logLevel = "error";
  const providers = kind === "webgpu" ? ["webgpu", "wasm"] : ["wasm"];
  session = await runtime.InferenceSession.create(model, { executionProviders: providers });
  [ort, backend] = [runtime, kind];
}

/** WebGPU's adapter, unless it is a program that stands in for a graphics card: WebAssembly is faster than that. */
async function graphicsCard() {
  const wanted = new URLSearchParams(location.search).get("backend");
  if (wanted === "wasm" || !navigator.gpu) return null;
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  const standIn = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter;
  return standIn && wanted !== "webgpu" ? null : adapter;
}

async function start() {
  about = JSON.parse(new TextDecoder().decode(await fetched("about.json")));
  element("about").textContent = `${about.classifier}, ${about.class_names.length} classes, runs on ${about.runtime}.`;
  for (const name of about.class_names) {
    const option = document.createElement("option");
    option.value = name;
    element("names").append(option);
  }
  model = await fetched(about.model);
  const adapter = about.backends.webgpu ? await graphicsCard() : null;
  try {
    await open(adapter ? "webgpu" : "wasm");
  } catch (error) {
    if (!adapter) throw error;
    console.warn("WebGPU failed, WebAssembly takes over:", error); // a browser may offer it and fail at it
    await open("wasm");
  }
  element("area-row").hidden = !about.inputs.includes("area");
  status("Ready.");
  document.documentElement.dataset.ready = backend;
}

// -- one photograph -------------------------------------------------------------------------------------------------

/** The photograph at the classifier's size, over white; the whole picture, distorted as in training. */
async function pixels(file) {
  const [height, width] = about.input_size;
  const whole = await createImageBitmap(file);
  if (Math.max(whole.width, whole.height) > MOST_PIXELS) throw new Error("larger than a browser can draw");
  const same = whole.width === width && whole.height === height;
  const options = { resizeWidth: width, resizeHeight: height, resizeQuality: "high" };
  const bitmap = same ? whole : await createImageBitmap(whole, options);
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  whole.close();
  return context.getImageData(0, 0, width, height);
}

/** A browser may also fail at WebGPU while the graph runs. */
async function run(target) {
  try {
    return await answered(target);
  } catch (error) {
    if (backend === "wasm") throw error;
    console.warn("WebGPU failed, WebAssembly takes over:", error);
    await open("wasm");
    document.documentElement.dataset.ready = backend;
    return answered(target);
  }
}

async function answered(target) {
  const [height, width] = about.input_size;
  const plane = height * width;
  const bytes = about.pixels === "uint8";
  const values = bytes ? new Uint8Array(3 * plane) : new Float32Array(3 * plane);
  for (let place = 0; place < plane; place += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      const value = photograph.data[4 * place + channel];
      values[channel * plane + place] = bytes ? value : value / 255;
    }
  }
  const inputs = {
    image: new ort.Tensor(bytes ? "uint8" : "float32", values, [1, 3, height, width]),
    target: new ort.Tensor("int64", BigInt64Array.of(BigInt(target)), [1]),
  };
  if (about.inputs.includes("area")) {
    inputs.area = new ort.Tensor("float32", Float32Array.of(element("area").value / 100), [1, 1]);
  }
  const begun = performance.now();
  const outputs = await session.run(inputs);
  const logits = await outputs.logits.getData();
  const mask = await outputs.mask.getData();
  const seconds = (performance.now() - begun) / 1000;
  const chosen = target >= 0 ? target : logits.reduce((best, value, index) => (value > logits[best] ? index : best), 0);
  return { logits, mask, target: chosen, seconds };
}

/** One after the other: a session answers one question at a time. */
function explain(target) {
  const asked = photograph;
  working = working.then(async () => {
    if (asked !== photograph) return; // another photograph has come meanwhile
    status("Explaining …");
    answer = await run(target);
    show();
    const threads = ort.env.wasm.numThreads;
    const how = backend === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
    status(`${answer.seconds.toFixed(2)} s with ${how}`);
    document.documentElement.dataset.answered = String(Number(document.documentElement.dataset.answered ?? 0) + 1);
  }).catch((error) => status(`This cannot be explained: ${error.message}`));
  return working;
}

async function take(file) {
  if (!session) { status("Still loading; try again in a moment."); return; }
  try {
    status("Reading …");
    photograph = await pixels(file);
  } catch (error) {
    status(`This is not a photograph that the browser can read${error.message ? `: ${error.message}` : ""}`);
    return;
  }
  element("search").value = "";
  await explain(-1);
}

// -- showing --------------------------------------------------------------------------------------------------------

function probabilities(logits) {
  if (about.head !== "softmax") return Array.from(logits, (value) => 1 / (1 + Math.exp(-value)));
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(logits, (value) => Math.exp(value - highest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / total);
}

function show() {
  const chances = probabilities(answer.logits);
  const likeliest = chances.map((_, index) => index).sort((a, b) => chances[b] - chances[a]).slice(0, LIKELIEST);
  if (!likeliest.includes(answer.target)) likeliest.push(answer.target);
  element("classes").replaceChildren(...likeliest.map((index) => {
    const button = document.createElement("button");
    const [part, name, chance] = ["part", "name", "chance"].map((kind) => {
      const made = document.createElement("span");
      made.className = kind;
      button.append(made);
      return made;
    });
    button.type = "button";
    button.setAttribute("aria-pressed", String(index === answer.target));
    part.style.width = `${(100 * chances[index]).toFixed(1)}%`;
    name.textContent = about.class_names[index];
    chance.textContent = chances[index].toFixed(3);
    button.addEventListener("click", () => explain(index));
    return button;
  }));
  element("caption").textContent = `Evidence for ${about.class_names[answer.target]}`;
  element("area-name").textContent = `Area kept: ${element("area").value} %`;
  element("answer").hidden = false;
  draw();
}

/** Kept pixels as they are, removed ones dark and grey. */
function draw() {
  const [height, width] = about.input_size;
  const strength = element("blend").value / 100;
  const [image, overlay, map] = ["image", "overlay", "map"].map((id) => {
    Object.assign(element(id), { width, height });
    return element(id).getContext("2d");
  });
  image.putImageData(photograph, 0, 0);
  const [dark, grey] = [new ImageData(width, height), new ImageData(width, height)];
  for (let place = 0; place < width * height; place += 1) {
    const [red, green, blue] = photograph.data.subarray(4 * place, 4 * place + 3);
    const removed = 0.25 * (0.299 * red + 0.587 * green + 0.114 * blue);
    const mask = answer.mask[place];
    [red, green, blue].forEach((value, channel) => {
      const covered = mask * value + (1 - mask) * removed;
      dark.data[4 * place + channel] = strength * covered + (1 - strength) * value;
      grey.data[4 * place + channel] = 255 * mask;
    });
    dark.data[4 * place + 3] = grey.data[4 * place + 3] = 255;
  }
  overlay.putImageData(dark, 0, 0);
  map.putImageData(grey, 0, 0);
}

// -- input ----------------------------------------------------------------------------------------------------------

const drop = element("drop");
element("file").addEventListener("change", (event) => {
  if (event.target.files[0]) take(event.target.files[0]);
  event.target.value = "";
});
drop.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") element("file").click(); });
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((item) => item.type.startsWith("image/"));
  if (file) { event.preventDefault(); take(file); }
});
element("example").addEventListener("click", async () => take(new Blob([await fetched("example.jpg")])));
element("search").addEventListener("change", () => {
  const index = about.class_names.indexOf(element("search").value);
  if (index >= 0 && photograph) explain(index);
});
element("blend").addEventListener("input", () => { if (answer) draw(); });
element("area").addEventListener("change", () => { if (answer) explain(answer.target); });
element("area").addEventListener("input", () => {
  element("area-name").textContent = `Area kept: ${element("area").value} %`;
});
element("save").addEventListener("click", () => {
  element("overlay").toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "overlay.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
});

start().catch((error) => status(
  location.protocol === "file:" ? "Open this page through a web server: python -m http.server" : `Loading failed: ${error.message}`));
