"""A receiver that does not answer delays its own tenant's webhooks, and nobody else's."""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tests.support.webhook_receiver import Receiver, receiving
from udig_recon.api.webhooks import delivery
from udig_recon.api.webhooks.delivery import MOST_AT_ONCE, WebhookDispatcher
from udig_recon.api.webhooks.url_guard import ForbiddenURL, check_url, is_allowed
from udig_recon.worker.database.tables import DeliveryState, Job, Status, WebhookDelivery
from udig_recon.worker.jobs.outbox import PLACES_OF_TENANT
from udig_recon.worker.jobs.webhook_outbox import WEBHOOKS
from udig_recon.worker.settings import Settings

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiB3ZWJob29rcw=="


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def silent() -> Iterator[str]:
    """URL of a receiver that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        yield f"http://127.0.0.2:{listener.getsockname()[1]}/hook"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_secret": SecretStr(SECRET), "webhook_allow_private": True})


def file(database: sessionmaker[Session], tenant: str, url: str, count: int) -> None:
    """So many ended jobs of the tenant that are to be told of."""
    row = {"tenant": tenant, "status": Status.CANCELLED, "parameters": {}, "outputs": [], "slices": [0], "seed": 0}
    with database.begin() as session:
        jobs = [Job(**row, tags={}, webhook_url=url) for _ in range(count)]
        session.add_all(jobs)
        session.flush()
        session.add_all(WebhookDelivery(job_id=job.id, tenant=tenant, url=url, event="job.cancelled") for job in jobs)


def taken(
    database: sessionmaker[Session], held: list[tuple[str, str]], places: int = MOST_AT_ONCE
) -> Counter[tuple[str, str]]:
    with database.begin() as session:
        return Counter((each.tenant, each.receiver) for each in WEBHOOKS.take(session, places, 60, held))


def test_a_host_has_few_places_and_a_tenant_some_and_others_find_room(database: sessionmaker[Session]) -> None:
    file(database, "a", "https://dead.example.org/x", 50)
    file(database, "a", "https://DEAD.example.org:8443/y?z", 50)
    for number in range(10):
        file(database, "a", f"https://other-{number}.example.org/", 3)
    file(database, "b", "https://dead.example.org/x", 1)
    first = taken(database, [])
    assert first["a", "dead.example.org"] == WEBHOOKS.places_of_receiver
    assert sum(count for (tenant, _), count in first.items() if tenant == "a") == PLACES_OF_TENANT
    assert first["b", "dead.example.org"] == 1
    held = [*first.elements()]
    assert not taken(database, held)
    held.remove(("a", "dead.example.org"))
    assert sum(taken(database, held).values()) == 1
    held = [each for each in held if each[1] != "dead.example.org"] + [
        ("a", "dead.example.org")
    ] * WEBHOOKS.places_of_receiver
    assert ("a", "dead.example.org") not in taken(database, held[1:])


def test_whoever_comes_new_finds_a_place_until_all_are_taken(database: sessionmaker[Session]) -> None:
    held: list[tuple[str, str]] = []
    for number in range(12):
        for host in range(4):
            file(database, f"tenant-{number}", f"https://host-{host}.example.org/", 4)
        if len(held) < 20:
            mine = taken(database, held, places=20)
            assert any(tenant == f"tenant-{number}" for tenant, _ in mine)
            held += mine.elements()
    assert len(held) == 20
    assert not taken(database, held, places=20)


def test_one_tenants_dead_receiver_keeps_no_other_tenant_waiting(
    settings: Settings, database: sessionmaker[Session], receiver: Receiver, silent: str
) -> None:
    settings = settings.model_copy(update={"webhook_poll_seconds": 0.02, "webhook_timeout_seconds": 300})
    file(database, "a", silent, 2 * MOST_AT_ONCE)

    async def deliver() -> None:
        running = asyncio.create_task(WebhookDispatcher(settings, database).run())
        try:
            async with asyncio.timeout(60):
                while sum(state["a"] for state in standing(database)) < WEBHOOKS.places_of_receiver:
                    await asyncio.sleep(0.05)
                file(database, "b", receiver.url, 1)
                while not receiver.heard:
                    await asyncio.sleep(0.05)
        finally:
            running.cancel()
            await asyncio.wait({running})

    asyncio.run(deliver())
    with database() as session:
        of_a = select(WebhookDelivery.state).join(Job).where(Job.tenant == "a")
        assert set(session.scalars(of_a)) == {DeliveryState.PENDING}


def standing(database: sessionmaker[Session]) -> list[Counter[str]]:
    """Tenants of what is tried now."""
    with database() as session:
        tried = select(Job.tenant).join(WebhookDelivery).where(WebhookDelivery.attempts > 0)
        return [Counter(session.scalars(tried))]


def test_a_host_that_did_not_answer_has_less_time_for_a_while_and_then_all_of_it() -> None:
    now = [0.0]
    timeouts = delivery.ReceiverTimeouts(15.0, lambda: now[0])
    dead, other = ("a", "dead.example.org"), ("b", "dead.example.org")
    timeouts.shorten(dead)
    assert timeouts.of(dead) == delivery.IMPATIENT_SECONDS
    assert timeouts.of(other) == 15.0
    now[0] += delivery.IMPATIENT_FOR_SECONDS + 1
    assert timeouts.of(dead) == 15.0
    timeouts.shorten(dead)
    timeouts.restore(dead)
    assert timeouts.of(dead) == 15.0


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("hooks.example.org", True),
        ("HOOKS.example.org.", True),
        ("a.inner.example.org", True),
        ("inner.example.org", False),
        ("example.org", False),
        ("hooks.example.org.evil.test", False),
        ("evilhooks.example.org", False),
    ],
)
def test_only_allowed_hosts_are_told(host: str, allowed: bool) -> None:
    hosts = Settings(webhook_allowed_hosts="hooks.example.org *.Inner.example.org").webhook_hosts
    assert hosts is not None
    assert is_allowed(host, hosts) == allowed
    if allowed:
        assert check_url(f"https://{host}/x", allow_private=False, allowed=hosts).host
    else:
        with pytest.raises(ForbiddenURL, match="WEBHOOK_ALLOWED_HOSTS"):
            check_url(f"https://{host}/x", allow_private=False, allowed=hosts)
