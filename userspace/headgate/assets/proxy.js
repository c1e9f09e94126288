// The page of a proxy.

import {
  Bar, Group, Rate, answerForm, ask, cell, drawEmpty, drawRows, drawTotals, drawUndone, element, find,
  follow, forget, forgetAll, heading, remember, row, say, short, steps, write,
} from "./shared.js";

const DAY_MS = 24 * 60 * 60 * 1000;
/** A certificate should be renewed earlier than this many days before it expires. */
const SOON_DAYS = 14;
/** Rates since a response older than this are not current. */
const STALE_S = 5;

const filter = find("#filter");
const isWanted = (...texts) => texts.flat().some((text) => text?.includes(filter.value));
const isEmptyText = (kind, nothing) => (filter.value ? `No ${kind} contains “${filter.value}”.` : nothing);

// Rates

const sum = (numbers) => numbers.reduce((all, number) => all + number, 0);

/** Rates since the last response; zero for new rows, and for counters that restarted. */
function rates(before, now) {
  const seconds = before ? (Date.parse(now.time) - Date.parse(before.time)) / 1000 : 0;
  const interval_s = seconds > STALE_S ? 0 : seconds;
  const old = new Map(before?.answers.map((row) => [row.ingress, row]));
  const rate = (then, count) => (interval_s > 0 ? Math.max(0, count - then) / interval_s : 0);
  const ingresses = now.answers.map((row) => {
    const then = old.get(row.ingress) ?? row;
    const requests = rate(sum(then.by_class), sum(row.by_class));
    const busy = rate(then.seconds, row.seconds);
    const time_ms = requests > 0 ? (busy * 1000) / requests : null;
    return { ingress: row.ingress, requests, errors: rate(then.by_class[5], row.by_class[5]), busy, time_ms };
  });
  const endpoints = new Map();
  for (const { key, address, requests } of endpointsOf(before)) endpoints.set(`${key} ${address}`, requests);
  const ofEndpoint = (key, { address, requests }) =>
    rate(endpoints.get(`${key} ${address}`) ?? requests, requests);
  return { interval_s, time: now.time, ingresses, ofEndpoint };
}

/** A port of a Service may have several upstreams, one for each way of balancing. */
const keyOf = ({ service, port, balance }) => `${service}:${port} ${balance}`;

const endpointsOf = (table) =>
  (table?.backends ?? []).flatMap((backend) =>
    backend.endpoints.map((endpoint) => ({ key: keyOf(backend), ...endpoint })));

// Totals

const milliseconds = (time) => (time < 1000 ? `${short(time)} ms` : `${short(time / 1000)} s`);

const TOTALS = [
  ["requests", "Requests/s", ""],
  ["errors", "Errors/s", "drop"],
  ["flying", "Requests in flight", "", (count) => short(count)],
  ["time", "Response time", "", milliseconds],
];

function totals(now, live) {
  const requests = sum(live.ingresses.map((row) => row.requests));
  const busy = sum(live.ingresses.map((row) => row.busy));
  return {
    requests,
    errors: sum(live.ingresses.map((row) => row.errors)),
    flying: sum(endpointsOf(now).map((endpoint) => endpoint.in_flight)),
    time: requests > 0 ? (busy * 1000) / requests : null,
  };
}

// Ingresses

function drawIngresses(live) {
  const make = ({ ingress }) => {
    const name = heading();
    name.append(element("span", "name", ingress));
    const time = cell("number wide");
    const requests = new Rate();
    const errors = new Rate();
    const failing = cell("number", errors.node);
    const cells = [name, time, cell("number", requests.node), failing];
    return { node: row(cells), time, requests, errors, failing };
  };
  const draw = (parts, { ingress, requests, errors, time_ms }) => {
    write(parts.time, time_ms === null ? "–" : milliseconds(time_ms));
    parts.requests.draw(`requests ${ingress}`, live, requests);
    parts.errors.draw(`errors ${ingress}`, live, errors);
    parts.failing.classList.toggle("drop", errors > 0);
  };
  const table = find("#ingresses");
  const rows = live.ingresses.filter(({ ingress }) => isWanted(ingress));
  drawRows(table.tBodies[0], rows, ({ ingress }) => ingress, make, draw);
  drawEmpty(table, rows.length === 0, rows.length > 0 ? "" : isEmptyText("Ingress", "No Ingress is served yet."));
}

