"""The rules of repair: what a listing and a description mean for what is held. Pure: makes no call, reads no clock.

What is described replaces only what is older. An object is removed only when its account, region and cluster were
listed completely after the object was last seen, it was absent, and Describe knows it no more; the removal applies only
to the revision that was seen before the listing began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from css import arn, envelope
from css.drift import ClusterDrift
from css.errors import Rejected
from css.model import Change, Gone, Key, Kind, Put, supersedes
from css.view import Row, View

# Members that events have and Describe never gives: what is known of them stays known.
_EVENT_ONLY: Mapping[Kind, tuple[str, ...]] = {"instance": ("accountType",)}


def merged(put: Put, row: Row | None) -> Put:
    """The described object with what only events say of it; nothing else of the old state survives."""
    names = _EVENT_ONLY.get(put.key.kind, ())
    if row is None or not names:
        return put
    known = msgspec.json.decode(row.detail)
    kept = {name: known[name] for name in names if envelope.is_object(known) and name in known}
    if not kept:
        return put
    whole = msgspec.json.decode(put.body)
    whole["detail"] = kept | whole["detail"]
    return msgspec.structs.replace(put, body=msgspec.json.encode(whole))


def newer(puts: Iterable[Put], view: View) -> list[Put]:
    """The puts that are news to the view. Lower and equal versions are dropped."""
    return [put for put in puts if supersedes(put.version, view.known(put.key))]


def corrections(puts: Iterable[Put], view: View, drift: ClusterDrift) -> list[Change]:
    """The changes that the news among the puts make, counted as missed or stale."""
    changes: list[Change] = []
    for put in newer(puts, view):
        row = view.row(put.key)
        if row is None:
            drift.missed += 1
        else:
            drift.stale += 1
        changes.append(merged(put, row))
    return changes


def ahead(puts: Iterable[Put], view: View) -> dict[Key, int]:
    """The rows of a higher version than was described, with their revisions.

    Once that is a race: an event came between. A row that is still the same a pass later is older than no event: its
    version was forged, or the cluster is another one of the same name.
    """
    rows = ((view.row(put.key), put.version) for put in puts)
    return {row.key: row.revision for row, version in rows if row is not None and row.version > version}


def removals(absent: Iterable[Row], view: View, unsure: frozenset[str] = frozenset()) -> list[Change]:
    """The absent rows' removals, each for just the revision that was seen before the listing.

    What an event (or a restored store) has replaced meanwhile is not spoken of.
    """
    return [
        Gone(row.key, row.version, row.revision)
        for row in absent
        if row.key.id not in unsure and view.row(row.key) is row
    ]


def held(view: View, kind: Kind, cluster: str) -> list[Row]:
    """The rows of a cluster (its ARN): of its name, account and region, since a store may hold several of each."""
    owner = arn.parse(cluster, type="cluster")
    return [row for row in view.indexed(kind, "cluster", owner.id) if _place(row.key) == (owner.account, owner.region)]


def vanished(rows: Iterable[Row], clusters: Sequence[str]) -> dict[str, list[Row]]:
    """Those of the rows whose cluster is not in a complete list of clusters, by cluster name.

    Only in the accounts and regions of the clusters that are listed: an account without any cluster cannot be told from
    another account whose state shares the store, so nothing is removed on the word of an empty list.
    """
    owners = [arn.parse(cluster, type="cluster") for cluster in clusters]
    places = {(owner.account, owner.region) for owner in owners}
    listed = {(owner.account, owner.region, owner.id) for owner in owners}
    found: dict[str, list[Row]] = {}
    for row in rows:
        place = _place(row.key)
        if place in places and (*place, row.key.cluster) not in listed:
            found.setdefault(row.key.cluster, []).append(row)
    return found


def _place(key: Key) -> tuple[str, str]:
    """Account and region of an object."""
    try:
        this = arn.parse(key.id)
    except Rejected:
        return "", ""
    return this.account, this.region
