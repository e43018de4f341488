"""Who may ask: the host that a request is for, the page it comes from, the key it brings."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping

from moee_index.errors import MoeeIndexError
from moee_index.serve.errors import HostRefusedError, KeyRefusedError, OriginRefusedError
from moee_index.serve.settings import Access, is_loopback
from moee_index.text import shown

# Asked by what looks after processes, which knows neither names nor keys.
PROBES = frozenset({"/livez", "/readyz", "/health"})
# The pages themselves hold nothing secret: they ask for the key.
_PAGE = ("/page/",)
_PAGE_PATHS = frozenset({"/", "/docs"})


def check_request(access: Access, path: str, headers: Mapping[str, str]) -> None:
    """Raises HostRefusedError, OriginRefusedError or KeyRefusedError. headers: names in lower
    case."""
    if path in PROBES:
        return
    host = headers.get("host", "").lower()
    _check_host(access, host)
    if (origin := headers.get("origin")) is not None:
        _check_origin(access, origin.lower(), host)
    if path not in _PAGE_PATHS and not path.startswith(_PAGE):
        _check_key(access, headers.get("authorization", ""))


def _check_host(access: Access, host: str) -> None:
    """A page of another site can make its own name mean this machine, but not send another name
    than its own."""
    name = _without_port(host)
    if is_loopback(name) or name in access.hosts or host in access.hosts:
        return
    if access.any_address and _is_address(name):
        return
    raise HostRefusedError(
        f"this server is not known as {shown(name)!r}; start it with --allowed-host NAME if it is"
    )


def _check_origin(access: Access, origin: str, host: str) -> None:
    own = origin.partition("://")[2] == host
    if not own and not is_allowed_origin(access, origin):
        raise OriginRefusedError(
            f"pages of {shown(origin)!r} may not ask; start the server with --cors-origin if they "
            "may"
        )


def is_allowed_origin(access: Access, origin: str) -> bool:
    """Whether pages of another site may ask."""
    return origin.lower() in access.origins


def _check_key(access: Access, authorization: str) -> None:
    if not access.keys:
        return
    scheme, _, key = authorization.partition(" ")
    given = key.strip().encode("utf-8", "replace")
    # All are compared, each in constant time: how long it takes tells nothing.
    known = [hmac.compare_digest(given, each) for each in access.keys]
    if scheme.lower() != "bearer" or not any(known):
        what = "is not known" if authorization else "is missing"
        raise KeyRefusedError(f"the API key {what}; send it as Authorization: Bearer KEY")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def refusal(access: Access, path: str, headers: Mapping[str, str]) -> MoeeIndexError | None:
    """Why a request is refused; None where it is not."""
    try:
        check_request(access, path, headers)
    except MoeeIndexError as error:
        return error
    return None
