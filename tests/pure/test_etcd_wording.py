"""What is said when etcd cannot be used: the true reason, and the key of the configuration to look at."""

import pytest

from lbagent.store.etcd.wording import no_answer, reason

FAILED = (
    "HTTPSConnectionPool(host='127.0.0.1', port=2379): Max retries exceeded with url: /version (Caused by "
    "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {} "
    "(_ssl.c:1020)')))"
)


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("CA cert does not include key usage extension", "store.etcd.ca lacks the extension keyUsage"),
        ("Missing Authority Key Identifier", "its certificate lacks the extension authorityKeyIdentifier"),
        ("Missing Subject Key Identifier", "store.etcd.ca lacks the extension subjectKeyIdentifier"),
        ("Basic Constraints of CA cert not marked critical", "store.etcd.ca has no basicConstraints"),
        ("unable to get local issuer certificate", "its certificate is not signed by store.etcd.ca"),
        ("self-signed certificate in certificate chain", "its certificate is not signed by store.etcd.ca"),
        ("certificate has expired", "its certificate has expired"),
        ("certificate is not yet valid", "do the clocks agree?"),
        ("IP address mismatch, certificate is not valid for '127.0.0.1'.", "not for this name: see store.etcd.endp"),
        ("unsuitable certificate purpose", "is not accepted: unsuitable certificate purpose"),
    ],
)
def test_a_certificate_that_is_not_accepted(said: str, means: str) -> None:
    assert means in reason(FAILED.format(said))


def test_only_the_issuer_is_called_not_signed() -> None:
    """Python 3.13 refuses a CA without keyUsage: its certificates were signed by it all the same."""
    assert "not signed" not in reason(FAILED.format("CA cert does not include key usage extension"))


@pytest.mark.parametrize("said", ["", "x" * 500, "{", "[1]", '{"error": 5}', '{"message": "etcdserver: no space"}'])
def test_what_is_not_known_is_passed_on_in_bounds(said: str) -> None:
    assert len(reason(said)) <= 200
    assert "etcdserver: " not in reason(said)


def test_one_trouble_of_several_members_is_said_once() -> None:
    failed = {"http://a:1": "connection refused", "http://b:1": "connection refused", "http://c:1": "no route to host"}
    assert (
        no_answer(failed)
        == "etcd cannot be used: http://a:1, http://b:1: connection refused; http://c:1: no route to host"
    )
