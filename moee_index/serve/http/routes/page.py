"""The page for people: files that are shipped, under names that are known."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from moee_index.serve.errors import UnknownNameError
from moee_index.serve.page.files import page_files
from moee_index.text import shown

router = APIRouter(include_in_schema=False)


@router.get("/")
async def start(request: Request) -> Response:
    """The page itself; what it shows stands behind the `#` of its address, which no server sees."""
    return _answer(request, "index.html")


@router.get("/page/{name}")
async def one_file(name: str, request: Request) -> Response:
    """A file that the page is made of."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    file = page_files().get(name)
    if file is None:
        raise UnknownNameError(f"the page has no file {shown(name)!r}")
    if request.headers.get("if-none-match") == file.headers["etag"]:
        return Response(status_code=304, headers=file.headers)
    return Response(file.content, headers=file.headers)
