"""`Sessions`: who has signed in on the page, in a signed cookie. The server keeps none of them."""

import binascii
import hmac
import secrets
import time
from collections.abc import Callable

# The fingerprint of the token that somebody has signed in with, and the session's end by the clock.
Session = tuple[bytes, float]


class Sessions:
    """Makes and reads the cookies of one server.

    A cookie is the fingerprint of a token, the end of the session by the clock, and the HMAC of
    both. By default its key is made here, so a restart signs everybody out. What the token may do
    is not in it: that is looked up at each request.

    Args:
        name: The cookie's name. Browsers share cookies among all ports of a host, so two servers
            with one name would sign each other's people out, unless they have the same keys.
        seconds: How long a session lasts.
        secure: Whether browsers send the cookie over TLS only. Over plain HTTP they would drop it.
        clock: In seconds, as for `Access.expires`.
        key_of: The key for the token with this fingerprint, None if there is no such token. None
            for one key, made here.
    """

    def __init__(
        self,
        name: str,
        *,
        seconds: int,
        secure: bool,
        clock: Callable[[], float] = time.monotonic,
        key_of: Callable[[bytes], bytes | None] | None = None,
    ) -> None:
        # Of such a cookie, browsers know that no other host has set it.
        self._name = f"__Host-{name}" if secure else name
        self._attributes = "Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
        self._seconds = seconds
        self._clock = clock
        key = secrets.token_bytes(32)
        self._key_of = key_of or (lambda _: key)

    def begin(self, fingerprint: bytes) -> str:
        """Begin a session; the ``Set-Cookie`` for it.

        Args:
            fingerprint: That of the token that somebody has signed in with.
        """
        signed = f"{fingerprint.hex()}.{self._clock() + self._seconds:.3f}"
        # A token that was taken back in this very step gives no session.
        signature = self._sign(signed.encode(), fingerprint) or b""
        value = f"{signed}.{signature.decode()}"
        return f"{self._name}={value}; Max-Age={self._seconds}; {self._attributes}"

    def end(self) -> str:
        """The ``Set-Cookie`` that has a browser forget its session."""
        return f"{self._name}=; Max-Age=0; {self._attributes}"

    def find(self, cookies: bytes) -> Session | None:
        """The session in a ``Cookie`` header.

        None if there is none, or if it is over. Other servers of this host may have set a cookie of
        the same name, so each of them is tried.
        """
        for cookie in cookies.split(b";"):
            name, _, value = cookie.strip().partition(b"=")
            if name == self._name.encode() and (session := self._read(value)) is not None:
                return session
        return None

    def _read(self, value: bytes) -> Session | None:
        signed, _, signature = value.rpartition(b".")
        try:
            fingerprint = binascii.unhexlify(signed.partition(b".")[0])
        except binascii.Error:
            return None
        wanted = self._sign(signed, fingerprint)
        if wanted is None or not hmac.compare_digest(wanted, signature):
            return None
        expires = float(signed.partition(b".")[2])
        return (fingerprint, expires) if self._clock() < expires else None

    def _sign(self, signed: bytes, fingerprint: bytes) -> bytes | None:
        key = self._key_of(fingerprint)
        return None if key is None else hmac.digest(key, signed, "sha256").hex().encode()
