// Shared by the pages of agent and proxy: polling once a second, and drawing the responses. Text is set
// as text, never as HTML.

const POLL_MS = 1000;
const GIVE_UP_MS = 5000;
/** Time span of a sparkline. */
const WINDOW_MS = 60_000;
const SVG = "http://www.w3.org/2000/svg";

export const find = (selector) => document.querySelector(selector);

export function element(tag, className = "", text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

/** Writes only changed text, so that selections stay and screen readers do not repeat it. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Three digits and an SI prefix, as in `headgate top`. */
export function short(number) {
  let rest = number;
  for (const unit of ["", "k", "M", "G", "T"]) {
    if (rest < 999.5) {
      if (unit === "" && Number.isInteger(rest)) return String(rest);
      return (rest < 99.95 ? rest.toFixed(1) : rest.toFixed(0)) + unit;
    }
    rest /= 1000;
  }
  return `${rest.toFixed(0)}P`;
}

// Sparklines

/** Values of the last minute by key. */
const histories = new Map();

export function forgetAll() {
  histories.clear();
}

export function remember(key, time, value) {
  const history = (histories.get(key) ?? []).filter((point) => point.time > time - WINDOW_MS);
  history.push({ time, value });
  histories.set(key, history);
}

export function forget(time) {
  for (const [key, history] of histories) {
    if (history.at(-1).time < time - WINDOW_MS) histories.delete(key);
  }
}

export class Spark {
  constructor() {
    this.node = document.createElementNS(SVG, "svg");
    this.node.setAttribute("viewBox", "0 0 100 20");
    this.node.setAttribute("preserveAspectRatio", "none");
    this.node.setAttribute("aria-hidden", "true");
    this.area = this.path("area");
    this.line = this.path("line");
  }

  path(className) {
    const path = document.createElementNS(SVG, "polyline");
    path.setAttribute("class", className);
    this.node.append(path);
    return path;
  }

  draw(key, time) {
    const history = histories.get(key) ?? [];
    const most = Math.max(1, ...history.map((point) => point.value));
    const at = ({ time: when, value }) =>
      [100 - ((time - when) * 100) / WINDOW_MS, 19 - (value * 17) / most];
    const points = history.map(at);
    this.line.setAttribute("points", points.join(" "));
    const [first, last] = [points.at(0), points.at(-1)];
    const floor = points.length > 1 ? [[last[0], 20], [first[0], 20]] : [];
    this.area.setAttribute("points", [...points, ...floor].join(" "));
  }
}

/** A number with a sparkline of its last minute. */
export class Rate {
  constructor() {
    this.node = element("div", "rate");
    this.number = element("span", "value");
    this.spark = new Spark();
    this.node.append(this.spark.node, this.number);
  }

  draw(key, now, value) {
    write(this.number, now.interval_s > 0 ? short(value) : "–");
    this.spark.draw(key, Date.parse(now.time));
  }
}

/** A part of a whole. */
export class Bar {
  constructor() {
    this.node = element("div", "bar");
    this.full = element("b");
    const track = element("i");
    track.append(this.full);
    this.number = element("span", "value");
    this.node.append(track, this.number);
  }

  draw(percent) {
    this.full.style.width = `${percent ?? 0}%`;
    const shown = percent > 0 && percent < 1 ? "< 1" : percent?.toFixed(0);
    write(this.number, shown ? `${shown} %` : "–");
  }
}

// Rows

const drawn = new WeakMap();

/** Makes the rows of `parent` those of `items`; rows that stay are only updated. */
export function drawRows(parent, items, keyOf, make, draw) {
  const before = drawn.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const row = before.get(key) ?? make(item);
    draw(row, item);
    after.set(key, row);
  }
  for (const [key, row] of before) if (!after.has(key)) row.node.remove();
  const fixed = parent.querySelectorAll(":scope > thead, :scope > .group").length;
  [...after.values()].forEach(({ node }, index) => {
    const there = parent.children[index + fixed];
    if (there !== node) parent.insertBefore(node, there ?? null);
  });
  drawn.set(parent, after);
}

export function row(cells) {
  const node = element("tr");
  node.append(...cells);
  return node;
}

export function cell(className, content) {
  const node = element("td", className);
  if (content) node.append(content);
  return node;
}

