"""The socket of the service, opened before anything heavy is loaded."""

import socket

from linguarec.errors import SettingsError


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        SettingsError: the address is in use, or not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise SettingsError(
            [f"{host}:{port} cannot be listened on: {error.strerror}; choose another --port or --host"]
        ) from error
    found.listen(2_048)
    found.setblocking(False)
    found.set_inheritable(True)
    return found
