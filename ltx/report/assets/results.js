const { runs } = data;
const rows = data.rows ?? runs[0].image.map((_, index) => [index]);
const compared = runs.length > 1;

// -- values of a row ----------------------------------------------------------------------------------------------

/** The first run that has a result of the row's image, and the place of the result. */
const leading = (row) => (rows[row][0] >= 0 ? [runs[0], rows[row][0]] : [runs[1], rows[row][1]]);
const imageName = (row) => { const [run, index] = leading(row); return run.image[index]; };
const labelOf = (run, index) => run.label.values[run.label.index[index]];
const names = rows.map((_, row) => imageName(row).toLowerCase());

function number(row, run, key) {
  const index = rows[row][run];
  return index < 0 ? null : runs[run].numbers[key]?.[index] ?? null;
}

function difference(row, key) {
  const [a, b] = [number(row, 0, key), number(row, 1, key)];
  return a === null || b === null ? null : b - a;
}

/** What the grid can be sorted by: [title, value of a row or null for the order of the record]. */
const orders = [["order of the results", null]];
for (const [place, run] of runs.entries()) {
  for (const key of Object.keys(run.numbers)) {
    orders.push([compared ? `${readable(key)}, ${run.name}` : readable(key), (row) => number(row, place, key)]);
  }
}
if (compared) {
  for (const key of Object.keys(runs[0].numbers).filter((name) => name in runs[1].numbers)) {
    orders.push([`change in ${readable(key)}`, (row) => difference(row, key)]);
  }
}
orders.push(["file name", (row) => names[row]]);

// -- the grid: only the cards near the window exist -----------------------------------------------------------------

const grid = element("grid");
const cards = new Map();
let visible = rows.map((_, row) => row);
let layout = { columns: 1, width: 1, height: 1 };
let focused = 0;
let ascending = false;

function place() {
  const gap = 10;
  const room = grid.clientWidth;
  const least = (compared ? 300 : 165) + gap;
  const columns = Math.max(compared || room < 330 ? 1 : 2, Math.floor((room + gap) / least));
  const width = (room + gap) / columns - gap;
  layout = { columns, width, height: (compared ? width / 2 : width) + 66, gap };
  const lines = Math.ceil(visible.length / columns);
  grid.style.height = `${Math.max(0, lines * (layout.height + gap) - gap)}px`;
  clearCards();
  draw();
}

function clearCards() {
  for (const card of cards.values()) card.remove();
  cards.clear();
}

function draw() {
  const step = layout.height + layout.gap;
  const above = window.scrollY - grid.offsetTop;
  const first = Math.max(0, Math.floor((above - window.innerHeight / 2) / step)) * layout.columns;
  const last = Math.min(visible.length, Math.ceil((above + 1.5 * window.innerHeight) / step) * layout.columns);
  for (const [position, card] of cards) {
    if ((position < first || position >= last) && card !== document.activeElement) {
      card.remove();
      cards.delete(position);
    }
  }
  const added = document.createDocumentFragment();
  for (let position = first; position < last; position += 1) {
    if (!cards.has(position)) {
      const card = makeCard(position);
      cards.set(position, card);
      added.append(card);
    }
  }
  grid.append(added);
}

function makeCard(position) {
  const row = visible[position];
  const card = make("button", "card");
  card.type = "button";
  card.dataset.position = position;
  card.tabIndex = position === focused ? 0 : -1;
  const [column, line] = [position % layout.columns, Math.floor(position / layout.columns)];
  card.style.left = `${column * (layout.width + layout.gap)}px`;
  card.style.top = `${line * (layout.height + layout.gap)}px`;
  card.style.width = `${layout.width}px`;
  card.style.height = `${layout.height}px`;
  const pictures = make("span", "pictures");
  rows[row].forEach((index, run) => pictures.append(thumbnail(runs[run], index)));
  const text = make("span", "text");
  const [run, index] = leading(row);
  text.append(words("span", "label", labelOf(run, index)), make("span", "", chances(row)));
  const name = words("span", "quiet", imageName(row).split("/").at(-1));
  name.title = imageName(row);
  text.append(name);
  card.append(pictures, text);
  return card;
}

function thumbnail(run, index) {
  const frame = make("span", "picture");
  if (index < 0 || !run.key[index]) {
    frame.textContent = index < 0 ? "no result" : "files missing";
    return frame;
  }
  const picture = make("img");
  picture.alt = "";
  picture.decoding = "async";
  picture.addEventListener("error", () => { frame.textContent = "no picture"; });
  picture.src = `${run.pictures}/thumbs/${run.key[index]}.jpg`;
  frame.append(picture);
  return frame;
}

