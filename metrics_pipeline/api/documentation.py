"""The interactive documentation. This server delivers all of its files itself."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

_FILES = "/docs/files"


def install_documentation(app: FastAPI) -> None:
    """Adds /docs and its files. The OpenAPI document is at /openapi.json."""
    # The package contains Swagger UI. Its own FastAPI subclass would decide more than where the files are.
    app.mount(_FILES, StaticFiles(packages=[("fastapi_offline", "static")]), name="files")

    # Relative addresses, so that the page works behind a proxy with any path prefix.
    @app.get("/docs", include_in_schema=False)
    async def swagger_ui() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f".{_FILES}/swagger-ui-bundle.js",
            swagger_css_url=f".{_FILES}/swagger-ui.css",
            swagger_favicon_url=f".{_FILES}/favicon.png",
            # By default, Swagger UI sends the address of the document to a validator on the internet.
            swagger_ui_parameters={"validatorUrl": None, "displayRequestDuration": True, "tryItOutEnabled": True},
        )
