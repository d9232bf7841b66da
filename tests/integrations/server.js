import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

const { PORT } = process.env;
appendFileSync("servers", `${PORT}\n`);
createServer((_, answer) => answer.end(PORT)).listen(PORT);
