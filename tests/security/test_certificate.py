"""When certificates begin and end, read from their files."""

from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.runtime.expiry import Lifetime
from hierarchy.security.certificate import lifetime_of, lifetimes

CA = trustme.CA()


def certificate(begins: datetime, ends: datetime) -> bytes:
    return CA.issue_cert("127.0.0.1", not_before=begins, not_after=ends).cert_chain_pems[0].bytes()


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        (datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (datetime(1999, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_the_times_of_a_certificate(begins: datetime, ends: datetime) -> None:
    (found,) = lifetimes(certificate(begins, ends).decode())
    assert found == Lifetime(begins.timestamp(), ends.timestamp())


def test_the_same_times_as_openssl_reads(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(file)
    context = ssl.create_default_context(cafile=file)
    (listed,) = context.get_ca_certs()
    (found,) = lifetimes(file.read_text())
    assert found.begins == ssl.cert_time_to_seconds(str(listed["notBefore"]))
    assert found.ends == ssl.cert_time_to_seconds(str(listed["notAfter"]))


def test_all_certificates_of_a_file_and_nothing_else() -> None:
    first = certificate(datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)).decode()
    second = certificate(datetime(2022, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC)).decode()
    broken = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"
    key = CA.issue_cert("x").private_key_pem.bytes().decode()
    found = lifetimes(f"# a comment\n{first}{broken}{key}\r\n{second}")
    assert [datetime.fromtimestamp(one.begins, UTC).year for one in found] == [2020, 2022]
    assert lifetimes("") == []


@given(st.binary(max_size=300))
def test_other_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"certificate|time|ascii"):
        lifetime_of(data)


@given(st.data())
def test_a_damaged_certificate_is_read_or_an_error(data: st.DataObject) -> None:
    der = ssl.PEM_cert_to_DER_cert(CA.cert_pem.bytes().decode())
    place = data.draw(st.integers(0, len(der) - 1))
    damaged = der[:place] + data.draw(st.binary(max_size=4)) + der[place + data.draw(st.integers(0, 4)) :]
    with contextlib.suppress(ValueError):
        assert isinstance(lifetime_of(damaged), Lifetime)
