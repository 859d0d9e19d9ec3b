"""The front door: accepts connections and hands requests to an ASGI application.

It knows nothing of what the application does. Everything a client can do wrong, in one connection
or in ten thousand, ends here: the limits, the deadlines and the order of closing.
"""

from .addresses import AddressError, parse_address
from .body import Body
from .descriptors import raise_limit
from .front_door import serve
from .guard import parse_token, read_token
from .limits import Limits
from .problems import RefusedError
from .sockets import BindError, Listeners, bind_sockets
from .tls import load_certificate

__all__ = [
    "AddressError",
    "BindError",
    "Body",
    "Limits",
    "Listeners",
    "RefusedError",
    "bind_sockets",
    "load_certificate",
    "parse_address",
    "parse_token",
    "raise_limit",
    "read_token",
    "serve",
]