// Routes

function chips(texts) {
  const list = element("ul", "chips");
  list.append(...texts.map((text) => element("li", text.startsWith("closed: ") ? "soft bad" : "soft", text)));
  return list;
}

function makeRoute({ path, conditions, front, ingress, target, canary }) {
  const name = heading();
  name.append(element("span", "address", path), chips([...conditions, ...front]));
  const to = cell(target.startsWith("none") ? "bad" : "", element("span", "", target));
  if (canary) to.append(element("p", "soft", `canary: ${canary}`));
  const of = cell("wide");
  of.textContent = ingress;
  return { node: row([name, of, to]) };
}

function drawRoutes(now) {
  const hosts = new Map();
  for (const route of now.routes) {
    const { host, path, ingress, target, conditions, front } = route;
    if (!isWanted(host, path, ingress, target, conditions, front)) continue;
    hosts.set(host, [...(hosts.get(host) ?? []), route]);
  }
  const table = find("#routes");
  const makeHost = ([host]) => new Group(3, host, "");
  const drawHost = (group, [, routes]) => {
    group.suggest(true);
    write(group.count, routes.length === 1 ? "1 route" : `${routes.length} routes`);
    drawRows(group.node, routes, JSON.stringify, makeRoute, () => {});
  };
  drawRows(table, [...hosts], ([host]) => host, makeHost, drawHost);
  drawEmpty(table, hosts.size === 0, hosts.size > 0 ? "" : isEmptyText("route", "There is no route yet: every request gets 404."));
}

// Backends

function makeEndpoint({ address }) {
  const name = heading();
  const health = element("p", "health soft");
  name.append(element("span", "address", address), health);
  const bar = new Bar();
  const flying = cell("number wide");
  const rate = cell("number");
  return { node: row([name, cell("", bar.node), flying, rate]), health, bar, flying, rate };
}

function drawBackends(now, live) {
  const makeGroup = ({ service, port, balance }) => new Group(4, `${service}:${port}`, balance);
  const drawGroup = (group, backend) => {
    const { endpoints, error, is_panicking } = backend;
    const all = sum(endpoints.map(({ requests }) => requests));
    const isWell = endpoints.every(({ health }) => health === "well");
    group.suggest(endpoints.length > 0 && (all > 0 || !isWell));
    const count = endpoints.length === 1 ? "1 endpoint" : `${endpoints.length} endpoints`;
    write(group.count, error ?? (is_panicking ? `${count}, most are not healthy: all are used` : count));
    group.count.classList.toggle("warn", Boolean(error) || is_panicking || endpoints.length === 0);
    const draw = (parts, endpoint) => {
      const { health, weight, failures, requests, in_flight } = endpoint;
      const failed = failures > 0 ? `, ${short(failures)} failed` : "";
      write(parts.health, `${health}${weight === 1 ? "" : `, weight ${weight}`}${failed}`);
      parts.health.classList.toggle("bad", health !== "well");
      parts.bar.draw(all > 0 ? (requests * 100) / all : null);
      write(parts.flying, short(in_flight));
      write(parts.rate, live.interval_s > 0 ? short(live.ofEndpoint(keyOf(backend), endpoint)) : "–");
    };
    drawRows(group.node, endpoints, ({ address }) => address, makeEndpoint, draw);
  };
  const rows = now.backends.filter(({ service, endpoints }) =>
    isWanted(service, endpoints.map(({ address }) => address)));
  const table = find("#backends");
  drawRows(table, rows, keyOf, makeGroup, drawGroup);
  drawEmpty(table, rows.length === 0, rows.length > 0 ? "" : isEmptyText("backend", "No route has a backend yet."));
}

// Certificates

