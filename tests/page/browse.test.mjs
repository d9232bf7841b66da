// `styxy browse` with Debian's Chromium: two worktrees at once, each with a web server and an API that know only their usual ports.
// tests/page/run starts this.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

const { STYXY, PACKAGES, SCREENSHOTS } = process.env;
const { chromium } = createRequire(`${PACKAGES}/`)("playwright-core");

const home = mkdtempSync(`${tmpdir()}/styxy-browse-`);
mkdirSync(`${home}/runtime`, { mode: 0o700 });
const env = {
  PATH: process.env.PATH, HOME: home, XDG_RUNTIME_DIR: `${home}/runtime`, XDG_STATE_HOME: `${home}/state`,
  XDG_CONFIG_HOME: `${home}/config`, DBUS_SESSION_BUS_ADDRESS: "unix:path=/nonexistent",
};
const servers = [];
const commands = [];
let service;

// A server of a project that asks for this port; the port that it really has.
async function serve(project, asked, answer) {
  const request = JSON.stringify({ service_type: "remap", project_path: `${home}/${project}`, asked, pid: process.pid });
  const line = ["-sS", "--unix-socket", `${home}/runtime/styxy/http.sock`, "--json", request, "http://localhost/allocate"];
  const { port } = JSON.parse(execFileSync("curl", line));
  const server = createServer(answer);
  servers.push(server);
  await new Promise((done) => server.listen(port, "127.0.0.1", done));
  return port;
}

const html = (project, cookie) => `<!doctype html><title>${project}</title><h1>Web of ${project}</h1>
<p id="api">waiting</p><p id="cookie">${cookie}</p>
<script>
  fetch("http://localhost:3001/").then((answer) => answer.text()).catch(String).then((text) => { api.textContent = text; });
</script>`;

async function worktree(project) {
  mkdirSync(`${home}/${project}`);
  await serve(project, 5173, (request, response) => {
    response.setHeader("content-type", "text/html");
    response.setHeader("set-cookie", `${project}=1; max-age=3600`);
    response.end(html(project, request.headers.cookie ?? "none"));
  });
  await serve(project, 3001, (request, response) => {
    response.setHeader("access-control-allow-origin", "http://localhost:5173");
    response.end(`API of ${project} for ${request.headers.origin}`);
  });
}

before(async () => {
  service = spawn(STYXY, ["daemon"], { env, cwd: home, stdio: ["ignore", "pipe", "inherit"] });
  await createInterface({ input: service.stdout })[Symbol.asyncIterator]().next();
  await worktree("shop-a");
  await worktree("shop-b");
});

after(async () => {
  // Those of a test that has failed.
  for (const command of commands) command.kill();
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
  service.kill();
  await new Promise((done) => service.on("exit", done));
  rmSync(home, { recursive: true, maxRetries: 20, retryDelay: 100 });
});

function profile(project) {
  const all = `${home}/state/styxy/browse`;
  const name = existsSync(all) && readdirSync(all).find((name) => name.startsWith(`${project}-`));
  return name && `${all}/${name}/chromium`;
}

// Starts the browser of a project by the command, and takes over its page.
async function browse(project) {
  rmSync(`${profile(project)}/DevToolsActivePort`, { force: true });
  const more = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"];
  const child = spawn(STYXY, ["browse", "--", ...more], { env, cwd: `${home}/${project}`, stdio: ["ignore", "ignore", "pipe"] });
  commands.push(child);
  const said = [];
  createInterface({ input: child.stderr }).on("line", (line) => said.push(line));
  const ended = new Promise((done) => child.on("exit", (code, signal) => done(signal ?? code)));
  const file = () => `${profile(project)}/DevToolsActivePort`;
  for (let tries = 0; !(existsSync(file()) && readFileSync(file(), "utf8").includes("\n")); tries++) {
    assert.ok(tries < 600, `the browser does not start: ${said.join("\n")}`);
    await sleep(50);
  }
  const browser = await chromium.connectOverCDP(`http://127.0.0.1:${readFileSync(file(), "utf8").split("\n")[0]}`);
  const page = browser.contexts()[0].pages()[0];
  const end = () => {
    child.kill();
    return ended;
  };
  const close = async () => {
    // Its answer may not come any more.
    const session = await browser.newBrowserCDPSession();
    session.send("Browser.close").catch(() => {});
    return ended;
  };
  return { page, said, end, close };
}

const shown = async ({ page }) => {
  await page.locator("#api", { hasNotText: "waiting" }).waitFor();
  return [page.url(), await page.locator("h1").textContent(), await page.locator("#api").textContent()];
};

const fetched = ({ page }, port) => page.evaluate((port) => fetch(`http://localhost:${port}/`).then((it) => it.text(), () => "failed"), port);

test("each worktree has its own http://localhost:5173, API and cookies, both at once", async () => {
  const real = await serve("shop-b", 6006, (_, response) => {
    response.setHeader("access-control-allow-origin", "*");
    response.end("stories of shop-b");
  });
  const both = [await browse("shop-a"), await browse("shop-b")];
  for (const [at, name] of ["shop-a", "shop-b"].entries()) {
    const expected = ["http://localhost:5173/", `Web of ${name}`, `API of ${name} for http://localhost:5173`];
    assert.deepEqual(await shown(both[at]), expected);
    await both[at].page.reload();
    assert.deepEqual(await shown(both[at]), expected);
    // Not those of the other one, although both are of localhost.
    assert.equal(await both[at].page.locator("#cookie").textContent(), `${name}=1`);
    await both[at].page.screenshot({ path: `${SCREENSHOTS}/browse-${name}.png` });
    assert.equal(statSync(profile(name)).mode & 0o777, 0o700);
  }
  assert.equal(await fetched(both[1], 6006), "stories of shop-b");
  assert.equal(await fetched(both[1], real), "stories of shop-b");
  assert.equal(await fetched(both[0], 6006), "failed");
  assert.equal(await fetched(both[0], real), "failed");
  assert.ok(both[0].said.some((line) => line.includes(`port ${real} belongs to ~/shop-b`)), both[0].said.join("\n"));
  for (const one of both) assert.equal(await one.end(), "SIGTERM");
  // A profile is free again when its browser has ended.
  assert.ok(!existsSync(`${profile("shop-a")}/SingletonLock`));
});

test("the profile of a project is there again, and the command ends with the browser", async () => {
  const first = await browse("shop-a");
  await shown(first);
  await first.page.context().addCookies([{ name: "kept", value: "1", url: "http://localhost:5173", expires: Date.now() / 1000 + 3600 }]);
  assert.equal(await first.close(), 0);
  const second = await browse("shop-a");
  await shown(second);
  assert.match(await second.page.locator("#cookie").textContent(), /kept=1/);
  assert.equal(await second.close(), 0);
});
