// The page of styxy: who has which port. See styxy-open(1).
"use strict";

const $ = (id) => document.getElementById(id);
const SESSION = "styxy-session"; // in sessionStorage, which is this tab's
const LEAD = "styxy-events"; // the lock of the tab that follows the events for all
const SHARED = new BroadcastChannel("styxy");
const EVENTS = ["lease_granted", "lease_released", "lease_orphaned", "lease_changed", "service_type_added", "service_type_removed"];
// A server that got its port takes a while to listen, and nothing announces it.
const LOOK_AGAIN = [700, 2500, 8000];

const leases = new Map(); // by lease_id
const listeners = new Map(); // the user that listens, by TCP port
const own = new Set(); // the TCP ports that the service itself listens on
let types = [];
let lastId = null; // of the last event that this tab knows
let isListed = false;
let isOpen = false;
let missed = null; // the events that come while leases are listed

// ---- requests --------------------------------------------------------------------------------------------------------

class Refused extends Error {}

async function send(method, path, body, signal, headers = {}) {
  const answer = await fetch(path, {
    method, signal, cache: "no-store",
    headers: { ...headers, Authorization: `Bearer ${sessionStorage.getItem(SESSION)}` },
    body: body && JSON.stringify(body),
  });
  if (answer.status === 401) close();
  if (answer.ok) return answer;
  const { error, suggestions = [] } = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  throw new Refused([error, ...suggestions.slice(0, 1)].join("; "));
}

const ask = async (method, path, body) => (await send(method, path, body)).json();

// ---- the session -----------------------------------------------------------------------------------------------------

let isBegun = false;
let why = ""; // there is no session

async function start() {
  const secret = location.hash.slice(1);
  if (location.hash) history.replaceState(null, "", "/");
  if (/^[0-9a-f]{64}$/.test(secret)) {
    const answer = await fetch("/page/session", { method: "POST", body: JSON.stringify({ secret }) }).catch(() => null);
    if (answer?.ok) {
      sessionStorage.setItem(SESSION, (await answer.json()).session);
      if (isBegun) return location.reload();
    } else {
      // The session of this tab is none the worse.
      why = answer ? "This link was used, or is more than a minute old. For a new one:" : "The service cannot be reached. To start it:";
    }
  }
  if (isBegun) return;
  isBegun = true;
  if (!sessionStorage.getItem(SESSION)) return close();
  isOpen = true;
  why = "";
  $("page").hidden = false;
  SHARED.onmessage = ({ data }) => hear(data);
  navigator.locks.request(LEAD, lead).catch(() => {});
  const { held } = await navigator.locks.query();
  if (held.some((lock) => lock.name === LEAD)) SHARED.postMessage({ hello: true });
}

let giveUp = () => {};
const stopped = new AbortController();

// There is no session: nothing of before is shown.
function close() {
  sessionStorage.removeItem(SESSION);
  isOpen = false;
  stopped.abort();
  giveUp();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  $("page").remove();
  $("news").textContent = "";
  $("why").textContent = why;
  $("closed").hidden = false;
  SHARED.close();
}

// ---- events ----------------------------------------------------------------------------------------------------------

const pause = (time) => new Promise((done) => setTimeout(done, time));

// Follows the events for all tabs, until this one is closed.
async function lead() {
  const over = new Promise((done) => { giveUp = done; });
  let retry = 1000, tries = 0;
  const follow = async () => {
    while (isOpen) {
      try {
        const last = lastId === null ? {} : { "Last-Event-ID": lastId };
        const answer = await send("GET", "/events", null, stopped.signal, last);
        for await (const event of read(answer.body)) {
          tries = 0;
          if (event.retry) retry = event.retry;
          SHARED.postMessage({ event });
          hear({ event });
        }
      } catch {
        if (!isOpen) return;
      }
      tries += 1;
      SHARED.postMessage({ lost: true });
      hear({ lost: true });
      await pause(Math.min(retry * 2 ** Math.max(0, tries - 3), 30000));
    }
  };
  await Promise.race([follow(), over]);
}

