"""What every Store promises, held against the fake and against a real API server by one body of tests."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from crds import credentials
from crds.bgp_kinds import BGPPeer, BGPPeerSpec
from crds.core import Namespace, Pod, Secret
from crds.errors import AlreadyExists, ApiError, BadObject, Conflict, Gone, Invalid, NotFound
from crds.fake_store import FakeStore
from crds.http_store import HttpStore
from crds.kube_store import KubeStore
from crds.meta import Condition, ObjectMeta, Status
from crds.names import block_name
from crds.pools import IPPool, IPPoolSpec
from crds.store import Added, Bookmark, Deleted, Modified, Store

FINALIZER = "tortie.test/keep"


class World:
    """A store, and names in it that no other test uses."""

    def __init__(self, store: Store, prefix: str, *, kubectl: Callable[..., str] | None = None) -> None:
        self.store = store
        self.kubectl = kubectl
        self.prefix = prefix
        self.label = f"test={prefix}"
        self._made = 0

    def pool(self, **meta: Any) -> IPPool:
        """A pool that is not stored yet. The fake has no overlap rule, neither has the API server."""
        self._made += 1
        name = f"{self.prefix}-{self._made}"
        labels = {"test": self.prefix} | meta.pop("labels", {})
        return IPPool(metadata=ObjectMeta(name=name, labels=labels, **meta), spec=IPPoolSpec(cidr="10.0.0.0/16"))

    async def version(self) -> str:
        return (await self.store.list(IPPool)).resource_version


class Threaded:
    """The synchronous KubeStore behind the same async verbs."""

    def __init__(self, store: KubeStore) -> None:
        self._store = store

    def __getattr__(self, verb: str) -> Any:
        return functools.partial(asyncio.to_thread, getattr(self._store, verb))

    async def watch(self, kind: type[IPPool], **how: Any) -> AsyncIterator[Any]:
        events = self._store.watch(kind, **how)
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            yield event


REAL = pytest.mark.cluster_api


@pytest.fixture(params=["fake", pytest.param("http", marks=REAL), pytest.param("kube", marks=REAL)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        yield World(FakeStore(), "p")
        return
    api = request.getfixturevalue("api")
    async with HttpStore(credentials.from_kubeconfig(api.kubeconfig), page=3) as http:
        store: Any = http if request.param == "http" else Threaded(KubeStore(kubeconfig=api.kubeconfig))
        made = World(store, api.unique("store"), kubectl=api.kubectl)
        yield made
        for pool in (await http.list(IPPool, labels=made.label)).items:
            await http.patch(IPPool, pool.name, {"metadata": {"finalizers": None}})
            if not pool.deleting:
                await http.delete(IPPool, pool.name)


def changed(pool: IPPool, **spec: Any) -> IPPool:
    return msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, **spec))


def with_meta(pool: IPPool, **meta: Any) -> IPPool:
    return msgspec.structs.replace(pool, metadata=msgspec.structs.replace(pool.metadata, **meta))


async def next_event(stream: AsyncIterator[Any]) -> Any:
    """The next event that is not a bookmark."""
    async with asyncio.timeout(10):
        while True:
            event = await anext(stream)
            if not isinstance(event, Bookmark):
                return event


async def test_what_was_created_can_be_read(world: World) -> None:
    stored = await world.store.create(world.pool())
    assert stored.metadata.uid
    assert stored.metadata.resource_version
    assert stored.metadata.generation == 1
    assert await world.store.get(IPPool, stored.name) == stored


async def test_a_status_is_not_created_with_its_object(world: World) -> None:
    status = Status(conditions=(Condition(type="Allocatable", status="True"),))
    stored = await world.store.create(msgspec.structs.replace(world.pool(), status=status))
    assert stored.status is None


async def test_what_was_left_out_is_filled_in(world: World) -> None:
    name = f"{world.prefix}-peer"
    peer = BGPPeer(metadata=ObjectMeta(name=name), spec=BGPPeerSpec(peer_ip="192.0.2.1", as_number=65001))
    assert (await world.store.create(peer)).spec.source_address == "UseNodeIP"
    patched = await world.store.patch(BGPPeer, name, {"spec": {"sourceAddress": None}})
    assert patched.spec.source_address == "UseNodeIP"
    assert patched.metadata.generation == 1
    await world.store.delete(BGPPeer, name)


async def test_a_name_is_taken_once(world: World) -> None:
    stored = await world.store.create(world.pool())
    with pytest.raises(AlreadyExists):
        await world.store.create(with_meta(world.pool(), name=stored.name))


async def test_create_refuses_a_resource_version(world: World) -> None:
    with pytest.raises(ApiError) as refusal:
        await world.store.create(world.pool(resource_version="1"))
    assert refusal.value.status in (400, 409, 500)


async def test_what_is_absent_is_not_found_by_any_verb(world: World) -> None:
    store, absent = world.store, world.pool(resource_version="1", uid="6a1b8f3e-0000-4000-8000-000000000000")
    with pytest.raises(NotFound):
        await store.get(IPPool, absent.name)
    with pytest.raises(NotFound):
        await store.delete(IPPool, absent.name)
    with pytest.raises(NotFound):
        await store.patch(IPPool, absent.name, {"spec": {"disabled": True}})


async def test_replace_needs_the_version_that_was_read(world: World) -> None:
    first = await world.store.create(world.pool())
    second = await world.store.replace(changed(first, disabled=True))
    assert second.spec.disabled
    assert second.metadata.resource_version != first.metadata.resource_version
    assert second.metadata.generation == 2
    with pytest.raises(Conflict):
        await world.store.replace(changed(first, nat_outgoing=True))


async def test_replace_without_a_version_is_refused(world: World) -> None:
    stored = await world.store.create(world.pool())
    with pytest.raises(BadObject, match=r"metadata\.resourceVersion"):
        await world.store.replace(with_meta(stored, resource_version=""))


async def test_a_write_that_changes_nothing_keeps_the_version(world: World) -> None:
    stored = await world.store.create(world.pool())
    assert await world.store.replace(stored) == stored


async def test_status_and_spec_are_written_apart(world: World) -> None:
    stored = await world.store.create(world.pool())
    status = Status(
        conditions=(Condition(type="Allocatable", status="True", last_transition_time="2026-01-01T00:00:00Z"),)
    )
    both = msgspec.structs.replace(changed(stored, disabled=True), status=status)
    after_status = await world.store.replace_status(both)
    assert after_status.status == status
    assert not after_status.spec.disabled
    assert after_status.metadata.generation == 1
    after_spec = await world.store.replace(
        msgspec.structs.replace(changed(after_status, disabled=True), status=Status())
    )
    assert after_spec.status == status
    assert after_spec.spec.disabled


async def test_a_merge_patch_changes_what_it_names(world: World) -> None:
    stored = await world.store.create(world.pool(annotations={"a": "1", "b": "2"}))
    patch = {"metadata": {"annotations": {"a": None, "c": "3"}}, "spec": {"disabled": True}}
    patched = await world.store.patch(IPPool, stored.name, patch)
    assert patched.metadata.annotations == {"b": "2", "c": "3"}
    assert patched.spec.disabled
    assert patched.spec.cidr == stored.spec.cidr


async def test_a_patch_of_the_status_changes_the_status_alone(world: World) -> None:
    stored = await world.store.create(world.pool())
    conditions = [{"type": "Allocatable", "status": "False", "reason": "CIDROverlap"}]
    patch = {"spec": {"disabled": True}, "status": {"conditions": conditions}}
    patched = await world.store.patch(IPPool, stored.name, patch, subresource="status")
    assert patched.status is not None
    assert patched.status.conditions == (Condition(type="Allocatable", status="False", reason="CIDROverlap"),)
    assert not patched.spec.disabled


async def test_a_patch_may_be_conditional(world: World) -> None:
    stored = await world.store.create(world.pool())
    await world.store.patch(IPPool, stored.name, {"spec": {"disabled": True}})
    old = {"metadata": {"resourceVersion": stored.metadata.resource_version}, "spec": {"disabled": False}}
    with pytest.raises(Conflict):
        await world.store.patch(IPPool, stored.name, old)


async def test_delete_holds_its_preconditions(world: World) -> None:
    stored = await world.store.create(world.pool())
    with pytest.raises(Conflict):
        await world.store.delete(IPPool, stored.name, uid="6a1b8f3e-0000-4000-8000-000000000000")
    newer = await world.store.replace(changed(stored, disabled=True))
    with pytest.raises(Conflict):
        await world.store.delete(IPPool, stored.name, resource_version=stored.metadata.resource_version)
    await world.store.delete(
        IPPool, stored.name, uid=stored.metadata.uid, resource_version=newer.metadata.resource_version
    )
    with pytest.raises(NotFound):
        await world.store.get(IPPool, stored.name)


async def test_a_finalizer_keeps_an_object_until_it_is_removed(world: World) -> None:
    stored = await world.store.create(world.pool(finalizers=(FINALIZER,)))
    await world.store.delete(IPPool, stored.name)
    marked = await world.store.get(IPPool, stored.name)
    assert marked.deleting
    await world.store.delete(IPPool, stored.name)
    assert (await world.store.get(IPPool, stored.name)).metadata.uid == stored.metadata.uid
    with pytest.raises(ApiError, match="finalizers"):
        await world.store.replace(with_meta(marked, finalizers=(FINALIZER, "tortie.test/other")))
    await world.store.replace(with_meta(marked, finalizers=()))
    with pytest.raises(NotFound):
        await world.store.get(IPPool, stored.name)


async def test_a_list_has_all_objects_whatever_the_page(world: World) -> None:
    made = [await world.store.create(world.pool()) for _ in range(8)]
    listed = await world.store.list(IPPool, labels=world.label)
    assert sorted(pool.name for pool in listed.items) == sorted(pool.name for pool in made)
    assert listed.unreadable == ()


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("colour=red", {1}),
        ("colour==red", {1}),
        ("colour!=red", {2, 3}),
        ("colour", {1, 2}),
        ("!colour", {3}),
        ("colour in (red,blue)", {1, 2}),
        ("colour notin (red)", {2, 3}),
        ("colour,colour!=blue", {1}),
    ],
)
async def test_a_list_is_chosen_by_labels(world: World, selector: str, found: set[int]) -> None:
    for labels in ({"colour": "red"}, {"colour": "blue"}, {}):
        await world.store.create(world.pool(labels=labels))
    listed = await world.store.list(IPPool, labels=f"{world.label},{selector}")
    assert {int(pool.name.rpartition("-")[2]) for pool in listed.items} == found


async def test_a_list_is_chosen_by_fields(world: World) -> None:
    first, _second = [await world.store.create(world.pool()) for _ in range(2)]
    listed = await world.store.list(IPPool, fields=f"metadata.name={first.name}")
    assert [pool.name for pool in listed.items] == [first.name]
    with pytest.raises(ApiError) as refusal:
        await world.store.list(IPPool, fields="spec.nonsense=1")
    assert refusal.value.status == 400


async def test_a_watch_tells_every_change_after_a_version(world: World) -> None:
    before = await world.store.create(world.pool())
    version = await world.version()
    stream = world.store.watch(IPPool, resource_version=version, labels=world.label)
    made = await world.store.create(world.pool())
    changed_ = await world.store.replace(changed(before, disabled=True))
    await world.store.delete(IPPool, made.name)
    assert await next_event(stream) == Added(made)
    assert await next_event(stream) == Modified(changed_)
    last = await next_event(stream)
    assert isinstance(last, Deleted)
    assert last.object.name == made.name
    assert int(last.object.metadata.resource_version) > int(changed_.metadata.resource_version)
    await stream.aclose()  # type: ignore[attr-defined]


async def test_to_a_watch_with_a_selector_an_object_that_leaves_it_is_deleted(world: World) -> None:
    version = await world.version()
    stream = world.store.watch(IPPool, resource_version=version, labels=f"{world.label},colour=red")
    pool = await world.store.create(world.pool(labels={"colour": "red"}))
    assert isinstance(await next_event(stream), Added)
    await world.store.patch(IPPool, pool.name, {"metadata": {"labels": {"colour": "blue"}}})
    assert isinstance(await next_event(stream), Deleted)
    await world.store.patch(IPPool, pool.name, {"metadata": {"labels": {"colour": "red"}}})
    assert isinstance(await next_event(stream), Added)
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_marked_object_is_modified_and_then_deleted(world: World) -> None:
    pool = await world.store.create(world.pool(finalizers=(FINALIZER,)))
    stream = world.store.watch(IPPool, resource_version=await world.version(), labels=world.label)
    await world.store.delete(IPPool, pool.name)
    marked = await next_event(stream)
    assert isinstance(marked, Modified)
    assert marked.object.deleting
    await world.store.patch(IPPool, pool.name, {"metadata": {"finalizers": None}})
    assert isinstance(await next_event(stream), Modified | Deleted)
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_watch_from_a_forgotten_version_is_gone(world: World) -> None:
    if isinstance(world.store, FakeStore):
        await world.store.create(world.pool())
        world.store.compact()
    with pytest.raises(Gone):
        await anext(world.store.watch(IPPool, resource_version="1"))


async def test_a_pod_that_a_node_runs_goes_when_its_kubelet_says_so(world: World) -> None:
    namespace = await _namespace(world)
    await _run_pod(world, namespace)
    await world.store.delete(Pod, "pod", namespace=namespace)
    assert (await world.store.get(Pod, "pod", namespace=namespace)).deleting
    await world.store.delete(Pod, "pod", namespace=namespace, grace_period_s=0)
    with pytest.raises(NotFound):
        await world.store.get(Pod, "pod", namespace=namespace)


async def test_pods_are_listed_by_node_and_by_namespace(world: World) -> None:
    namespace = await _namespace(world)
    await _run_pod(world, namespace)
    for where in ({"namespace": namespace}, {"fields": f"spec.nodeName=node-{namespace}"}):
        assert [pod.name for pod in (await world.store.list(Pod, **where)).items] == ["pod"]
    assert (await world.store.list(Pod, fields="spec.nodeName=elsewhere")).items == ()
    await world.store.delete(Pod, "pod", namespace=namespace, grace_period_s=0)


async def test_a_pods_status_lets_annotations_through_but_only_of_the_pod_that_was_meant(world: World) -> None:
    namespace = await _namespace(world)
    await _run_pod(world, namespace)
    uid = (await world.store.get(Pod, "pod", namespace=namespace)).metadata.uid
    where = {"namespace": namespace, "subresource": "status"}
    note = {"uid": uid, "annotations": {"cni.projectcalico.org/note": "1"}}
    patched = await world.store.patch(Pod, "pod", {"metadata": note, "spec": {"hostNetwork": True}}, **where)
    assert patched.metadata.annotations["cni.projectcalico.org/note"] == "1"
    assert not patched.spec.host_network
    with pytest.raises((Conflict, Invalid)):
        await world.store.patch(Pod, "pod", {"metadata": note | {"uid": "another"}}, **where)
    await world.store.delete(Pod, "pod", namespace=namespace, grace_period_s=0)


async def test_a_secret_keeps_its_bytes(world: World) -> None:
    namespace = await _namespace(world)
    secret = Secret(metadata=ObjectMeta(name="s", namespace=namespace), data={"k": b"\x00\xffpass"})
    assert (await world.store.create(secret)).data == {"k": b"\x00\xffpass"}


async def test_writers_that_race_are_told_apart(world: World) -> None:
    stored = await world.store.create(world.pool())

    async def write(number: int) -> bool:
        try:
            await world.store.replace(with_meta(stored, annotations={"writer": str(number)}))
        except Conflict:
            return False
        return True

    assert sum(await asyncio.gather(*(write(number) for number in range(8)))) == 1


async def _namespace(world: World) -> str:
    namespace = await world.store.create(Namespace(metadata=ObjectMeta(name=f"ns-{world.prefix}-{block_name('x')}")))
    return namespace.name


async def _run_pod(world: World, namespace: str) -> None:
    """A Pod bound to a node, made as the scheduler would have left it."""
    store = world.store
    if isinstance(store, FakeStore):
        body = {"metadata": {"name": "pod", "namespace": namespace}, "spec": {"nodeName": f"node-{namespace}"}}
        store.put(msgspec.convert(body, Pod))
        return
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "namespace": namespace},
        "spec": {
            "nodeName": f"node-{namespace}",
            "containers": [{"name": "c", "image": "none"}],
            "automountServiceAccountToken": False,
        },
    }
    assert world.kubectl is not None
    world.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
