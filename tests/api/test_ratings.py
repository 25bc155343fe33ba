"""Ratings in lists of jobs: with their reasons, as a filter, and of jobs that older versions finished."""

from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from tests.support.fake_worker import Drive
from udig_recon.core.quality.rating import Rating
from udig_recon.worker.jobs.ratings import rate_ended

GOOD, UNRATED = Rating("good", ("within limits",)), Rating("unrated", ("no held-out measurements",))
CHECK, POOR = Rating("check", ("the data are noisy",)), Rating("poor", ("it does not fit",))


def post(client: TestClient, scan: dict[str, Any]) -> dict[str, Any]:
    body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}
    job: dict[str, Any] = client.post("/v1/jobs", json=body).json()
    return job


def rated(client: TestClient, drive: Drive, scan: dict[str, Any], *ratings: Rating | None) -> str:
    job = post(client, scan)
    for number, rating in enumerate(ratings):
        drive.finish(drive.claim(job, number), rating=rating)
    return str(job["id"])


def listed(client: TestClient, **query: str) -> list[tuple[str, Any]]:
    answer = client.get("/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [(each["id"], each["quality"]) for each in answer.json()["items"]]


def test_lists_tell_the_worst_rating_of_the_slices_and_its_reasons(
    client: TestClient, drive: Drive, scan: dict[str, Any]
) -> None:
    open_job = post(client, scan)["id"]
    good = rated(client, drive, scan, GOOD, GOOD)
    check = rated(client, drive, scan, CHECK, GOOD)
    poor = rated(client, drive, scan, CHECK, POOR)
    of_good = {"rating": "good", "reasons": ["2 of 2 slices are good"]}
    of_check = {"rating": "check", "reasons": ["slice 0: the data are noisy"]}
    of_poor = {"rating": "poor", "reasons": ["slice 1: it does not fit"]}
    assert listed(client) == [(poor, of_poor), (check, of_check), (good, of_good), (open_job, None)]
    for job_id, quality in listed(client):
        assert client.get(f"/v1/jobs/{job_id}").json()["quality"] == quality


def test_a_rating_filters_the_list_page_by_page(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    checks = [rated(client, drive, scan, each, GOOD) for each in (CHECK, GOOD, CHECK)]
    assert [job_id for job_id, _ in listed(client, rating="check")] == [checks[2], checks[0]]
    first = client.get("/v1/jobs", params={"rating": "check", "limit": 1}).json()
    rest = client.get("/v1/jobs", params={"rating": "check", "limit": 1, "cursor": first["next_cursor"]}).json()
    assert [each["id"] for each in first["items"] + rest["items"]] == [checks[2], checks[0]]
    assert rest["next_cursor"] is None
    assert listed(client, rating="poor") == []
    refused = client.get("/v1/jobs", params={"rating": "bad"})
    assert refused.status_code == 422
    assert "'good', 'unrated', 'check' or 'poor'" in refused.text


def test_jobs_that_older_versions_finished_are_rated_by_a_worker(
    client: TestClient, drive: Drive, scan: dict[str, Any], database: sessionmaker[Session]
) -> None:
    check, never = rated(client, drive, scan, CHECK, GOOD), rated(client, drive, scan, None, None)
    failed = post(client, scan)
    drive.fail(failed)
    with database.begin() as session:
        session.execute(text("UPDATE jobs SET rating = NULL"))
    assert listed(client, rating="check") == []
    assert rate_ended(database) == 2
    assert rate_ended(database) == 0
    assert [job_id for job_id, _ in listed(client, rating="check")] == [check]
    ((job_id, quality),) = listed(client, rating="unrated")
    assert (job_id, quality["reasons"]) == (never, ["the version that made it rated no slices"])
    assert client.get(failed["links"]["self"]).json()["quality"] is None
