"""The interactive documentation. This server delivers all of its files itself."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

_FILES = "/docs/files"

# Swagger UI parses an answer and writes it again: a cost of 0.100000000 would become 0.1, and a large one would lose
# digits. Browsers without JSON.rawJSON, of before 2025, cannot do otherwise.
_EXACT_ANSWERS = """
    const answers = new Set(), parse = JSON.parse
    const exact = (_key, value, { source }) => typeof value === "number" ? JSON.rawJSON(source) : value
    JSON.parse = (text, reviver) => parse(text, !reviver && JSON.rawJSON && answers.has(text) ? exact : reviver)
    const ui = SwaggerUIBundle({
        responseInterceptor: (response) => { answers.add(response.text); return response },"""


def install_documentation(app: FastAPI) -> None:
    """Adds /docs and its files. The OpenAPI document is at /openapi.json."""
    # The package contains Swagger UI. Its own FastAPI subclass would decide more than where the files are.
    app.mount(_FILES, StaticFiles(packages=[("fastapi_offline", "static")]), name="files")

    # Relative addresses, so that the page works behind a proxy with any path prefix.
    @app.get("/docs", include_in_schema=False)
    async def swagger_ui() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f".{_FILES}/swagger-ui-bundle.js",
            swagger_css_url=f".{_FILES}/swagger-ui.css",
            swagger_favicon_url=f".{_FILES}/favicon.png",
            # By default, Swagger UI sends the address of the document to a validator on the internet.
            swagger_ui_parameters={"validatorUrl": None, "displayRequestDuration": True, "tryItOutEnabled": True},
        )
        return HTMLResponse(bytes(page.body).decode().replace("const ui = SwaggerUIBundle({", _EXACT_ANSWERS))
