"""The outcome of a request that raised: whose fault it is, and whether it is transient."""

import errno
import socket
import ssl

import aiohttp

from pipeline.fetch.addresses import AddressRefused
from pipeline.fetch.urls import UrlRefused
from pipeline.outcomes import Attempt

KEEP_ALIVE_S = 4.0
"""Seconds that an idle connection is kept open: fewer than servers keep theirs (Apache and Node: 5), so that few
requests meet a closing one, and few enough that idle connections do not use up this process's file descriptors."""


_NAME_NOT_FOUND = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


_LOCAL_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Errors that mean that this machine cannot open another connection."""


def outcome_of_error(error: Exception) -> Attempt:
    """Return the outcome of a request that raised `error`."""
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, AddressRefused):
            return Attempt("address_refused", detail=str(cause))
        if isinstance(cause, OSError) and not isinstance(cause, socket.gaierror) and cause.errno in _LOCAL_LIMITS:
            # there is room once the idle connections are closed
            return Attempt("out_of_files", detail=f"{cause.errno} {cause.strerror}", retry_after=KEEP_ALIVE_S)
    if isinstance(error, TimeoutError):
        return Attempt("timeout", detail="no whole answer in time")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.CertificateError):
        return Attempt("bad_certificate", detail=str(getattr(error, "certificate_error", error)))
    if isinstance(error, UrlRefused):
        return Attempt("url_refused", detail=str(error))
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | ValueError):
        return Attempt("url_refused", detail=type(error).__name__)  # its message is the URL
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _dns_outcome(error.os_error)
    if isinstance(error, aiohttp.ClientError | OSError):
        return Attempt("connection", detail=type(causes[-1] if len(causes) > 1 else error).__name__)
    return Attempt("unforeseen", detail=f"{type(error).__name__}: {error}")


def _causes(error: BaseException) -> list[BaseException]:
    """Return an exception and its chain of causes, the nearest first."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    return causes


def _dns_outcome(error: OSError) -> Attempt:
    """Return the outcome of a name without an address; where no name server answers, the name itself may be valid."""
    if isinstance(error, socket.gaierror) and error.errno not in _NAME_NOT_FOUND:
        return Attempt("connection", detail=f"name servers: {error.strerror}")
    return Attempt("unknown_host", detail="the name does not resolve")