function ending(now, not_after) {
  if (!not_after) return ["unknown", ""];
  const left = Math.floor((Date.parse(not_after) - Date.parse(now.time)) / DAY_MS);
  const days = (count) => `${count} ${count === 1 ? "day" : "days"}`;
  if (left < 0) return [left === -1 ? "expired less than a day ago" : `expired ${days(-left - 1)} ago`, "bad"];
  const text = left > 3650 ? "in years" : `in ${days(left)}`;
  return [text, left < SOON_DAYS ? "warn" : ""];
}

const KINDS = { hosts: "", default: "all other hosts", "self-signed": "all other hosts" };

function drawCertificates(now) {
  const make = ({ hosts, kind, secret, names, not_after }) => {
    const name = heading();
    const title = KINDS[kind] || hosts.join(", ");
    name.append(element("span", "", title));
    name.append(element("p", "soft", secret ? `Secret ${secret}` : "self-signed: clients do not trust it"));
    const isOther = kind === "hosts" && names.join() !== hosts.join();
    if (isOther) name.append(element("p", "soft", `valid for ${names.join(", ") || "no name"}`));
    const ends = element("span", "ends");
    const cells = cell("number", ends);
    if (not_after) cells.append(element("p", "soft", not_after.slice(0, 10)));
    return { node: row([name, cells]), ends };
  };
  const draw = ({ ends }, { not_after, kind }) => {
    const [text, level] = ending(now, not_after);
    write(ends, text);
    ends.className = `ends ${kind === "self-signed" ? "" : level}`;
  };
  const rows = now.certificates.filter(({ hosts, secret, names }) => isWanted("", hosts, secret ?? "", names));
  const table = find("#certificates");
  drawRows(table.tBodies[0], rows, JSON.stringify, make, draw);
  drawEmpty(table, rows.length === 0, rows.length > 0 ? "" : isEmptyText("certificate", "No certificate is served yet."));
}

// State

function drawState({ node, is_synced, disconnected, refusals }) {
  write(find("#node"), node);
  document.title = `${node} · Headgate proxy`;
  if (!is_synced) say("wait", "The source is not completely listed yet");
  else if (disconnected) say("warn", `Disconnected from its source: ${disconnected}`);
  else if (refusals.length > 0) say("warn", `In sync; ${refusals.length} refused`);
  else say("good", "In sync");
}

function rememberAll(live, all) {
  const time = Date.parse(live.time);
  if (live.interval_s === 0) return forgetAll();
  for (const [name] of TOTALS) remember(`total ${name}`, time, all[name] ?? 0);
  for (const { ingress, requests, errors } of live.ingresses) {
    remember(`requests ${ingress}`, time, requests);
    remember(`errors ${ingress}`, time, errors);
  }
  forget(time);
}

let last;
let live;

function draw() {
  drawState(last);
  drawUndone(last.refusals, 0);
  drawTotals(TOTALS, live, totals(last, live));
  drawIngresses(live);
  drawRoutes(last);
  drawBackends(last, live);
  drawCertificates(last);
}

function take(now) {
  live = rates(last, now);
  last = now;
  rememberAll(live, totals(now, live));
  draw();
}

// Explain

function verdict({ answer, backend }) {
  if (answer) {
    const kind = answer.status < 400 ? "" : answer.status < 500 ? "reject" : "drop";
    const node = element("div", `verdict ${kind}`);
    node.append(element("strong", "", String(answer.status)), `: ${answer.says}`);
    return node;
  }
  const isThere = backend && !backend.error && backend.endpoints.length > 0;
  const node = element("div", isThere ? "verdict" : "verdict drop");
  if (!backend) {
    node.textContent = "no answer";
    return node;
  }
  node.append(element("strong", "", `${backend.service}:${backend.port}`), `: ${backend.balance}`);
  for (const { address, health } of backend.endpoints) {
    const line = element("p");
    line.append(element("span", "address", address), ` ${health}`);
    node.append(line);
  }
  return node;
}

answerForm((result) => [element("p", "address", result.request), steps(result.steps), verdict(result)]);
filter.addEventListener("input", () => last && draw());
follow(() => ask("api/table", {}), take);
