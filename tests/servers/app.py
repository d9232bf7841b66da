"""The same application for uvicorn (ASGI) and for gunicorn (WSGI)."""


async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
