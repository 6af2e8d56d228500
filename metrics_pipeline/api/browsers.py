"""What every answer tells a browser that shows it, or that another site's page has fetch it."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    # A page that frames /docs could have its visitor press Execute there.
    "Content-Security-Policy": "frame-ancestors 'none'",
    # Agents' names and error types are other people's text: CSV and JSON with markup in it stay what they are.
    "X-Content-Type-Options": "nosniff",
    # No other site's page gets an answer by way of an image or a script.
    "Cross-Origin-Resource-Policy": "same-origin",
}


class BrowserHeaders:
    """Adds them to every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)
