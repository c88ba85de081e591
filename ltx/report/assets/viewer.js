// -- one result: image, map and overlay -----------------------------------------------------------------------------

let opened = 0;
let blend = 100;

function openViewer(position) {
  opened = position;
  const row = visible[position];
  const [run, index] = leading(row);
  element("viewer-label").textContent = labelOf(run, index);
  element("viewer-name").textContent = imageName(row);
  element("viewer-name").title = imageName(row);
  element("previous").disabled = position === 0;
  element("next").disabled = position === visible.length - 1;
  element("viewer-runs").replaceChildren(...rows[row].map((place, number) => makeRun(runs[number], place)));
  if (!element("viewer").open) element("viewer").showModal();
  element("viewer").scrollTop = 0;
}

function makeRun(run, index) {
  const section = make("section", "run");
  if (compared) {
    const label = index < 0 ? "no result" : labelOf(run, index);
    section.append(words("h3", "", `${run.name}: ${label}`));
  }
  if (index < 0) return section;
  if (run.key[index]) section.append(...makePanels(run, index));
  else section.append(make("p", "quiet", "The files of this result are missing."));
  section.append(facts(run, index));
  const files = make("p", "files");
  for (const [end, title] of [[".png", "picture"], [".npz", "arrays"]]) {
    const link = make("a", "", title);
    link.href = `${run.url}/${run.file[index]}${end}`;
    link.target = "_blank";
    link.rel = "noopener";
    files.append(link, " ");
  }
  section.append(files);
  return section;
}

function facts(run, index) {
  const list = make("dl", "facts");
  const pairs = Object.entries(run.numbers).map(([key, values]) => [readable(key), shown(values[index])]);
  pairs.unshift(["class index", String(run.target[index] ?? "–")], ["method", run.method.values[run.method.index[index]]]);
  for (const [name, value] of pairs) {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", "", value));
    list.append(pair);
  }
  return list;
}

function makePanels(run, index) {
  const [width, height] = run.size[index];
  const areas = run.areas?.[index] ?? [];
  const panels = make("div", "panels");
  const [image, map, overlay] = ["Image", "Map", "Overlay"].map((title) => {
    const figure = make("figure");
    const canvas = make("canvas");
    [canvas.width, canvas.height] = [width, height];
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${title} of ${run.image[index]}`);
    figure.append(canvas, make("figcaption", "", title));
    panels.append(figure);
    return canvas;
  });
  const [view, masks] = [".jpg", ".png"].map((end) => {
    const picture = new Image();
    picture.src = `${run.pictures}/views/${run.key[index]}${end}`;
    return picture;
  });
  let layer = 0;
  const paint = () => paintOverlay(overlay, view, masks, layer, blend / 100);
  Promise.all([view.decode(), masks.decode()]).then(() => {
    image.getContext("2d").drawImage(view, 0, 0, width, height, 0, 0, width, height);
    map.getContext("2d").drawImage(view, width, 0, width, height, 0, 0, width, height);
    paint();
    overlay.dataset.painted = "yes";
  }).catch(() => { overlay.nextSibling.textContent = "The pictures cannot be read; run ltx report again."; });
  const sliders = make("div", "sliders");
  sliders.append(slider("Image to overlay", 0, 100, blend, (value) => `${value} %`, (value) => {
    blend = value;
    paint();
  }));
  if (areas.length) {
    const text = (value) => (value === 0 ? "as in the result" : `${areas[value - 1]}: kept ${shown(run.kept[index][value - 1])}`);
    sliders.append(slider("Area", 0, areas.length, 0, text, (value) => { layer = value; paint(); }));
  }
  return [panels, sliders];
}

function slider(name, low, high, start, text, changed) {
  const label = make("label");
  const caption = make("span", "", `${name}: ${text(start)}`);
  const input = make("input");
  Object.assign(input, { type: "range", min: low, max: high, step: 1, value: start });
  input.setAttribute("aria-label", name);
  input.addEventListener("input", () => {
    const value = Number(input.value);
    caption.textContent = `${name}: ${text(value)}`;
    input.setAttribute("aria-valuetext", text(value));
    changed(value);
  });
  label.append(caption, input);
  return label;
}

/** Kept pixels as they are, removed ones dark and grey; drawn over the image with opacity `strength`. */
function paintOverlay(canvas, view, masks, layer, strength) {
  const { width, height } = canvas;
  const draw = canvas.getContext("2d");
  const image = (context) => context.drawImage(view, 0, 0, width, height, 0, 0, width, height);
  const part = () => Object.assign(document.createElement("canvas"), { width, height });
  const dark = part();
  const darkDraw = dark.getContext("2d");
  image(darkDraw);
  darkDraw.globalCompositeOperation = "saturation";
  darkDraw.fillStyle = "#000";
  darkDraw.fillRect(0, 0, width, height);
  darkDraw.globalCompositeOperation = "source-over";
  darkDraw.fillStyle = "rgb(0 0 0 / 75%)";
  darkDraw.fillRect(0, 0, width, height);
  const kept = part();
  const keptDraw = kept.getContext("2d");
  image(keptDraw);
  keptDraw.globalCompositeOperation = "destination-in";
  keptDraw.drawImage(masks, 0, layer * height, width, height, 0, 0, width, height);
  darkDraw.drawImage(kept, 0, 0);
  image(draw);
  draw.globalAlpha = strength;
  draw.drawImage(dark, 0, 0);
  draw.globalAlpha = 1;
}

const viewer = element("viewer");
element("close").addEventListener("click", () => viewer.close());
element("previous").addEventListener("click", () => { if (opened > 0) openViewer(opened - 1); });
element("next").addEventListener("click", () => { if (opened < visible.length - 1) openViewer(opened + 1); });
viewer.addEventListener("close", () => focusCard(opened));
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("keydown", (event) => {
  if (event.target.type === "range") return;
  if (event.key === "ArrowLeft" && opened > 0) openViewer(opened - 1);
  if (event.key === "ArrowRight" && opened < visible.length - 1) openViewer(opened + 1);
});

start();
