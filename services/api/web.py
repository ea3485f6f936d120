"""/ and /web: the page, as files that need no building.

Nothing in them is from elsewhere, and the browser is told so: it runs and loads what this server
sends, and takes no text for HTML.
"""

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

from services.messages import digest

FOLDER = Path(__file__).parents[1] / "web"
INDEX = "index.html"
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def router() -> APIRouter:
    """The routes of the page; what they serve is read once."""
    routes = APIRouter(include_in_schema=False)
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in MEDIA}

    @routes.get("/")
    def page(request: Request) -> Response:
        return _answer(INDEX, files[INDEX], request)

    @routes.get("/web/{name}")
    def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name}")
        return _answer(name, files[name], request)

    return routes


def _answer(name: str, content: bytes, request: Request) -> Response:
    tag = f'"{digest(content)[:32]}"'
    headers = HEADERS | {"ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=MEDIA[Path(name).suffix])
