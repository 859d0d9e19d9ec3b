"""The kinds of attack that there are on a server with TLS only. Like `tests.proof.attacks`."""

import socket

from tests.proof.siege import Kind, Siege, ask, job, read_to_the_end, tell
from tests.server.serving import Client
from tests.server.test_tls import NO_TLS

_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
_WORDS = len(NO_TLS) + 1


async def begin_a_handshake(_: Siege, client: Client) -> None:
    """And never go on."""
    await client.send(_HELLO)
    await read_to_the_end(client)


async def speak_no_tls(siege: Siege, client: Client) -> None:
    """Plain HTTP, and nothing."""
    token = siege.token("plain")
    await client.send(siege.in_turn("no tls", [*NO_TLS, tell(job(token))]))
    reply = await client.receive_rest()
    assert not reply.startswith(b"HTTP"), reply
    siege.told.unanswered.discard(token)
    siege.told.refused.add(token)  # whatever was said: nobody was let in


async def break_tls(siege: Siege, client: Client) -> None:
    """After a request in order, send what no key has made."""
    siege.expect(await client.request(ask("/health")), 200)
    await client.transport.send_all(b"\x17\x03\x03\x00\x20" + siege.chance.randbytes(64))
    await read_to_the_end(client)


async def leave_without_a_word(siege: Siege, client: Client) -> None:
    """Get an answer, and end the connection beneath TLS, without its closing."""
    siege.expect(await client.request(ask("/jobs?limit=3")), 200)
    client.transport.socket.shutdown(socket.SHUT_WR)
    await read_to_the_end(client)


WAYS_OF_TLS = [
    Kind(attack=begin_a_handshake, attackers=5, bare=True),
    Kind(attack=speak_no_tls, attackers=5, ways=_WORDS, bare=True),
    Kind(attack=break_tls, attackers=2),
    Kind(attack=leave_without_a_word, attackers=2),
]
