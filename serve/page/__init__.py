"""A page to draw on, served by the same server. It is three files of ours and fetches nothing from elsewhere.

A page of our own, not Gradio: it works without internet, has labels for a keyboard and a screen reader, and adds no
dependency.
"""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response

FOLDER = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def add_page(app: FastAPI) -> None:
    """Serve the page at / and its script and style beside it."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(FOLDER / "index.html", headers=HEADERS)

    @app.get("/page/page.css", include_in_schema=False)
    async def style() -> Response:
        return FileResponse(FOLDER / "page.css", headers=HEADERS)

    @app.get("/page/page.js", include_in_schema=False)
    async def script() -> Response:
        return FileResponse(FOLDER / "page.js", media_type="text/javascript", headers=HEADERS)
