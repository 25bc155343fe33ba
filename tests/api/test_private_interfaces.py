"""Private interfaces of h11 and uvicorn that the server relies on. An update that changes one fails here first."""

import asyncio

import h11
import uvicorn
from h11._readers import ChunkedReader
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_h11_reads_a_chunked_body_by_a_reader_that_can_be_replaced_and_knows_of_its_trailers() -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(REQUEST)
    assert isinstance(connection.next_event(), h11.Request)
    assert type(connection._reader) is ChunkedReader
    assert connection._reader._reading_trailer is False
    connection.receive_data(b"1\r\nx\r\n0\r\nA: b\r\n")
    assert isinstance(connection.next_event(), h11.Data)
    assert connection.next_event() is h11.NEED_DATA
    assert connection._reader._reading_trailer is True


def test_uvicorn_has_the_parts_of_a_connection_that_are_replaced_or_asked() -> None:
    protocol = H11Protocol(uvicorn.Config(lambda: None), ServerState(), {}, asyncio.new_event_loop())
    protocol.loop.close()
    assert isinstance(protocol.conn, h11.Connection)
    for name in ("app", "connections", "cycle", "flow", "loop", "transport"):
        assert hasattr(protocol, name), name
    for method in ("connection_made", "connection_lost", "data_received", "handle_events", "send_400_response"):
        assert callable(getattr(protocol, method)), method


def test_uvicorns_flow_control_says_whether_reading_is_paused() -> None:
    class Transport(asyncio.Transport):
        paused = False

        def pause_reading(self) -> None:
            self.paused = True

        def resume_reading(self) -> None:
            self.paused = False

    transport = Transport()
    flow = FlowControl(transport)
    flow.pause_reading()
    assert (flow.read_paused, transport.paused, flow._transport) == (True, True, transport)
    flow.resume_reading()
    assert (flow.read_paused, transport.paused) == (False, False)
