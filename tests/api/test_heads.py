"""What heads.py reads, h11 reads alike; so a request means the same whichever way it takes."""

import h11
import hypothesis
import hypothesis.strategies as st
import pytest

from perdure.api.heads import Head, read_head

HOST = b"Host: localhost\r\n"


def is_read_alike(data: bytes, head: Head) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head.text)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target, event.http_version) == (head.method, head.target, b"1.1")
    assert list(event.headers) == head.headers
    assert data.startswith(head.text)
    assert connection.trailing_data[0] == b""
    assert not connection.they_are_waiting_for_100_continue
    # The body ends where h11 says, and another request may follow.
    if head.body_bytes:
        assert connection.next_event() is h11.NEED_DATA
        if head.body_bytes < 100_000:
            connection.receive_data(b"x" * head.body_bytes)
            assert connection.next_event() == h11.Data(data=b"x" * head.body_bytes)
            assert isinstance(connection.next_event(), h11.EndOfMessage)
    else:
        assert isinstance(connection.next_event(), h11.EndOfMessage)
    assert connection.our_state is h11.SEND_RESPONSE


ORDINARY = [
    b"POST /entities/Order/o-1/add HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 12\r\n\r\n",
    b"GET /entities/Order/a%2Fb/state?timeout=3&x=%00 HTTP/1.1\r\n" + HOST + b"Accept: */*\r\n\r\n",
    b"DELETE /entities HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nConnection: keep-alive\r\nX-Empty:\r\n\r\n",
    b"PUT / HTTP/1.1\r\n" + HOST + b"X:\t a  b\t c \t\r\nAccept-Encoding: gzip, br\r\n\r\n",
    b"PATCH http://evil.example/entities HTTP/1.1\r\n" + HOST + b"X-Name: \xc3\xa9\xff\r\n\r\n",
]


@pytest.mark.parametrize("data", ORDINARY)
def test_ordinary_heads_are_read(data: bytes) -> None:
    head = read_head(data + b"the body")
    assert head is not None
    assert head.text == data
    is_read_alike(data, head)


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        HOST + HOST,
        HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n",
        HOST + b"Content-Length: 5, 5\r\n",
        HOST + b"Content-Length: +5\r\n",
        HOST + b"Content-Length: -5\r\n",
        HOST + b"Content-Length: 0x5\r\n",
        HOST + b"Content-Length: \xb2\r\n",
        HOST + b"Content-Length: " + b"9" * 19 + b"\r\n",
        HOST + b"Content-Length:\r\n",
        HOST + b"Transfer-Encoding: chunked\r\n",
        HOST + b"Connection: close\r\n",
        HOST + b"Connection: keep-alive, close\r\n",
        HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n",
        HOST + b"Upgrade: websocket\r\n",
        HOST + b"Expect: 100-continue\r\n",
        HOST + b"X: folded\r\n over two lines\r\n",
        HOST + b"X : y\r\n",
        HOST + b": y\r\n",
        HOST + b"X y: z\r\n",
        HOST + b"X: a\x00b\r\n",
        HOST + b"X: a\rb\r\n",
        HOST + b"X: a\nb: c\r\n",
        HOST + b"no colon\r\n",
        HOST + b"Transfer-Encoding\x00: chunked\r\n",
    ],
)
def test_whatever_bears_on_framing_or_is_wrong_is_left_to_h11(fields: bytes) -> None:
    assert read_head(b"POST / HTTP/1.1\r\n" + fields + b"\r\n") is None


@pytest.mark.parametrize(
    "line",
    [
        b"HEAD / HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT localhost:80 HTTP/1.1",
        b"post / HTTP/1.1",
        b"GET / HTTP/1.0",
        b"GET / HTTP/2.0",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET / x HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"\r\nGET / HTTP/1.1",
    ],
)
def test_other_lines_are_left_to_h11(line: bytes) -> None:
    assert read_head(line + b"\r\n" + HOST + b"\r\n") is None


@pytest.mark.parametrize("length", range(len(ORDINARY[0])))
def test_a_head_that_is_not_complete_is_none(length: int) -> None:
    assert read_head(ORDINARY[0][:length]) is None


def test_bare_line_feeds_are_left_to_h11() -> None:
    for data in ORDINARY:
        assert read_head(data.replace(b"\r\n", b"\n")) is None


DAMAGE = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b"\x00", b"\x0b", b"\x7f", b"\x85"),
    *(HOST, b"Content-Length: 3\r\n", b"Connection: close\r\n", b"Transfer-Encoding: chunked\r\n"),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A head with a few bytes inserted, replaced or removed."""
    data = bytearray(draw(st.sampled_from(ORDINARY)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        insert = draw(st.binary(max_size=3) | st.sampled_from(DAMAGE))
        data[at : at + draw(st.integers(0, 3))] = insert
    return bytes(data)


@hypothesis.given(damaged())
@hypothesis.settings(max_examples=500)
def test_what_is_read_h11_reads_alike(data: bytes) -> None:
    head = read_head(data)
    if head is not None:
        is_read_alike(data, head)


FIELD = st.tuples(
    st.sampled_from([b"Host", b"content-length", b"Connection", b"X", b"a!#$%&'*+-.^_`|~9", b"Expect"])
    | st.binary(min_size=1, max_size=3),
    st.binary(max_size=6) | st.sampled_from([b" 7", b"keep-alive", b" Keep-Alive\t", b"close", b"\xa05"]),
)


@hypothesis.given(st.lists(FIELD, max_size=4))
def test_whatever_the_fields_what_is_read_h11_reads_alike(fields: list[tuple[bytes, bytes]]) -> None:
    text = b"".join(b"%b:%b\r\n" % field for field in fields)
    data = b"GET /x HTTP/1.1\r\n" + HOST + text + b"\r\n"
    head = read_head(data)
    if head is not None:
        is_read_alike(data, head)


@pytest.mark.parametrize("filler", [b" ", b"\t", b"a", b": ", b"a:b\r\n", b"\xff"])
def test_a_hostile_head_takes_no_longer_than_its_length(filler: bytes) -> None:
    """The time limit of the test is the assertion: backtracking over a megabyte would take days."""
    text = b"GET /x HTTP/1.1\r\n" + HOST + b"X:" + filler * (1_000_000 // len(filler))
    assert read_head(text) is None
    assert read_head(text + b"\x00\r\n\r\n") is None
