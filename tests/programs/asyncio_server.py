# python3 asyncio_server.py PORT
import asyncio
import sys


async def answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello\n")
    await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(answer, None, int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
