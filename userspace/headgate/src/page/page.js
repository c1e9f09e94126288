// Asks the agent once a second and draws what it says. Text goes in as text alone.

const POLL_MS = 1000;
const GIVE_UP_MS = 5000;
/** What a sparkline shows. */
const WINDOW_MS = 60_000;
/** Addresses of a service that are shown before somebody asks for the others. */
const FEW = 2;
const SVG = "http://www.w3.org/2000/svg";

const find = (selector) => document.querySelector(selector);

function element(tag, className = "", text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

/** Changes nothing if nothing changed, so that selections stay and readers are not told again. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** With three digits and a prefix of SI, as `headgate top` has it. */
function short(number) {
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

/** Values of the last minute, by what they are of. */
const histories = new Map();

function remember(key, time, value) {
  const history = (histories.get(key) ?? []).filter((point) => point.time > time - WINDOW_MS);
  history.push({ time, value });
  histories.set(key, history);
}

function forget(time) {
  for (const [key, history] of histories) {
    if (history.at(-1).time < time - WINDOW_MS) histories.delete(key);
  }
}

class Spark {
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

/** A number with its last minute. */
class Rate {
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
class Bar {
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

/** Makes the rows in `parent` those of `items`, and leaves alone what stays. */
function drawRows(parent, items, keyOf, make, draw) {
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

function row(cells) {
  const node = element("tr");
  node.append(...cells);
  return node;
}

function cell(className, content) {
  const node = element("td", className);
  if (content) node.append(content);
  return node;
}

function heading(scope = "row") {
  const node = element("th");
  node.scope = scope;
  return node;
}

function drawEmptiness(table, { rows, more }, kind, nothing) {
  const text = rows.length > 0 ? "" : filter.value ? `No ${kind} contains “${filter.value}”.` : nothing;
  const left = more > 0 ? `${more} more: these are the busiest. Filter to see others.` : "";
  table.hidden = rows.length === 0;
  write(table.parentElement.querySelector(".empty"), text || left);
}

// Totals

const TOTALS = [
  ["connections", "New connections/s"],
  ["packets", "Packets/s"],
  ["bytes", "Bytes/s"],
  ["drops", "Drops/s"],
];

function drawTotals(now) {
  const make = ([name, title]) => {
    const node = element("div");
    const number = element("span");
    const value = element("dd", name === "drops" ? "drop" : "");
    const spark = new Spark();
    value.append(number, spark.node);
    node.append(element("dt", "", title), value);
    return { node, value, number, spark };
  };
  const draw = ({ value, number, spark }, [name]) => {
    const rate = now.totals[name];
    write(number, now.interval_s > 0 ? short(rate) : "–");
    value.classList.toggle("busy", rate > 0);
    spark.draw(`total ${name}`, Date.parse(now.time));
  };
  drawRows(find("#totals"), TOTALS, ([name]) => name, make, draw);
}

// Services

const sorting = { column: "name", isDescending: false };

const COLUMNS = {
  name: (item) => item.service,
  backends: (item) => item.backends.length,
  connections: (item) => item.per_second.connections,
  packets: (item) => item.per_second.packets,
  bytes: (item) => item.per_second.bytes,
};

function order(a, b) {
  const value = COLUMNS[sorting.column];
  const [left, right] = [value(a), value(b)];
  const sign = left < right ? -1 : left > right ? 1 : 0;
  return (sorting.isDescending ? -sign : sign) || (a.service < b.service ? -1 : 1);
}

/** What a service is reached by: few, and the others on demand. */
class Addresses {
  constructor() {
    this.node = element("ul", "chips");
    this.isOpen = false;
    this.more = element("button");
    this.more.type = "button";
    this.more.addEventListener("click", () => {
      this.isOpen = !this.isOpen;
      this.draw(this.addresses);
    });
  }

  draw(addresses) {
    this.addresses = addresses;
    const text = JSON.stringify([addresses, this.isOpen]);
    if (text === this.text) return;
    this.text = text;
    const shown = this.isOpen ? addresses : addresses.slice(0, FEW);
    const items = shown.map(({ kind, frontend, protocol }) => {
      const item = element("li", "soft", `${kind} `);
      item.append(element("span", "address", `${frontend}/${protocol}`));
      return item;
    });
    if (addresses.length > FEW) {
      this.more.textContent = this.isOpen ? "fewer" : `${addresses.length - FEW} more`;
      this.more.setAttribute("aria-expanded", this.isOpen);
      const last = element("li");
      last.append(this.more);
      items.push(last);
    }
    const hadFocus = document.activeElement === this.more;
    this.node.replaceChildren(...items);
    if (hadFocus) this.more.focus();
  }
}

function drawServices(now) {
  const make = ({ service }) => {
    const name = heading();
    const addresses = new Addresses();
    name.append(element("span", "name", service), addresses.node);
    const backends = cell("number wide");
    const connections = cell("number wide");
    const packets = new Rate();
    const bytes = new Rate();
    const cells = [name, backends, connections, cell("number", packets.node), cell("number", bytes.node)];
    return { node: row(cells), addresses, backends, connections, packets, bytes };
  };
  const draw = (parts, { service, addresses, backends, per_second }) => {
    parts.addresses.draw(addresses);
    write(parts.backends, String(backends.length));
    write(parts.connections, now.interval_s > 0 ? short(per_second.connections) : "–");
    parts.packets.draw(`packets ${service}`, now, per_second.packets);
    parts.bytes.draw(`bytes ${service}`, now, per_second.bytes);
  };
  const table = find("#services");
  const items = now.services.rows.toSorted(order);
  drawRows(table.tBodies[0], items, (item) => item.service, make, draw);
  drawEmptiness(table, now.services, "service", "No Service is programmed on this node yet.");
}

// Backends

/** Backends that share out connections. */
function peers(backends) {
  const groups = new Map();
  for (const backend of backends) {
    const port = backend.backend.slice(backend.backend.lastIndexOf(":") + 1);
    const family = backend.backend.startsWith("[") ? "IPv6" : "IPv4";
    const what = `${backend.protocol} ${port}, ${family}`;
    const services = backend.services.length > 0 ? backend.services : ["No Service any more"];
    for (const service of services) {
      const key = `${service} ${what}`;
      const group = groups.get(key) ?? { key, service, what, backends: [] };
      group.backends.push(backend);
      groups.set(key, group);
    }
  }
  return [...groups.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
}

/** Those that nobody uses are closed, unless somebody opens them. */
function setOpen({ node, toggle }, isOpen) {
  node.className = isOpen ? "" : "closed";
  toggle.setAttribute("aria-expanded", isOpen);
}

function drawBackends(now) {
  const makeGroup = ({ service, what }) => {
    const node = element("tbody");
    const title = heading("rowgroup");
    title.colSpan = 4;
    const toggle = element("button");
    toggle.type = "button";
    const count = element("span", "soft");
    toggle.append(element("span", "name", service), element("span", "soft", what), count);
    title.append(toggle);
    const line = row([title]);
    line.className = "group";
    node.append(line);
    const parts = { node, toggle, count, isChosen: false };
    toggle.addEventListener("click", () => {
      parts.isChosen = true;
      setOpen(parts, node.className === "closed");
    });
    return parts;
  };
  const make = ({ backend }) => {
    const name = heading();
    const state = element("span", "soft");
    name.append(element("span", "address", backend), " ", state);
    const bar = new Bar();
    const connections = cell("number wide");
    const packets = cell("number");
    return { node: row([name, cell("", bar.node), connections, packets]), state, bar, connections, packets };
  };
  const drawGroup = (parts, group) => {
    const { node, count, isChosen } = parts;
    if (!isChosen) setOpen(parts, group.backends.some(({ connections }) => connections > 0));
    const isOne = group.backends.length === 1;
    write(count, `${group.backends.length} ${isOne ? "backend" : "backends"}`);
    const draw = (parts, { services, node: where, shares, connections, per_second }) => {
      write(parts.state, services.length > 0 ? `on ${where} node` : "leaving");
      parts.bar.draw(shares[group.service]);
      write(parts.connections, short(connections));
      write(parts.packets, now.interval_s > 0 ? short(per_second.packets) : "–");
    };
    const items = group.backends.toSorted((a, b) => (a.backend < b.backend ? -1 : 1));
    drawRows(node, items, (item) => item.backend, make, draw);
  };
  const table = find("#backends");
  drawRows(table, peers(now.backends.rows), (group) => group.key, makeGroup, drawGroup);
  drawEmptiness(table, now.backends, "backend", "No Service has a backend yet.");
}

// Reasons and maps

function drawReasons(now) {
  const make = ({ reason, fate, meaning }) => {
    const name = heading();
    name.append(element("span", "", reason), element("span", `soft fate ${fate}`, fate), element("p", "soft", meaning));
    const count = cell("number");
    const rate = new Rate();
    return { node: row([name, count, cell(`number ${fate}`, rate.node)]), count, rate };
  };
  const draw = (parts, { reason, count, per_second }) => {
    write(parts.count, short(count));
    parts.rate.draw(`reason ${reason}`, now, per_second);
  };
  const rows = now.counters.filter(({ fate }) => fate === "drop" || fate === "reject");
  const table = find("#reasons");
  drawRows(table.tBodies[0], rows, (item) => item.reason, make, draw);
  table.hidden = rows.length === 0;
  write(table.parentElement.querySelector(".empty"), rows.length > 0 ? "" : "Nothing was dropped or refused.");
}

function drawMaps(now) {
  const make = ({ map }) => {
    const name = heading();
    name.textContent = map;
    const bar = new Bar();
    const entries = cell("number");
    const capacity = cell("number wide");
    return { node: row([name, cell("", bar.node), entries, capacity]), bar, entries, capacity };
  };
  const draw = ({ bar, entries, capacity }, fill) => {
    const percent = (fill.entries * 100) / fill.capacity;
    bar.draw(percent);
    bar.node.classList.toggle("warn", percent >= 80 && percent < 95);
    bar.node.classList.toggle("bad", percent >= 95);
    write(entries, short(fill.entries));
    write(capacity, short(fill.capacity));
  };
  drawRows(find("#maps").tBodies[0], now.maps, (fill) => fill.map, make, draw);
}

// State

function say(level, text) {
  const state = find("#state");
  state.dataset.level = level;
  write(state, text);
}

function drawState({ agent }) {
  if (!agent) return say("wait", "The agent has not said anything yet");
  write(find("#node"), agent.node);
  document.title = `${agent.node} · Headgate`;
  if (!agent.is_synced) say("warn", "Not in sync yet");
  else if (agent.disconnected) say("warn", `Disconnected from its source: ${agent.disconnected}`);
  else if (agent.failures.length > 0) say("bad", `${agent.failures.length} changes fail`);
  else say("good", "In sync");
}

function drawUndone({ agent }) {
  const complaints = agent ? [...agent.failures, ...agent.refusals] : [];
  const rows = complaints.map(({ object, reason }) => `${object}: ${reason}`);
  if (agent?.more > 0) rows.push(`and ${agent.more} more`);
  const make = (text) => ({ node: element("li", "", text) });
  drawRows(find("#undone ul"), [...new Set(rows)], (text) => text, make, () => {});
  find("#undone").hidden = rows.length === 0;
}

function rememberAll(now) {
  const time = Date.parse(now.time);
  if (now.interval_s === 0) return histories.clear();
  for (const [name] of TOTALS) remember(`total ${name}`, time, now.totals[name]);
  for (const { service, per_second } of now.services.rows) {
    remember(`packets ${service}`, time, per_second.packets);
    remember(`bytes ${service}`, time, per_second.bytes);
  }
  for (const { reason, per_second } of now.counters) remember(`reason ${reason}`, time, per_second);
  forget(time);
}

let last;

function draw() {
  for (const part of [drawState, drawUndone, drawTotals, drawServices, drawBackends, drawReasons, drawMaps]) {
    part(last);
  }
}

// Talking to the agent

const filter = find("#filter");
let timer;
let request = 0;

async function ask(path, parameters) {
  const url = `${path}?${new URLSearchParams(parameters)}`;
  const answer = await fetch(url, { signal: AbortSignal.timeout(GIVE_UP_MS) }).catch(() => {
    throw new Error("Agent unreachable");
  });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

async function look() {
  clearTimeout(timer);
  const mine = ++request;
  try {
    const now = await ask("api/sample", { filter: filter.value });
    if (mine !== request) return;
    if (now.time !== last?.time) rememberAll(now);
    last = now;
    find("main").classList.remove("stale");
    draw();
  } catch (error) {
    if (mine !== request) return;
    find("main").classList.add("stale");
    const since = last ? `; what you see is of ${new Date(last.time).toLocaleTimeString()}` : "";
    say("bad", error.message + since);
  }
  if (!document.hidden) timer = setTimeout(look, POLL_MS);
}

// Explain

function drawExplanation(said) {
  const packet = element("p", "address", said.packet + (said.device ? ` on ${said.device}` : ""));
  const steps = element("ol");
  steps.append(...said.steps.map((step) => element("li", "", step)));
  const verdict = element("div", `verdict ${said.fate}`);
  verdict.append(element("strong", "", said.reason), `: ${said.meaning}`);
  const program = said.program ? `${said.program} says: ` : "";
  verdict.append(element("p", "", `${program}${said.verdict}`));
  if (said.result) verdict.append(element("p", "address", said.result));
  find("#explanation").replaceChildren(packet, steps, verdict);
}

async function explain(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    drawExplanation(await ask("api/explain", new FormData(form)));
  } catch (error) {
    find("#explanation").replaceChildren(element("p", "verdict error", error.message));
  }
  button.disabled = false;
}

function sortBy(column) {
  const isSame = sorting.column === column;
  // Names upwards, numbers downwards: what is most interesting comes first.
  sorting.isDescending = isSame ? !sorting.isDescending : column !== "name";
  sorting.column = column;
  for (const head of document.querySelectorAll("[data-sort]")) head.removeAttribute("aria-sort");
  const direction = sorting.isDescending ? "descending" : "ascending";
  find(`[data-sort="${column}"]`).setAttribute("aria-sort", direction);
  if (last) draw();
}

find("#explain").addEventListener("submit", explain);
for (const head of document.querySelectorAll("[data-sort]")) {
  head.querySelector("button").addEventListener("click", () => sortBy(head.dataset.sort));
}
filter.addEventListener("input", look);
document.addEventListener("visibilitychange", () => document.hidden || look());
look();
