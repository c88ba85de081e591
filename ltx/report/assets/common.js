"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);

/** A new element with a class and text; text from users is only ever set here and through `title`. */
function make(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== "") made.textContent = text;
  return made;
}

/** Text from users: its own direction, whole in the tooltip. */
function words(tag, className, text) {
  const made = make(tag, className, text);
  made.dir = "auto";
  made.title = text;
  return made;
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 10 ? value.toFixed(1) : size >= 0.001 || size === 0 ? value.toFixed(3) : value.toExponential(1);
}

const readable = (key) => key.replaceAll("_", " ");

/** Places in ascending or descending order of their values; places without a value come last. Stable. */
function ordered(places, value, ascending) {
  const known = places.filter((place) => value(place) !== null && value(place) !== undefined);
  const others = places.filter((place) => value(place) === null || value(place) === undefined);
  const sign = ascending ? 1 : -1;
  known.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x < y ? -sign : x > y ? sign : 0;
  });
  return known.concat(others);
}

function remembered(key, value) {
  try {
    if (value === undefined) return localStorage.getItem(key);
    localStorage.setItem(key, value);
  } catch { /* some browsers store nothing for pages from disk */ }
  return null;
}

/** The button that switches between the themes of the system, light and dark. */
function themeButton(button) {
  const themes = ["system", "light", "dark"];
  let theme = themes.includes(remembered("ltx-theme")) ? remembered("ltx-theme") : "system";
  const apply = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = { system: "◐ System", light: "☀ Light", dark: "☾ Dark" }[theme];
    button.setAttribute("aria-label", `Theme: ${theme}. Switch`);
  };
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    remembered("ltx-theme", theme);
    apply();
  });
  apply();
}

/** At most one call for each frame. */
function throttled(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; work(); });
  };
}