export function heading(scope = "row") {
  const node = element("th");
  node.scope = scope;
  return node;
}

/** Rows below a heading that shows and hides them. */
export class Group {
  constructor(columns, name, what) {
    this.node = element("tbody");
    const title = heading("rowgroup");
    title.colSpan = columns;
    this.toggle = element("button");
    this.toggle.type = "button";
    this.count = element("span", "soft");
    this.toggle.append(element("span", "name", name), element("span", "soft", what), this.count);
    title.append(this.toggle);
    const line = row([title]);
    line.className = "group";
    this.node.append(line);
    this.isChosen = false;
    this.toggle.addEventListener("click", () => {
      this.isChosen = true;
      this.set(this.node.className === "closed");
    });
  }

  set(isOpen) {
    this.node.className = isOpen ? "" : "closed";
    this.toggle.setAttribute("aria-expanded", isOpen);
  }

  /** Opens or closes the group, unless the user did it before. */
  suggest(isOpen) {
    if (!this.isChosen) this.set(isOpen);
  }
}

export function drawEmpty(table, isEmpty, text) {
  table.hidden = isEmpty;
  write(table.parentElement.querySelector(".empty"), text);
}

// Totals

/** Numbers in a row: name, title, class, and how a value is written. */
export function drawTotals(totals, now, values) {
  const make = ([name, title, className]) => {
    const node = element("div");
    const number = element("span");
    const value = element("dd", className);
    const spark = new Spark();
    value.append(number, spark.node);
    node.append(element("dt", "", title), value);
    return { node, value, number, spark };
  };
  const draw = ({ value, number, spark }, [name, , , text = short]) => {
    const rate = values[name];
    write(number, now.interval_s > 0 && rate !== null ? text(rate) : "–");
    value.classList.toggle("busy", rate > 0);
    spark.draw(`total ${name}`, Date.parse(now.time));
  };
  drawRows(find("#totals"), totals, ([name]) => name, make, draw);
}

// State

export function say(level, text) {
  const state = find("#state");
  state.dataset.level = level;
  write(state, text);
}

/** Lists failures and refusals. */
export function drawUndone(complaints, more) {
  const rows = complaints.map(({ object, reason }) => `${object}: ${reason}`);
  if (more > 0) rows.push(`and ${more} more`);
  const make = (text) => ({ node: element("li", "", text) });
  drawRows(find("#undone ul"), [...new Set(rows)], (text) => text, make, () => {});
  find("#undone").hidden = rows.length === 0;
}

// Requests

export async function ask(path, parameters) {
  const url = `${path}?${new URLSearchParams(parameters)}`;
  const answer = await fetch(url, { signal: AbortSignal.timeout(GIVE_UP_MS) }).catch(() => {
    throw new Error(`${document.body.dataset.who} unreachable`);
  });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

/** Polls while the page is visible, and passes on each response. Returns a function that polls at once. */
export function follow(question, take) {
  let timer;
  let request = 0;
  let seen;
  async function poll() {
    clearTimeout(timer);
    const mine = ++request;
    try {
      const now = await question();
      if (mine !== request) return;
      seen = now.time;
      find("main").classList.remove("stale");
      take(now);
    } catch (error) {
      if (mine !== request) return;
      find("main").classList.add("stale");
      const since = seen ? `; shown is the state at ${new Date(seen).toLocaleTimeString()}` : "";
      say("bad", error.message + since);
    }
    if (!document.hidden) timer = setTimeout(poll, POLL_MS);
  }
  document.addEventListener("visibilitychange", () => document.hidden || poll());
  poll();
  return poll;
}

/** Shows the response to the form in `#explanation`. */
export function answerForm(draw) {
  find("#explain").addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.target.querySelector("button");
    button.disabled = true;
    try {
      const result = await ask("api/explain", new FormData(event.target));
      find("#explanation").replaceChildren(...draw(result));
    } catch (error) {
      find("#explanation").replaceChildren(element("p", "verdict error", error.message));
    }
    button.disabled = false;
  });
}

/** Steps of an explanation. */
export function steps(texts) {
  const list = element("ol");
  list.append(...texts.map((text) => element("li", "", text)));
  return list;
}
