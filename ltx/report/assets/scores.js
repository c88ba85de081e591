const { metrics, methods, columns, lines } = data;
const arrow = (key) => (metrics[key]?.direction === "higher" ? " ↑" : metrics[key]?.direction === "lower" ? " ↓" : "");

/** A heading that sorts; `sort` is called with whether the order is ascending. */
function heading(title, left, state, key, sort) {
  const cell = make("th", left ? "words" : "");
  const button = make("button", "", title);
  button.type = "button";
  cell.scope = "col";
  if (state.key === key) {
    cell.setAttribute("aria-sort", state.ascending ? "ascending" : "descending");
    button.textContent += state.ascending ? " ▲" : " ▼";
  }
  button.addEventListener("click", () => {
    state.ascending = state.key === key ? !state.ascending : left || metrics[key]?.direction === "lower";
    state.key = key;
    sort();
  });
  cell.append(button);
  return cell;
}

// -- the table of methods -------------------------------------------------------------------------------------------

const scoreState = { key: null, ascending: true };

function drawScores() {
  const keys = Object.keys(metrics);
  const head = make("tr");
  head.append(heading("method", true, scoreState, "", drawScores));
  keys.forEach((key) => head.append(heading(key + arrow(key), false, scoreState, key, drawScores)));
  element("scores").tHead.replaceChildren(head);
  let order = Object.keys(methods);
  if (scoreState.key !== null) {
    const value = (name) => (scoreState.key === "" ? name.toLowerCase() : methods[name][scoreState.key]?.mean ?? null);
    order = ordered(order, value, scoreState.ascending);
  }
  element("scores").tBodies[0].replaceChildren(...order.map((name) => {
    const line = make("tr");
    line.append(words("td", "words", name));
    for (const key of keys) {
      const score = methods[name][key];
      const known = score && score.mean !== null;
      const text = known ? `${shown(score.mean)} [${shown(score.low)}, ${shown(score.high)}]` : "–";
      line.append(make("td", known && data.rivals.includes(name) && score.mean === best(key) ? "best" : "", text));
    }
    return line;
  }));
}

function best(key) {
  const means = data.rivals.map((name) => methods[name][key]?.mean ?? null).filter((mean) => mean !== null);
  return metrics[key].direction === "higher" ? Math.max(...means) : Math.min(...means);
}

// -- the lines of each image: only those near the window exist --------------------------------------------------------

const HEIGHT = 32;
const lineState = { key: null, ascending: true };
const place = (name) => columns.indexOf(name);
const [image, method, label] = ["image", "method", "label"].map(place);
let visible = lines;

function updateLines() {
  const part = element("name").value.trim().toLowerCase();
  const [aClass, aMethod] = [element("class").value, element("method").value];
  visible = lines.filter((line) => (!part || line[image].toLowerCase().includes(part))
    && (!aClass || line[label] === aClass) && (!aMethod || line[method] === aMethod));
  if (lineState.key !== null) visible = ordered(visible, (line) => line[place(lineState.key)], lineState.ascending);
  const head = make("tr");
  columns.forEach((name) => head.append(
    heading(name + arrow(name), typeof lines[0]?.[place(name)] === "string", lineState, name, updateLines)));
  element("lines").querySelector("thead").replaceChildren(head);
  element("count").textContent = `${visible.length.toLocaleString("en")} of ${lines.length.toLocaleString("en")} lines`;
  element("lines").scrollTop = 0;
  drawLines();
}

function drawLines() {
  const view = element("lines");
  const first = Math.max(0, Math.floor(view.scrollTop / HEIGHT) - 20);
  const last = Math.min(visible.length, first + Math.ceil(view.clientHeight / HEIGHT) + 40);
  const gap = (count) => {
    const line = make("tr", "gap");
    const cell = make("td");
    cell.colSpan = columns.length;
    cell.style.height = `${count * HEIGHT}px`;
    line.append(cell);
    line.style.height = `${count * HEIGHT}px`;
    return line;
  };
  const drawn = visible.slice(first, last).map((line) => {
    const made = make("tr");
    line.forEach((value) => made.append(
      typeof value === "string" ? words("td", "words", value) : make("td", "", shown(value))));
    return made;
  });
  view.querySelector("tbody").replaceChildren(
    ...(first ? [gap(first)] : []), ...drawn, ...(last < visible.length ? [gap(visible.length - last)] : []));
}

// -- the page -------------------------------------------------------------------------------------------------------

themeButton(element("theme"));
element("title").textContent = data.title;
element("summary").textContent = data.summary;
for (const [key, metric] of Object.entries(metrics)) {
  const pair = make("div");
  pair.append(make("dt", "", `${key}${arrow(key)}`), make("dd", "", `${metric.meaning} (${metric.citation})`));
  element("metrics").append(pair);
}
for (const [file, title] of data.figures) {
  const picture = make("img");
  [picture.src, picture.alt, picture.loading] = [file, title, "lazy"];
  element("figures").append(make("h2", "", title), picture);
}
for (const [id, index] of [["class", label], ["method", method]]) {
  const option = (text, value) => { const made = make("option", "", text); made.value = value; return made; };
  const values = [...new Set(lines.map((line) => line[index]))].sort((a, b) => a.localeCompare(b));
  element(id).append(option("all", ""), ...values.map((value) => option(value, value)));
  element(id).addEventListener("change", updateLines);
}
element("name").addEventListener("input", updateLines);
element("tools").addEventListener("submit", (event) => event.preventDefault());
element("lines").addEventListener("scroll", throttled(drawLines), { passive: true });
drawScores();
updateLines();
document.documentElement.dataset.ready = "yes";
