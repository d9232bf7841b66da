import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { port, release, StyxyError } from "@styxy/test";

release(port());
port({ count: 5 });
const { leases } = JSON.parse(execFileSync("styxy", ["list", "--json"]));
writeFileSync("leases", String(leases.length));
try {
  port({ type: "tset" });
} catch (error) {
  const isRefused = error instanceof StyxyError && error.message.includes('did you mean "test"');
  if (isRefused) process.kill(process.pid, "SIGKILL");
}
