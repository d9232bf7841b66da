// node http.js PORT ADDRESS
const [port, address] = process.argv.slice(2);
require("node:http").createServer((_, response) => response.end("hello\n")).listen(Number(port), address);
