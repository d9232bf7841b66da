require("http").createServer((_, response) => response.end("hello")).listen({ fd: 3 });