// The events of a stream (HTML Living Standard, "Server-sent events").
async function* read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", event = {};
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.event) yield event;
        event = {};
        continue;
      }
      const at = line.indexOf(":");
      const [field, content] = [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
      if (field === "retry") event.retry = Number(content);
      else if (field === "data") event.data = JSON.parse(content);
      else if (field) event[field] = content;
    }
  }
}

// What this tab reads, or hears of the one that reads.
function hear({ event, lost, hello, at }) {
  if (!isOpen) return;
  // Only the tab that leads answers: the others do not know whether they are behind.
  if (hello) return void (giveUp !== nobody && SHARED.postMessage({ at: lastId }));
  if (lost) return connection(false);
  if (at !== undefined) {
    if (!isListed && !missed) { lastId = at; list(); }
    return;
  }
  connection(true);
  const isNew = lastId === null;
  if (event.id !== undefined) lastId = event.id;
  if (event.event === "ready") {
    // What happened since the last event of this tab comes by itself.
    if (isNew || !isListed) list();
  } else if (event.event === "reset") {
    list();
  } else if (EVENTS.includes(event.event)) {
    if (missed) missed.push(event);
    else apply(event.event, event.data);
  }
}
const nobody = giveUp;

function apply(name, data) {
  if (name.startsWith("service_type")) {
    listTypes().catch(() => {});
    return;
  }
  const known = leases.get(data.lease_id);
  const what = `${data.port}/${data.protocol}`;
  if (name === "lease_released") {
    leases.delete(data.lease_id);
    if (known) tell(`Released ${what}`);
  } else {
    const state = name === "lease_orphaned" ? "orphaned" : data.claim && data.owner === "none" ? "claimed" : "reserved";
    leases.set(data.lease_id, { ...data, state, comm: known?.pid === data.pid ? known?.comm : undefined, isNew: !known });
    if (name === "lease_granted") tell(`Leased ${what}, ${data.service_type}${data.service_name ? ` ${data.service_name}` : ""}`);
    if (name === "lease_orphaned") tell(`Orphaned ${what}`);
  }
  draw();
  lookSoon();
}

// ---- what there is ---------------------------------------------------------------------------------------------------

async function list() {
  if (missed) return;
  missed = [];
  try {
    const [listed] = await Promise.all([ask("GET", "/leases"), listTypes(), look()]);
    leases.clear();
    for (const lease of listed.leases) leases.set(lease.lease_id, lease);
    isListed = true;
  } catch {
    connection(false);
  }
  const events = missed;
  missed = null;
  for (const { event, data } of events) apply(event, data);
  draw();
}

async function listTypes() {
  types = (await ask("GET", "/types")).service_types;
  types.sort((a, b) => COLLATOR.compare(a.service_type, b.service_type));
  draw();
}

let looks = [];

// Looks for listeners: now, and some more times.
function lookSoon() {
  looks.forEach(clearTimeout);
  looks = LOOK_AGAIN.map((time) => setTimeout(() => document.hidden || look().catch(() => {}), time));
}

async function look() {
  const { ports_in_use } = await ask("GET", "/scan?start=1&end=65535");
  listeners.clear();
  own.clear();
  for (const { port, allocated_to, system_usage } of ports_in_use) {
    if (!system_usage) continue;
    listeners.set(port, system_usage.process.user);
    // Of a program without a lease only the service itself is known.
    if (!allocated_to && system_usage.process.pid) own.add(port);
  }
  connection(true);
  draw();
}

// The ports that programs listen on without a lease.
function foreignPorts() {
  const leased = new Set([...leases.values()].map((lease) => lease.port));
  return [...listeners.keys()].filter((port) => !own.has(port) && !leased.has(port));
}

// The state now: listeners may have come and gone since the lease was listed.
function stateOf(lease) {
  if (lease.protocol !== "tcp" || lease.state === "unknown") return lease.state;
  if (listeners.has(lease.port)) return lease.state === "orphaned" ? "orphaned" : "listening";
  if (lease.state === "orphaned" || lease.state === "listening") return lease.claim && lease.owner === "none" ? "claimed" : "reserved";
  return lease.state;
}