function chances(row) {
  const parts = rows[row].map((_, run) => {
    const [whole, kept] = ["probability", "probability_kept"].map((key) => number(row, run, key));
    return kept === null ? `p ${shown(whole)}` : `p ${shown(whole)} · kept ${shown(kept)}`;
  });
  return parts.join("  |  ");
}

// -- sort and filter ------------------------------------------------------------------------------------------------

function update() {
  const part = element("name").value.trim().toLowerCase();
  const label = element("class").value;
  let places = rows.map((_, row) => row);
  if (part) places = places.filter((row) => names[row].includes(part));
  if (label) places = places.filter((row) => rows[row].some((i, run) => i >= 0 && labelOf(runs[run], i) === label));
  const value = orders[element("sort").value][1];
  visible = value ? ordered(places, value, ascending) : ascending ? places : places.reverse();
  focused = 0;
  element("empty").hidden = visible.length > 0;
  const all = rows.length.toLocaleString("en");
  element("count").textContent =
    visible.length === rows.length ? `${all} results` : `${visible.length.toLocaleString("en")} of ${all}`;
  element("direction").textContent = ascending ? "↑ ascending" : "↓ descending";
  window.scrollTo(0, Math.min(window.scrollY, grid.offsetTop));
  place();
}

function fillTools() {
  const counts = new Map();
  rows.forEach((row) => {
    const labels = new Set(row.map((i, run) => (i < 0 ? null : labelOf(runs[run], i))));
    for (const label of labels) if (label !== null) counts.set(label, (counts.get(label) ?? 0) + 1);
  });
  const option = (text, value) => { const made = make("option", "", text); made.value = value; return made; };
  element("class").append(option("all classes", ""));
  for (const label of [...counts.keys()].sort((a, b) => a.localeCompare(b))) {
    element("class").append(option(`${label} (${counts.get(label)})`, label));
  }
  orders.forEach(([title], index) => element("sort").append(option(title, index)));
  ascending = true;
  for (const [id, event] of [["name", "input"], ["class", "change"]]) element(id).addEventListener(event, update);
  element("sort").addEventListener("change", () => {
    const chosen = orders[element("sort").value];
    ascending = chosen[1] === null || chosen[0] === "file name";
    update();
  });
  element("direction").addEventListener("click", () => { ascending = !ascending; update(); });
  element("tools").addEventListener("submit", (event) => event.preventDefault());
}

// -- keyboard -------------------------------------------------------------------------------------------------------

function focusCard(position) {
  focused = Math.max(0, Math.min(visible.length - 1, position));
  const step = layout.height + layout.gap;
  const top = grid.offsetTop + Math.floor(focused / layout.columns) * step;
  const bar = getComputedStyle(element("tools")).position === "sticky" ? element("tools").offsetHeight : 0;
  if (top < window.scrollY + bar) window.scrollTo(0, top - bar - layout.gap);
  else if (top + step > window.scrollY + window.innerHeight) window.scrollTo(0, top + step - window.innerHeight);
  draw();
  for (const [index, card] of cards) card.tabIndex = index === focused ? 0 : -1;
  cards.get(focused)?.focus({ preventScroll: true });
}

grid.addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.floor(window.innerHeight / (layout.height + layout.gap))) * layout.columns;
  const moves = {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: layout.columns, ArrowUp: -layout.columns, PageDown: page, PageUp: -page,
    Home: -visible.length, End: visible.length,
  };
  if (event.key in moves) {
    event.preventDefault();
    focusCard(focused + moves[event.key]);
  }
});
grid.addEventListener("focusin", (event) => {
  const card = event.target.closest(".card");
  if (card) focused = Number(card.dataset.position);
});
grid.addEventListener("click", (event) => {
  const card = event.target.closest(".card");
  if (card) openViewer(Number(card.dataset.position));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !element("viewer").open && event.target.tagName !== "INPUT") {
    event.preventDefault();
    element("name").focus();
  }
});
window.addEventListener("scroll", throttled(draw), { passive: true });
new ResizeObserver(throttled(() => { if (grid.clientWidth) place(); })).observe(grid);

function start() {
  themeButton(element("theme"));
  element("title").textContent = runs.map((run) => run.name).join("  |  ");
  const methods = runs.map((run) => run.method.values.join(", "));
  const both = rows.filter((row) => row.every((index) => index >= 0)).length;
  element("summary").textContent = compared
    ? `${methods.join("  |  ")} · ${both.toLocaleString("en")} of ${rows.length.toLocaleString("en")} images in both`
    : methods[0];
  fillTools();
  update();
  document.documentElement.dataset.ready = "yes";
}
