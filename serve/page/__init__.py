"""A page to draw on, served by the same server. Its files are ours and it fetches nothing from elsewhere.

A page of our own, not Gradio: it works without internet, has labels for a keyboard and a screen reader, and adds no
dependency.
"""

from pathlib import Path

from fastapi import FastAPI, HTTPException
from starlette.responses import FileResponse, Response

from vqlm.serve.page.tools import add_tools
from vqlm.serve.service import Service

FOLDER = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}


def add_page(app: FastAPI, service: Service) -> None:
    """Serve the page at /, its scripts and style below /page, and what they ask beyond OpenAI's API."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(FOLDER / "index.html", headers=HEADERS)

    @app.get("/page/files/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        known = {path.name: path for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}
        if name not in known:
            raise HTTPException(404, f"The page has no file {ascii(name[:80])}")
        return FileResponse(known[name], media_type=MEDIA_TYPES[known[name].suffix], headers=HEADERS)

    add_tools(app, service)
