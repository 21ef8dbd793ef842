"""The store in etcd by itself: certificates, users, and what is said when they are wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbagent.cluster.members import Member
from lbagent.errors import StoreError
from tests.lab.certificates import Authority
from tests.lab.etcd import OneEtcd
from tests.lab.etcd_store import CLOSED, USER, Wakes, read, wakes_with_a_swap


@pytest.fixture
def secure(folder: Path) -> Iterator[tuple[OneEtcd, Authority, dict[str, str]]]:
    """An etcd that asks for certificates, its authority, and what makes it answer."""
    authority = Authority(folder)
    cert, key = authority.certificate("etcd", "subjectAltName=IP:127.0.0.1")
    mine, my_key = authority.certificate("agent", "extendedKeyUsage=clientAuth")
    asked = ("--cert-file", cert, "--key-file", key, "--trusted-ca-file", authority.ca, "--client-cert-auth")
    one = OneEtcd(folder, *asked, scheme="https")
    one.client_options = ("--cacert", authority.ca, "--cert", mine, "--key", my_key)
    try:
        yield one.start(), authority, {"ca": authority.ca, "cert": mine, "key": my_key}
    finally:
        one.kill()


async def test_with_certificates_all_works(secure, make_store):
    etcd, _, good = secure
    one = make_store(etcd.port, scheme="https", **good)
    other = make_store(etcd.port, scheme="https", node="ctl2", **good)
    assert await read(one) is None
    await wakes_with_a_swap(one, other)
    await one.report(Member(node="ctl1"), ())
    await one.renew()
    assert (await other.look()).alive == {"ctl1"}


async def test_with_wrong_certificates_the_key_of_the_configuration_is_named(secure, make_store):
    etcd, authority, good = secure
    stranger = Authority(authority.folder, "stranger")
    cert, key = stranger.certificate("stranger-agent", "extendedKeyUsage=clientAuth")
    for scheme, change, named in (
        ("https", {"ca": stranger.ca}, "its certificate is not signed by store.etcd.ca"),
        ("https", {"ca": None}, "its certificate is not signed by store.etcd.ca"),
        ("https", {"cert": None, "key": None}, "store.etcd.cert and key"),
        ("https", {"cert": cert, "key": key}, "store.etcd.cert and key"),
        ("https", {"key": key}, "store.etcd.key is not the key of store.etcd.cert"),
        ("https", {"ca": "/nowhere"}, "store.etcd.ca: no such file"),
        ("https", {"cert": "/nowhere"}, "store.etcd.cert: no such file"),
        ("https", {"key": "/nowhere"}, "store.etcd.key: no such file"),
        ("https", {"ca": good["key"]}, "store.etcd.ca holds no certificate"),
        ("http", {"ca": None, "cert": None, "key": None}, "store.etcd.endpoints"),
    ):
        with pytest.raises(StoreError) as failed:
            await make_store(etcd.port, scheme=scheme, **{**good, **change}).look()
        assert "etcd cannot be used: " in failed.value.message
        assert named in failed.value.message, change


async def test_a_ca_without_key_usage_is_named_where_python_asks_for_it(secure, make_store):
    """openssl req -x509 leaves it out. Python 3.13 refuses such a CA, though it has signed the certificate."""
    etcd, authority, good = secure
    etcd.kill()
    old = Authority(authority.folder, "old", key_usage=False)
    cert, key = old.certificate("etcd-of-old", "subjectAltName=IP:127.0.0.1")
    etcd.options = ("--cert-file", cert, "--key-file", key)
    etcd.client_options = ("--cacert", old.ca)
    etcd.start()
    store = make_store(etcd.port, scheme="https", ca=old.ca)
    if sys.version_info < (3, 13):
        assert await read(store) is None
        return
    with pytest.raises(StoreError, match=r"store\.etcd\.ca lacks the extension keyUsage"):
        await store.look()
    with pytest.raises(StoreError, match=r"its certificate is not signed by store\.etcd\.ca$"):
        await make_store(etcd.port, scheme="https", ca=good["ca"]).look()


async def test_https_where_http_is_served_is_named(etcd, make_store):
    with pytest.raises(StoreError, match=r"speak TLS.*store\.etcd\.endpoints"):
        await make_store(etcd.port, scheme="https").look()


async def test_a_certificate_for_another_name_is_named(
    secure,
    make_store,
):
    etcd, authority, good = secure
    etcd.kill()
    cert, key = authority.certificate("elsewhere", "subjectAltName=DNS:elsewhere")
    etcd.options = ("--cert-file", cert, "--key-file", key)
    etcd.client_options = ("--insecure-skip-tls-verify", "--insecure-transport=false")
    etcd.start()
    with pytest.raises(StoreError, match=r"its certificate is not for this name: see store\.etcd\.endpoints"):
        await make_store(etcd.port, scheme="https", ca=good["ca"]).look()


async def test_a_user_with_nothing_but_the_prefix_can_do_it_all(etcd, make_store):
    etcd.create_user()
    one = make_store(etcd.port, **USER)
    other = make_store(etcd.port, **USER, node="ctl2")
    assert await read(one) is None
    await wakes_with_a_swap(one, other)
    await one.report(Member(node="ctl1"), ("nova/ctl1",))
    await one.renew()
    assert (await other.look()).alive == {"ctl1"}
    await one.swap((await read(one)).revision, CLOSED, healthy=True)
    one._lease._renewed = 0.0
    await one.renew()
    await other.forget("ctl1")
    assert not (await other.look()).members


async def test_a_token_that_has_ended_is_asked_for_anew(etcd, make_store):
    """etcd forgets simple tokens with a restart: reads, swaps, leases and the watch go on."""
    etcd.create_user()
    one = make_store(etcd.port, **USER)
    other = make_store(etcd.port, **USER, node="ctl2")
    async with Wakes(one) as wakes:
        assert await read(one) is None
        etcd.restart()
        assert await read(one) is None
        await one.renew()
        await one.swap(0, CLOSED)
        await wakes.quiet()
        await wakes.with_a_swap(other)


async def test_the_password_may_lie_in_a_file_that_changes(etcd, make_store, folder):
    etcd.create_user()
    file = folder / "password"
    file.write_text("wrong\n")
    store = make_store(etcd.port, user="lbagent", password_file=str(file))
    for user, password in (("lbagent", "wrong"), ("nobody", "secret")):
        with pytest.raises(StoreError, match=r"it does not know store\.etcd\.user with this password"):
            await make_store(etcd.port, user=user, password=password).look()
    with pytest.raises(StoreError, match="with this password"):
        await store.look()
    file.write_text("secret\n")
    assert await read(store) is None
    file.unlink()
    with pytest.raises(StoreError, match=r"store\.etcd\.password_file cannot be read: .*No such file"):
        await make_store(etcd.port, user="lbagent", password_file=str(file)).look()


async def test_no_user_or_one_without_the_role_is_said(etcd, make_store):
    etcd.create_user()
    with pytest.raises(StoreError, match=r"it asks who this is: store\.etcd\.user"):
        await make_store(etcd.port).look()
    with pytest.raises(StoreError, match=r"may not read and write below store\.etcd\.prefix"):
        await make_store(etcd.port, **USER, prefix="/elsewhere").look()
    etcd.ctl("role", "revoke-permission", "lbagent", "--prefix=true", "/lbagent/")
    etcd.ctl("role", "grant-permission", "lbagent", "read", "--prefix=true", "/lbagent/")
    store = make_store(etcd.port, **USER)
    assert await read(store) is None
    with pytest.raises(StoreError, match=r"may not read and write below store\.etcd\.prefix"):
        await store.swap(0, CLOSED)


async def test_users_are_configured_before_etcd_asks_for_them_and_after(etcd, make_store):
    store = make_store(etcd.port, **USER)
    assert await read(store) is None
    await store.swap(0, CLOSED)
    etcd.create_user()
    assert (await read(store)).revision == 1
    await store.swap(1, CLOSED)
    etcd.ctl("auth", "disable")
    assert (await read(store)).revision == 2
    await store.swap(2, CLOSED)
