/** Ports for tests, leased from styxy. index.d.ts says what each function does. */

import { spawnSync } from "node:child_process";
import process from "node:process";

/** Has the ports of Playwright's servers: workers inherit it from the runner. */
const VARIABLE = "STYXY_PLAYWRIGHT";

/** The ids of leases by what `port` has returned. A number may be a port of TCP and one of UDP. */
const leases = new Map();

export class StyxyError extends Error {
  name = "StyxyError";
}

export function port(options) {
  const { granted, ids } = lease(options);
  leases.set(granted, [...(leases.get(granted) ?? []), ...ids]);
  return granted;
}

export function release(granted) {
  const ids = leases.get(granted);
  leases.delete(granted);
  if (ids) end(ids);
}

export function styxyPort(options) {
  // Runners read in the first parameter which other fixtures this one needs.
  return async ({}, use) => {
    const { granted, ids } = lease(options);
    try {
      await use(granted);
    } finally {
      end(ids);
    }
  };
}

export function provide(services) {
  return (project) => {
    const ids = [];
    for (const [key, options] of Object.entries(services)) {
      const one = lease(options);
      ids.push(...one.ids);
      project.provide(key, one.granted);
    }
    return () => end(ids);
  };
}

export function webServer({ type, name = "web", hold, url, env, ...others }) {
  const granted = ofThisRun(name, { type, name, hold });
  const baseURL = `http://localhost:${granted}`;
  const ready = url === undefined ? { port: granted } : { url: new URL(url, baseURL).href };
  return { use: { baseURL }, webServer: { ...others, ...ready, env: { ...env, PORT: String(granted) } } };
}

/** Playwright reads its configuration in the runner first, then in each of its workers. */
function ofThisRun(name, options) {
  let run = JSON.parse(process.env[VARIABLE] ?? "{}");
  // A runner that is started by a test or by a server of another one inherits the variable, too.
  if (run.pid !== process.pid && run.pid !== process.ppid) run = { pid: process.pid, ports: {} };
  run.ports[name] ??= lease(options).granted;
  process.env[VARIABLE] = JSON.stringify(run);
  return run.ports[name];
}

function lease({ type = "test", ...options } = {}) {
  const known = ["name", "count", "protocol", "hold"].filter((option) => options[option] !== undefined);
  const given = known.map((option) => `--${option}=${options[option]}`);
  // Without --new, all tests that give the same name would share one lease.
  const answer = styxy("allocate", `--owner=pid:${process.pid}`, "--new", ...given, "--", type);
  return {
    granted: options.count === undefined ? answer.port : (answer.ports ?? [answer.port]),
    // Of a type that runs once, others may hold the lease, too.
    ids: answer.lease_ids ?? [answer.holder_id ?? answer.lease_id],
  };
}

function end(ids) {
  try {
    styxy("release", "--yes", ...ids);
  } catch {
    // They end with this process.
  }
}

function styxy(verb, ...words) {
  const done = spawnSync("styxy", [verb, "--json", ...words], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  if (done.error) {
    const advice = "install its package, or run `cargo install --locked --path .` in a checkout of styxy";
    throw new StyxyError(`styxy cannot be started (${done.error.code}): ${advice}`);
  }
  if (done.status !== 0) throw new StyxyError(said(done.stderr));
  return JSON.parse(done.stdout);
}

function said(stderr) {
  try {
    const { error, suggestions } = JSON.parse(stderr.trim().split("\n").at(-1));
    return [error, ...suggestions].join("; ");
  } catch {
    return stderr.trim();
  }
}
