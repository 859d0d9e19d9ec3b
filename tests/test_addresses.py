"""What ``http.bind`` may say."""

import pytest

from trio_jobs.addresses import AddressError, TCPAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", TCPAddress(host="127.0.0.1", port=8080)),
        ("localhost:0", TCPAddress(host="localhost", port=0)),
        ("jobs.example.:65535", TCPAddress(host="jobs.example.", port=65535)),
        ("[::1]:8080", TCPAddress(host="::1", port=8080)),
        ("[::]:80", TCPAddress(host="::", port=80)),
        ("[fe80::1%eth0]:80", TCPAddress(host="fe80::1%eth0", port=80)),
        ("unix:/run/jobs.sock", UnixAddress(path="/run/jobs.sock")),
    ],
)
def test_an_address_is_understood_and_written_the_same(
    text: str, address: TCPAddress | UnixAddress
) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8765",
        ":8080",
        "localhost",
        "localhost:",
        "localhost:http",
        "localhost:65536",
        "localhost:-1",
        "localhost:+1",
        "localhost: 80",
        "localhost:80 ",
        "localhost:٨٠",
        "local host:80",
        "::1:8080",
        "[::1]",
        "[localhost]:80",
        "[]:80",
        "http://localhost:80",
        "fd://3",
        "unix:",
        "unix:jobs.sock",
        "unix:./jobs.sock",
        "unix:@jobs",
        "unix:/tmp/a\0b",
        "unix:/" + "x" * 107,
    ],
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)

    assert repr(text) in str(caught.value)
