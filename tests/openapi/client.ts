// Leases a port, finds it and releases it, with the types that are generated from the OpenAPI document.
import createClient from "openapi-fetch";
import type { paths } from "./styxy.js";

function ok<T>(answer: { data?: T; error?: unknown }): T {
  if (!answer.data) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

const client = createClient<paths>({
  baseUrl: process.env.URL!,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});
const body = { service_type: "dev", service_name: "web", project_path: "/shop" };
const granted = ok(await client.POST("/allocate", { body }));
const { leases } = ok(await client.GET("/leases", { params: { query: { project_path: "/shop" } } }));
if (leases.length !== 1 || leases[0].port !== granted.port) throw new Error(JSON.stringify(leases));
const path = { lock_id: granted.lock_id! };
const released = ok(await client.DELETE("/allocate/{lock_id}", { params: { path } }));
if (released.port !== granted.port) throw new Error(JSON.stringify(released));
const again = await client.DELETE("/allocate/{lock_id}", { params: { path } });
if (again.error?.code !== "NoSuchLease") throw new Error(JSON.stringify(again));
console.log("the TypeScript client leased port", granted.port);
