"""Hosts that are cut off are noticed by both sides within seconds, and the queue is tried again as soon."""

import socket
import sys
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from psycopg.conninfo import conninfo_to_dict

from udig_recon.api.database.notifications import NotificationListener
from udig_recon.worker.database import timeouts
from udig_recon.worker.database.engine import CONNECT_OPTIONS
from udig_recon.worker.jobs import queue
from udig_recon.worker.settings import Settings

FOUND_OUT_SECONDS = 15
NOWHERE = Settings(redis_url="redis://127.0.0.1:1/0")


def test_every_connection_to_postgres_finds_out_that_the_other_side_is_gone() -> None:
    listening = conninfo_to_dict(NotificationListener("postgresql://user@host/name")._conninfo)
    for given in (CONNECT_OPTIONS, {**CONNECT_OPTIONS, **timeouts.OPTIONS}, listening):
        idle, interval, count = (int(given[f"keepalives_{name}"]) for name in ("idle", "interval", "count"))
        assert idle + count * interval <= FOUND_OUT_SECONDS
        assert int(given["tcp_user_timeout"]) <= 1000 * FOUND_OUT_SECONDS
        assert timeouts.FINDS_DEAD in str(given["options"])


def test_the_connection_to_the_queue_finds_it_out_too() -> None:
    app = queue.make_celery(NOWHERE)
    told = app.conf.broker_transport_options
    assert told["socket_timeout"] <= FOUND_OUT_SECONDS
    assert told["socket_keepalive_options"] == queue.FOUND_DEAD
    if sys.platform == "linux":
        assert queue.FOUND_DEAD[socket.TCP_USER_TIMEOUT] <= 1000 * FOUND_OUT_SECONDS
    app.close()


def test_a_queue_that_is_away_is_tried_again_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: None)
    app = queue.make_celery(NOWHERE)

    def note(_: Any, pause: float) -> None:
        pauses.append(pause)

    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(note, 6)
    assert len(pauses) == 6
    assert max(pauses) == queue.MOST_PAUSE_SECONDS
    app.close()