// ---- words, as `styxy list` has them ---------------------------------------------------------------------------------

function ownerOf(lease) {
  let owner = "";
  if (lease.owner === "process") owner = lease.comm ? `${lease.comm}[${lease.pid}]` : `PID ${lease.pid}`;
  else if (lease.owner === "unit") owner = lease.unit;
  else if (lease.owner === "connection") owner = "a bus connection";
  else if (lease.ttl) owner = `${lease.ttl} s`;
  if (lease.instance_id) owner = owner ? `${owner}, ${lease.instance_id}` : lease.instance_id;
  const more = (lease.holders ?? 1) - (lease.claim ? 2 : 1);
  return more > 0 ? `${owner} and ${more} more` : owner;
}

function age(since) {
  const seconds = Math.max(0, (Date.now() - Date.parse(since)) / 1000);
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["m", 60]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)}${unit}`;
  }
  return `${Math.floor(seconds)}s`;
}

const folderOf = (lease) => lease.package_path ?? lease.project_path ?? "";
const short = (path) => path.replace(/^\/(home\/[^/]+|root)(?=\/|$)/, "~");
const nameOf = (lease) => lease.service_name ?? "";
const portOf = (lease) => `${lease.port}/${lease.protocol}`;
const plural = (count, thing) => `${count} ${thing}${count === 1 ? "" : "s"}`;

// ---- the table -------------------------------------------------------------------------------------------------------

// Name, class, text, and by what it is sorted.
const COLUMNS = [
  ["Port", "mono port", portOf, (lease) => lease.port],
  ["State", "state-of", stateOf],
  ["Type", "type", (lease) => lease.service_type],
  ["Name", "name", nameOf],
  ["Project", "project", (lease) => short(folderOf(lease))],
  ["Owner", "owner", ownerOf],
  ["Age", "mono age", (lease) => age(lease.since), (lease) => -Date.parse(lease.since)],
  ["Lease", "mono lease", (lease) => lease.lease_id.slice(0, 8)],
];
const COLLATOR = new Intl.Collator("en", { numeric: true });
let sorted = { column: 0, down: false };
const rows = new Map(); // by lease_id

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key in made && key !== "role") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawColumns() {
  COLUMNS.forEach(([name, kind], column) => {
    const button = element("button", { type: "button" }, name);
    button.onclick = () => {
      sorted = { column, down: sorted.column === column && !sorted.down };
      draw();
    };
    $("columns").append(element("div", { role: "columnheader", class: kind.replace("mono ", "") }, button));
  });
}

function wanted() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [project, type, agent] = ["project", "type", "agent"].map((id) => $(id).value);
  const fits = (lease) => {
    if (project && lease.project_path !== project) return false;
    if (type && lease.service_type !== type) return false;
    if (agent && lease.instance_id !== agent) return false;
    if (!words.length) return true;
    const text = [...COLUMNS.map(([, , text]) => text(lease)), folderOf(lease), lease.lease_id].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const [, , text, by = text] = COLUMNS[sorted.column];
  const compare = (a, b) => {
    const [x, y] = [by(a), by(b)];
    const order = typeof x === "number" ? x - y : COLLATOR.compare(x, y);
    return (sorted.down ? -order : order) || a.port - b.port || COLLATOR.compare(a.protocol, b.protocol);
  };
  return [...leases.values()].filter(fits).sort(compare);
}

function rowOf(lease) {
  let row = rows.get(lease.lease_id);
  if (!row) {
    row = element("div", { role: "row" }, ...COLUMNS.map(([, kind]) => element("div", { role: "cell", class: kind })));
    row.dataset.lease = lease.lease_id;
    row.firstChild.append(element("button", { type: "button" }));
    row.children[1].append(element("span", { class: "state" }, element("i", { class: "cell" }), ""));
    if (lease.isNew) row.classList.add("new");
    rows.set(lease.lease_id, row);
  }
  COLUMNS.forEach(([, , text], column) => {
    const cell = row.children[column];
    const now = text(lease);
    if (cell.shown === now) return;
    cell.shown = now;
    if (column === 0) {
      cell.firstChild.textContent = now;
      cell.firstChild.title = "Details";
    } else if (column === 1) {
      cell.firstChild.firstChild.dataset.state = now;
      cell.firstChild.lastChild.textContent = now;
    } else {
      cell.textContent = now;
      cell.title = column === 4 ? folderOf(lease) : now;
    }
  });
  return row;
}

let isDrawing = false;

function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    if (!isOpen || !isListed) return;
    drawFilters();
    drawTable();
    drawBands();
  });
}

function drawTable() {
  const body = $("rows");
  const shown = wanted();
  const focused = document.activeElement?.closest?.("#rows [role=row]");
  const after = focused?.nextSibling ?? focused?.previousSibling;
  const keep = new Set(shown.map((lease) => lease.lease_id));
  for (const [id, row] of rows) {
    if (!leases.has(id)) rows.delete(id);
    if (!keep.has(id)) row.remove();
  }
  let at = body.firstChild;
  for (const lease of shown) {
    const row = rowOf(lease);
    // Moving a row would take its focus.
    if (row === at) at = at.nextSibling;
    else body.insertBefore(row, at);
  }
  if (focused && !focused.isConnected && !document.querySelector("dialog[open]")) {
    ((after?.isConnected ? after : body.firstChild)?.querySelector("button") ?? $("search")).focus();
  }
  [...$("columns").children].forEach((header, column) => {
    header.setAttribute("aria-sort", column !== sorted.column ? "none" : sorted.down ? "descending" : "ascending");
  });
  $("leases").setAttribute("aria-rowcount", shown.length + 1);
  $("leases").hidden = !shown.length;
  $("empty").hidden = shown.length > 0;
  $("empty").textContent = leases.size ? "no lease matches" : "no port is leased";
  const states = [...leases.values()].map(stateOf);
  const count = (state) => states.filter((one) => one === state).length;
  const parts = [plural(leases.size, "lease"), `${count("listening")} listening`];
  if (count("orphaned")) parts.push(`${count("orphaned")} orphaned`);
  const foreign = foreignPorts().length;
  if (foreign) parts.push(`${plural(foreign, "port")} in use without a lease`);
  if (shown.length !== leases.size) parts.unshift(`${shown.length} of`);
  set($("summary"), parts.join(", ").replace("of,", "of"));
}

function set(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

const FILTERS = [
  ["project", "all projects", (lease) => lease.project_path, short],
  ["type", "all types", (lease) => lease.service_type, (text) => text],
  ["agent", "all agents", (lease) => lease.instance_id, (text) => text],
];

function drawFilters() {
  for (const [id, all, of, shown] of FILTERS) {
    const select = $(id);
    const values = [...new Set([...leases.values()].map(of).filter(Boolean))].sort(COLLATOR.compare);
    if (select.value && !values.includes(select.value)) values.push(select.value);
    const key = values.join("\n");
    if (select.dataset.values === key && select.options.length) continue;
    const chosen = select.value;
    select.dataset.values = key;
    select.replaceChildren(...["", ...values].map((value) => element("option", { value }, value ? shown(value) : all)));
    select.value = chosen;
  }
}

// ---- the bands -------------------------------------------------------------------------------------------------------

const MOST_CELLS = 1000; // of one range; a wider one shows only what is in use
const bands = new Map(); // by type and ranges

function drawBands() {
  const taken = new Map();
  for (const [port, user] of listeners) {
    if (own.has(port)) taken.set(port, { state: "own", text: `${port} styxy itself, for this page` });
    else taken.set(port, { state: "foreign", text: `${port} in use without a lease, by ${user}` });
  }
  for (const lease of leases.values()) {
    const state = stateOf(lease);
    const text = [portOf(lease), state, nameOf(lease), short(folderOf(lease))].filter(Boolean).join(", ");
    taken.set(lease.port, { state, text });
  }
  let at = $("bands").firstChild;
  const shown = new Set();
  for (const type of types) {
    const key = [type.service_type, ...type.ranges].join(" ");
    shown.add(key);
    let band = bands.get(key);
    if (!band) bands.set(key, band = bandOf(type));
    let leased = 0, listening = 0, foreign = 0, free = 0;
    for (const [port, cell] of band.cells) {
      const now = taken.get(port);
      if (!now) free += 1;
      else if (now.state === "foreign") foreign += 1;
      else if (now.state !== "own") leased += 1;
      if (now?.state === "listening") listening += 1;
      const state = now?.state ?? "free";
      if (cell.dataset.state !== state) cell.dataset.state = state;
      const text = now?.text ?? `${port} free`;
      if (cell.title !== text) cell.title = text;
    }
    set(band.counts, [`${leased} leased`, `${listening} listening`, ...foreign ? [`${foreign} without a lease`] : [], `${free} free`].join(", "));
    band.element.classList.toggle("unused", !type.automatic && free === band.cells.size);
    if (band.element === at) at = at.nextSibling;
    else $("bands").insertBefore(band.element, at);
  }
  for (const [key, band] of bands) {
    if (shown.has(key)) continue;
    band.element.remove();
    bands.delete(key);
  }
  const foreign = foreignPorts().sort((a, b) => a - b);
  $("foreign").hidden = !foreign.length;
  const text = foreign.map((port) => `${port} ${listeners.get(port)}`).join("\n");
  if ($("foreign-ports").dataset.text !== text) {
    $("foreign-ports").dataset.text = text;
    $("foreign-ports").replaceChildren(...foreign.map((port) => element("li", {}, element("span", {}, `${port}/tcp`), ` ${listeners.get(port)}`)));
  }
}

function bandOf(type) {
  const cells = new Map();
  const strip = element("div", { class: "cells", "aria-hidden": "true" });
  for (const range of type.ranges) {
    const [first, last = first] = range.split("-").map(Number);
    if (last - first >= MOST_CELLS) continue;
    for (let port = first; port <= last; port += 1) {
      const cell = element("i", { class: "cell" });
      cell.dataset.port = port;
      cells.set(port, cell);
      strip.append(cell);
    }
  }
  // One more than a hundred is no reason for another line.
  strip.classList.toggle("odd", cells.size % 100 === 1);
  strip.onclick = ({ target }) => {
    if (target.dataset.state && target.dataset.state !== "free") details(Number(target.dataset.port));
  };
  const counts = element("span");
  const once = type.instance_behavior === "single" ? " (runs once)" : "";
  const bar = element("div", { class: "counts" }, counts);
  if (type.automatic) {
    const undo = element("button", { type: "button", "aria-label": `Remove the automatic type ${type.service_type}` }, "Remove");
    undo.onclick = () => removeType(type);
    bar.append(undo);
  }
  return {
    cells, counts,
    element: element("li", { class: "band" },
      element("h3", { title: `${type.description}${once}` }, type.service_type),
      element("span", { class: "range" }, type.ranges.join(", ")),
      element("div", { class: "cells-of" }, strip), bar),
  };
}

// ---- dialogs ---------------------------------------------------------------------------------------------------------

function show(dialog) {
  if (!dialog.open) dialog.showModal();
}

// What an action does is said before; what the service refuses, after.
function confirmed(title, text, verb, action) {
  const dialog = $("confirm");
  set($("confirm-title"), title);
  set($("confirm-text"), text);
  set($("confirm-error"), "");
  const button = $("confirm-do");
  set(button, verb);
  button.disabled = false;
  button.onclick = async () => {
    button.disabled = true;
    try {
      await action();
      dialog.close();
      $("details").close();
    } catch (error) {
      set($("confirm-error"), error instanceof Refused ? error.message : "the service cannot be reached");
      button.disabled = false;
    }
  };
  show(dialog);
  dialog.querySelector("[data-close]").focus();
}

const described = (lease) => [portOf(lease), lease.service_type, nameOf(lease), short(folderOf(lease))].filter(Boolean).join(", ");

function release(lease) {
  let after = listeners.has(lease.port) ? " A program listens on it and keeps running; its port may be leased to another service." : "";
  // Somebody has asked for it, and a command uses it.
  if (lease.claim && lease.holders > 1) after = " The command that uses it keeps it until it ends.";
  confirmed(`Release port ${portOf(lease)}?`, `${described(lease)}.${after}`, "Release", () => ask("DELETE", `/allocate/${lease.lease_id}`));
}

function renew(lease) {
  confirmed(`Renew port ${portOf(lease)}?`, `Its time limit of ${lease.ttl} s starts again.`, "Renew", async () => {
    const { ttl } = await ask("PUT", `/allocate/${lease.lease_id}/renew`);
    tell(`Port ${portOf(lease)} is leased for ${ttl} more seconds`);
  });
}

function forget(known) {
  const query = new URLSearchParams();
  for (const key of ["project_path", "service_type", "service_name", "protocol", "port"]) {
    if (known[key] !== undefined) query.set(key, known[key]);
  }
  const who = [known.service_type, known.service_name, short(known.package_path ?? known.project_path)].filter(Boolean).join(", ");
  confirmed(`Forget the remembered port ${known.port}?`, `${who} may get another port the next time.`, "Forget", () => ask("DELETE", `/memory?${query}`));
}

function removeType(type) {
  confirmed(`Remove the type ${type.service_type}?`, `It was created automatically, with the ports ${type.ranges.join(", ")}. It cannot be removed while one of them is leased.`,
    "Remove", async () => {
      await ask("DELETE", `/types/${encodeURIComponent(type.service_type)}`);
      await listTypes();
    });
}

let asked = 0; // which details were asked for last

async function details(port, lease = [...leases.values()].find((lease) => lease.port === port)) {
  const turn = asked += 1;
  const body = $("details-body");
  set($("details-title"), lease ? `Port ${portOf(lease)}` : `Port ${port}`);
  const facts = element("dl");
  const fact = (name, value, kind = "") => value && facts.append(element("dt", {}, name), element("dd", { class: kind }, value));
  const buttons = element("p", { class: "buttons" });
  const button = (name, action) => {
    const made = element("button", { type: "button" }, name);
    made.onclick = action;
    buttons.append(made);
  };
  if (lease) {
    fact("State", stateOf(lease));
    fact("Type", lease.service_type);
    fact("Name", nameOf(lease));
    fact("Project", folderOf(lease));
    fact("Owner", ownerOf(lease));
    fact("Kept by", lease.hold);
    fact("Time limit", lease.ttl && `${lease.ttl} s`);
    fact("Since", `${when(lease.since)} (${age(lease.since)})`);
    fact("Lease", lease.lease_id, "mono");
    button("Release", () => release(lease));
    if (lease.ttl) button("Renew", () => renew(lease));
  } else {
    fact("State", own.has(port) ? "styxy itself, for this page" : listeners.has(port) ? "in use without a lease" : "free");
    fact("User", listeners.get(port));
  }
  const type = lease?.service_type ?? types.find(({ ranges }) => ranges.some((range) => within(port, range)))?.service_type;
  const next = element("dd", {}, "…");
  if (type) facts.append(element("dt", {}, `Next for ${type}`), next);
  const known = element("ul"), past = element("ul");
  const knownTitle = element("h3", {}, "Remembered for");
  const pastTitle = element("h3", {}, "History");
  body.replaceChildren(facts, buttons, knownTitle, known, pastTitle, past);
  knownTitle.hidden = true;
  show($("details"));
  const fill = async (work, place) => {
    try {
      const made = await work();
      if (turn === asked) place.replaceChildren(...made);
    } catch (error) {
      if (turn === asked) place.replaceChildren(error instanceof Refused ? error.message : "the service cannot be reached");
    }
  };
  if (type) {
    fill(async () => {
      const { details: [first] } = await ask("GET", `/suggest/${encodeURIComponent(type)}?count=1`);
      return [first ? `${first.port}: ${first.message}${first.held ? ` (${first.held})` : ""}` : "none"];
    }, next);
  }
  fill(async () => {
    const { remembered } = await ask("GET", `/memory?port=${port}`);
    knownTitle.hidden = !remembered.length;
    return remembered.map((one) => {
      const made = element("button", { type: "button" }, "Forget");
      made.onclick = () => forget(one);
      const who = [one.service_type, one.service_name, short(one.package_path ?? one.project_path)].filter(Boolean).join(", ");
      return element("li", {}, element("time", {}, one.last_used ? when(one.last_used) : "not used yet"), element("span", {}, who), made);
    });
  }, known);
  fill(async () => {
    const { recent_events, message } = await ask("GET", `/audit?port=${port}&limit=200`);
    const events = recent_events.filter((event) => !lease || event.lease_id === lease.lease_id).reverse();
    const items = events.map((event) => element("li", {}, element("time", { dateTime: event.time }, when(event.time)), element("span", {}, event.message)));
    return items.length ? items : [element("li", {}, message ?? "no event")];
  }, past);
}

function within(port, range) {
  const [first, last = first] = range.split("-").map(Number);
  return port >= first && port <= last;
}

const TIME = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
const when = (time) => TIME.format(new Date(time));

// ---- what is said ----------------------------------------------------------------------------------------------------

let news = [];

// For those who cannot see it: together, if much happens at once.
function tell(sentence) {
  news.push(sentence);
  if (news.length > 1) return;
  setTimeout(() => {
    $("news").textContent = news.length > 3 ? `${news.length} changes` : news.join(". ");
    news = [];
  }, 400);
}

function connection(isThere) {
  const place = $("connection");
  if (!place) return;
  place.toggleAttribute("data-lost", !isThere);
  set(place, isThere ? "live" : "not connected; if it stays so, run `styxy open`");
}

// ---- keys ------------------------------------------------------------------------------------------------------------

const leaseOf = (target) => leases.get(target.closest?.("[data-lease]")?.dataset.lease);

document.addEventListener("keydown", (event) => {
  if (!isOpen || event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
  const isText = event.target.matches?.("input, select");
  const lease = leaseOf(event.target);
  const row = event.target.closest?.("#rows [role=row]");
  if (event.key === "/" && !isText) $("search").focus();
  else if (event.key === "Escape" && event.target === $("search")) { $("search").value = ""; draw(); return; }
  else if (event.key === "ArrowDown" && event.target === $("search")) $("rows").querySelector("button")?.focus();
  else if (event.key === "r" && !isText) refresh();
  else if (event.key === "Delete" && lease) release(lease);
  else if (row && event.key === "ArrowDown") row.nextSibling?.querySelector("button").focus();
  else if (row && event.key === "ArrowUp") (row.previousSibling?.querySelector("button") ?? $("search")).focus();
  else if (row && event.key === "Home") row.parentNode.firstChild.querySelector("button").focus();
  else if (row && event.key === "End") row.parentNode.lastChild.querySelector("button").focus();
  else return;
  event.preventDefault();
});

function refresh() {
  list();
}

// The other tabs of this browser may have been told while this one was not drawn.
document.addEventListener("visibilitychange", () => { if (isOpen && isListed && !document.hidden) look().catch(() => {}); });
addEventListener("hashchange", start);

$("rows").addEventListener("click", ({ target }) => {
  const lease = leaseOf(target);
  if (lease) details(lease.port, lease);
});
$("filters").addEventListener("input", draw);
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("refresh").onclick = refresh;
let place = 0; // the row that had the focus last
$("rows").addEventListener("focusin", ({ target }) => { place = [...$("rows").children].indexOf(target.closest("[role=row]")); });
for (const dialog of document.querySelectorAll("dialog")) {
  // The row that it was opened from may be gone.
  dialog.addEventListener("close", () => requestAnimationFrame(() => {
    if (!isOpen || document.activeElement !== document.body) return;
    const all = $("rows").children;
    (all[Math.min(place, all.length - 1)]?.querySelector("button") ?? $("search")).focus();
  }));
}
for (const button of document.querySelectorAll("dialog [data-close]")) button.onclick = () => button.closest("dialog").close();
setInterval(() => document.hidden || draw(), 30000); // the ages
drawColumns();
start();
