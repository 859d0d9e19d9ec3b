"""TLS: the certificate, and errors of clients."""

import ssl

from trio_jobs.bounded_read import check_regular

# In bytes; more than any chain of certificates has.
_MAX_BYTES = 2**20


def load_certificate(certfile: str, keyfile: str) -> ssl.SSLContext:
    """Make a TLS context of a server's certificate: TLS 1.2 and newer, HTTP/1.1 only.

    Raises:
        ValueError: The files cannot be read or do not belong together, or the
            key needs a password.
    """
    for what, file in (("certfile", certfile), ("keyfile", keyfile)):
        try:
            # From a device or an open pipe, OpenSSL would read for ever.
            check_regular(file, max_bytes=_MAX_BYTES)
        except OSError as error:
            raise ValueError(f"cannot use {what} {file!r}: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Tells clients that this server does not speak HTTP/2.
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certfile, keyfile, password=_no_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"cannot use certfile {certfile!r} with keyfile {keyfile!r}: {reason}"
        ) from None
    return context


def tls_failure(error: BaseException | None) -> str | None:
    """The TLS fault that ended a connection; None if the client only disconnected."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            disconnected = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            return None if disconnected else error.reason or type(error).__name__
        error = error.__cause__ or error.__context__
    return None


def _no_password() -> str:
    # Without this, OpenSSL asks on the terminal, and a server under a service manager hangs.
    raise ValueError("the key is protected by a password")
