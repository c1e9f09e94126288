// The page of an agent.

import {
  Bar, Group, Rate, answerForm, ask, cell, drawEmpty, drawRows, drawTotals, drawUndone, element, find,
  follow, forget, forgetAll, heading, remember, row, say, short, steps, write,
} from "./shared.js";

/** Number of addresses of a Service that are shown at first. */
const FEW = 2;

function drawEmptiness(table, { rows, more }, kind, nothing) {
  const text = rows.length > 0 ? "" : filter.value ? `No ${kind} contains “${filter.value}”.` : nothing;
  const left = more > 0 ? `${more} more; these are the busiest. Filter to see others.` : "";
  drawEmpty(table, rows.length === 0, text || left);
}

// Totals

const TOTALS = [
  ["connections", "New connections/s", ""],
  ["packets", "Packets/s", ""],
  ["bytes", "Bytes/s", ""],
  ["drops", "Drops/s", "drop"],
];

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

/** Addresses of a Service: a few, and the others on demand. */
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

/** Groups of backends that share connections. */
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

function drawBackends(now) {
  const makeGroup = ({ service, what }) => new Group(4, service, what);
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
    const { node, count } = parts;
    // Groups without connections are closed.
    parts.suggest(group.backends.some(({ connections }) => connections > 0));
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
  drawEmpty(table, rows.length === 0, rows.length > 0 ? "" : "Nothing was dropped or refused.");
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

function drawState({ agent }) {
  if (!agent) return say("wait", "The agent has not written its state yet");
  write(find("#node"), agent.node);
  document.title = `${agent.node} · Headgate`;
  if (!agent.is_synced) say("warn", "Not in sync yet");
  else if (agent.disconnected) say("warn", `Disconnected from its source: ${agent.disconnected}`);
  else if (agent.failures.length > 0) say("bad", `${agent.failures.length} changes fail`);
  else say("good", "In sync");
}

function rememberAll(now) {
  const time = Date.parse(now.time);
  if (now.interval_s === 0) return forgetAll();
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
  const { agent } = last;
  drawUndone(agent ? [...agent.failures, ...agent.refusals] : [], agent?.more);
  drawTotals(TOTALS, last, last.totals);
  for (const part of [drawState, drawServices, drawBackends, drawReasons, drawMaps]) part(last);
}

const filter = find("#filter");

function take(now) {
  if (now.time !== last?.time) rememberAll(now);
  last = now;
  draw();
}

// Explain

function explanation(result) {
  const packet = element("p", "address", result.packet + (result.device ? ` on ${result.device}` : ""));
  const verdict = element("div", `verdict ${result.fate}`);
  verdict.append(element("strong", "", result.reason), `: ${result.meaning}`);
  const program = result.program ? `${result.program} says: ` : "";
  verdict.append(element("p", "", `${program}${result.verdict}`));
  if (result.result) verdict.append(element("p", "address", result.result));
  return [packet, steps(result.steps), verdict];
}

function sortBy(column) {
  const isSame = sorting.column === column;
  // Names ascending, numbers descending: the largest come first.
  sorting.isDescending = isSame ? !sorting.isDescending : column !== "name";
  sorting.column = column;
  for (const head of document.querySelectorAll("[data-sort]")) head.removeAttribute("aria-sort");
  const direction = sorting.isDescending ? "descending" : "ascending";
  find(`[data-sort="${column}"]`).setAttribute("aria-sort", direction);
  if (last) draw();
}

answerForm(explanation);
for (const head of document.querySelectorAll("[data-sort]")) {
  head.querySelector("button").addEventListener("click", () => sortBy(head.dataset.sort));
}
filter.addEventListener("input", follow(() => ask("api/sample", { filter: filter.value }), take));
