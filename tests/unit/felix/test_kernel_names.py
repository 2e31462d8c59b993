"""Names of kernel objects at the longest input that CNI allows."""

from __future__ import annotations

from ipaddress import ip_address

from felix.kernel.names import ALIAS_MAX, INTERFACE_NAME_MAX, PodMark, parse_mark, pod_interface

CONTAINER = "c" * 128
IFNAME = "e" * 15
INODE_MAX = 2**64 - 1


def test_an_interface_name_fits_whatever_the_container_is_called() -> None:
    assert len(pod_interface(CONTAINER, IFNAME)) <= INTERFACE_NAME_MAX


def test_the_longest_mark_fits_an_alias_and_is_read_back_whole() -> None:
    longest = PodMark(
        container_id=CONTAINER,
        ifname=IFNAME,
        netns=(2**32 - 1, INODE_MAX),
        addresses=(ip_address("255.255.255.255"), ip_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
    )
    assert len(str(longest)) <= ALIAS_MAX
    assert parse_mark(str(longest)) == longest


def test_two_interfaces_of_one_container_have_two_names() -> None:
    assert pod_interface("a", "eth0") != pod_interface("a", "eth1") != pod_interface("ae", "th1")
