"""The page that people look at: its files, and the headers under which a browser runs them.

The files hold no data. Their code asks this server's public API, as any other client does.
"""

import hashlib
from http import HTTPStatus
from importlib.resources import files

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

_MAIN = "index.html"
_MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    # Nothing but our own files and the API of this server: agents' names are foreign text.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
}


def install_page(app: FastAPI) -> None:
    """Adds the page at /, and its files below /page/, where browsers may keep them: their addresses name a version."""
    content = {file.name: file.read_bytes() for file in files(__package__).joinpath("files").iterdir()}
    version = hashlib.sha256(b"".join(content[name] for name in sorted(content))).hexdigest()[:16]
    page = content.pop(_MAIN).replace(b"{version}", version.encode())

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return Response(page, media_type="text/html", headers={**_HEADERS, "Cache-Control": "no-cache"})

    @app.get("/page/{asked}/{name}", include_in_schema=False)
    async def file(asked: str, name: str) -> Response:
        # A browser that has the page of another version must get none of this one's files under the old address.
        if asked != version or name not in content:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return Response(
            content[name],
            media_type=_MEDIA_TYPES[name.rpartition(".")[2]],
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )
