import { mkdirSync, readdirSync } from "node:fs";
import { createServer } from "node:http";
import { setTimeout } from "node:timers/promises";
import { styxyPort } from "@styxy/test";
import { expect, inject, test as base } from "vitest";

const test = base.extend({ port: styxyPort({ name: "own" }), peers: styxyPort({ count: 2 }) });

test("listens beside three other files", async ({ port, peers }) => {
  expect(inject("peers")).toHaveLength(3);
  expect(new Set([port, inject("api"), ...peers, ...inject("peers")]).size).toBe(7);
  const server = createServer();
  await new Promise((done, failed) => server.on("error", failed).listen(port, done));
  mkdirSync(`ports/${port}`, { recursive: true });
  mkdirSync(`provided/${inject("api")}`, { recursive: true });
  while (readdirSync("ports").length < 4) await setTimeout(50);
  server.close();
});
