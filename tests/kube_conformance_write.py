"""What the controller's writes rely on, against any API server: tests that other modules collect.

Each of those gives a fixture `cluster`: a client of one with the objects of the manifests, as
they are after the installation.
"""

import hashlib

from kubernetes.aio.client import ApiClient

from nodeagent.certs import x509
from nodeagent.kube import Api
from tests.certifying import ENTRIES, places


async def test_a_secret_is_read_as_it_was_written(cluster: ApiClient) -> None:
    secret = places(cluster, "one").secret
    content = await secret.read()
    assert await secret.write({"a": b"\x00\xff", "b": b""}, content.version)
    assert (await secret.read()).data == {"a": b"\x00\xff", "b": b""}
    assert await secret.write({"c": b"3"}, (await secret.read()).version)
    assert (await secret.read()).data == {"c": b"3"}


async def test_a_secret_that_changed_since_is_not_written(cluster: ApiClient) -> None:
    secret = places(cluster, "one").secret
    stale = await secret.read()
    assert await secret.write({"a": b"1"}, stale.version)
    assert not await secret.write({"a": b"2"}, stale.version)
    assert (await secret.read()).data == {"a": b"1"}


async def test_a_lease_is_one_replicas_until_it_is_given_back(cluster: ApiClient) -> None:
    one, two = (places(cluster, name).lease for name in ("one", "two"))
    async with one.held() as held_by_one:
        async with two.held() as held_by_two:
            assert (held_by_one, held_by_two) == (True, False)
        async with one.held() as again:
            assert again
    async with two.held() as is_held:
        assert is_held


async def test_a_lease_of_one_that_is_gone_can_be_taken_when_it_ran_out(
    cluster: ApiClient,
) -> None:
    one, two = (places(cluster, name).lease for name in ("one", "two"))
    one.seconds = 1
    async with one.held(), two.held() as at_once:
        assert not at_once
        two._seen_at -= 1  # noqa: SLF001 a second later, by its own clock
        async with two.held() as is_held:
            assert is_held


async def test_all_entries_get_the_bundle(cluster: ApiClient) -> None:
    configuration = places(cluster, "one").configuration
    for bundle in ("one\n", "two\n"):
        await configuration.trust(_pem(bundle))
        assert await configuration.bundles() == dict.fromkeys(ENTRIES, _pem(bundle))


async def test_nothing_but_the_bundle_changes(cluster: ApiClient) -> None:
    configuration = places(cluster, "one").configuration
    before = await Api(cluster).get(configuration.path)
    await configuration.trust(_pem("a"))
    after = await Api(cluster).get(configuration.path)
    for found in (before, after):
        found.pop("metadata")
        for hook in found["webhooks"]:
            hook["clientConfig"].pop("caBundle", None)
    assert after == before


def _pem(name: str) -> str:
    """Give some certificate: an API server looks into what it shall trust."""
    seed = hashlib.sha256(name.encode()).digest()
    return x509.authority(x509.Issuer("somebody", seed), 0, 4_000_000_000)
