import { mkdirSync, readdirSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { expect, test } from "@playwright/test";

test("the server of this run answers", async ({ baseURL, request }) => {
  const { port } = new URL(baseURL);
  expect(await (await request.get("/")).text()).toBe(port);
  mkdirSync(`workers/${process.pid}-${port}`, { recursive: true });
  const ports = () => new Set(readdirSync("workers").map((worker) => worker.split("-")[1]));
  while (ports().size < Number(process.env.RUNS)) await setTimeout(50);
});
