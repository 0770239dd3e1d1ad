"""The addresses of the test cluster's machines, and of a second cluster beside it."""

import itertools

import pytest

from integration.cluster import ClusterError
from integration.cluster.network import CONTROL_PLANE, MAX_NODES, Lan, nodes, number_of


def test_machines_are_counted_from_the_control_plane_on() -> None:
    assert [number_of(name) for name in (CONTROL_PLANE, *nodes(MAX_NODES))] == [*range(10)]


@pytest.mark.parametrize("name", ["node0", "node10", "node12", "node", "1", "", "node1/.."])
def test_what_is_no_machine_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="there may be cp node1 node2"):
        number_of(name)


def test_no_two_machines_share_an_address_nor_pods_on_two_nodes() -> None:
    lans = [Lan(number) for number in range(10)]
    names = (CONTROL_PLANE, *nodes(MAX_NODES))
    addresses = [lan.address(name) for lan in lans for name in names] + [x.gateway for x in lans]
    assert len(set(addresses)) == len(addresses)
    ranges = [lan.pods(name) for lan in lans for name in nodes(MAX_NODES)]
    services = [lan.services for lan in lans]
    for one, other in itertools.combinations(ranges + services, 2):
        assert not one.overlaps(other)


def test_the_pods_of_every_node_are_in_the_clusters_range() -> None:
    assert all(Lan(3).pods(name).subnet_of(Lan(3).all_pods) for name in nodes(MAX_NODES))


def test_the_kernel_takes_the_names_of_links() -> None:
    assert all(len(Lan(9).link(name)) <= 15 for name in (CONTROL_PLANE, *nodes(MAX_NODES)))
