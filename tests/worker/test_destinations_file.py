"""The operator's file of destinations: what it may say, and one line for each way it can be wrong."""

import json
import re
from pathlib import Path

import pytest

from tests.support.dicom_objects import CERTIFICATES
from udig_recon.worker.access.destinations import DICOMwebDestination, DIMSEDestination, parse_destinations
from udig_recon.worker.settings import BadSetting, Settings, read_settings

WEB = {"kind": "dicomweb", "url": "https://pacs.example.org/dicom-web/", "tenants": ["default"]}
DIMSE = {"kind": "dimse", "host": "pacs.example.org", "port": 11112, "ae_title": "ARCHIVE", "tenants": ["*"]}
SECRET = "hush-hush"


def toml(name: str, table: dict[str, object]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())])


def test_a_file_names_archives_of_both_kinds_and_who_may_use_them() -> None:
    found = parse_destinations(f"{toml('radiology', WEB)}\n{toml('archive', DIMSE)}")
    web, dimse = found["radiology"], found["archive"]
    assert isinstance(web, DICOMwebDestination)
    assert isinstance(dimse, DIMSEDestination)
    assert (web.url, dimse.calling_ae_title) == ("https://pacs.example.org/dicom-web", "UDIG")
    assert (web.allows("default"), web.allows("another"), dimse.allows("another")) == (True, False, True)
    assert not web.identifiers
    assert parse_destinations("") == {}


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (WEB | {"kind": "ftp"}, 'kind: expected "dicomweb" or "dimse"'),
        ({"url": "https://a.test", "tenants": ["default"]}, 'kind: expected "dicomweb" or "dimse"'),
        ({"kind": "dicomweb", "url": "https://a.test"}, "tenants: Field required"),
        (WEB | {"tenants": []}, "tenants: List should have at least 1 item"),
        (WEB | {"tenants": ["A B"]}, 'tenants.0: expected the name of a tenant, or "*" for all'),
        (WEB | {"url": "pacs.example.org"}, "url: expected an http or https URL with a host"),
        (WEB | {"url": f"https://me:{SECRET}@a.test"}, "url: a user name or password does not belong here"),
        (WEB | {"url": "https://a.test:99999"}, "url: expected an http or https URL"),
        (WEB | {"url": "https://a.test/?a=1"}, "url: expected a URL without query and fragment"),
        (WEB | {"url": "https://a.test/x\ny"}, "url: expected printable ASCII letters without blanks"),
        (WEB | {"url": "https://ä.test/x"}, "url: expected printable ASCII letters without blanks"),
        (WEB | {"url": 5}, "url: should be a valid string"),
        (WEB | {"uri": SECRET}, "uri: there is no such option"),
        (WEB | {"identifiers": "yes"}, "identifiers: should be a valid boolean"),
        (WEB | {"timeout_seconds": 0}, "timeout_seconds: should be greater than 0"),
        (WEB | {"token_file": "token"}, "token_file: expected an absolute path"),
        (WEB | {"token_file": 5}, "token_file: expected an absolute path"),
        (WEB | {"token_file": "/nowhere/token"}, "token_file: cannot read /nowhere/token: No such file or directory"),
        (WEB | {"username": "me"}, "username and password_file go together"),
        (WEB | {"username": "", "password_file": "/dev/null"}, "username: String should have at least 1 character"),
        (WEB | {"ca_file": "/dev/null"}, "ca_file: /dev/null is empty"),
        (WEB | {"key_file": str(CERTIFICATES / "client.pem")}, "key_file needs certificate_file beside it"),
        (DIMSE | {"port": 70000}, "port: should be less than or equal to 65535"),
        (DIMSE | {"port": "104"}, "port: should be a valid integer"),
        (DIMSE | {"host": "http://a.test"}, "host: String should match pattern"),
        (DIMSE | {"ae_title": "A TITLE THAT IS TOO LONG"}, "ae_title: String should have at most 16 characters"),
        (DIMSE | {"host": "pacs\u0000"}, "host: String should match pattern"),
        (DIMSE | {"host": "ä.test"}, "host: String should match pattern"),
        (DIMSE | {"ae_title": " "}, "ae_title: String should have at least 1 character"),
        (DIMSE | {"calling_ae_title": "A\\B"}, "calling_ae_title: String should match pattern"),
        (DIMSE | {"ca_file": str(CERTIFICATES / "authority.pem")}, "certificates need tls = true"),
        (DIMSE | {"token_file": "/dev/null"}, "token_file: there is no such option"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_place_and_no_secret(table: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"[radiology] {error}")) as refused:
        parse_destinations(toml("radiology", table))
    told = str(refused.value)
    assert "\n" not in told
    assert SECRET not in told


def test_files_that_a_destination_names_must_be_what_they_should(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no certificate")
    authority, client = str(CERTIFICATES / "authority.pem"), str(CERTIFICATES / "client.pem")
    tls = DIMSE | {"tls": True}
    parse_destinations(toml("a", tls | {"ca_file": authority, "certificate_file": client}))
    with pytest.raises(ValueError, match=r"ca_file: .* holds no certificate in PEM form"):
        parse_destinations(toml("a", tls | {"ca_file": str(text)}))
    for wrong in ({"certificate_file": authority}, {"certificate_file": client, "key_file": authority}):
        with pytest.raises(ValueError, match=r"certificate_file: .* no pair in PEM form"):
            parse_destinations(toml("a", tls | wrong))
    both = {"token_file": str(text), "username": "me", "password_file": str(text)}
    with pytest.raises(ValueError, match="two ways to log in"):
        parse_destinations(toml("a", WEB | both))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[a", "this is no TOML: "),
        ('a = "b"', "a: expected a table for each destination"),
        ('["a b"]', "[a b]: a name has at most 63 letters"),
    ],
)
def test_a_file_that_is_no_list_of_archives_is_refused(text: str, error: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(error)):
        parse_destinations(text)


def test_the_service_does_not_start_with_a_mistake_and_shows_no_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "destinations.toml"
    monkeypatch.setenv("DESTINATIONS_FILE", str(file))
    with pytest.raises(BadSetting, match=r"^DESTINATIONS_FILE: No such file or directory$"):
        read_settings()
    file.write_text(toml("radiology", WEB | {"url": f"https://me:{SECRET}@a.test"}))
    with pytest.raises(BadSetting) as refused:
        read_settings()
    assert str(refused.value).startswith("DESTINATIONS: [radiology] url: a user name or password does not belong here")
    assert SECRET not in str(refused.value)
    file.write_text(toml("radiology", WEB))
    assert parse_destinations(read_settings().destinations or "").keys() == {"radiology"}
    assert Settings(destinations=None).destinations is None
