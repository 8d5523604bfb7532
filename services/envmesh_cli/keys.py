"""``envmesh keys``: what a mesh needs to be closed to strangers, made once, in files or in Secrets."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
from pathlib import Path

from envmesh_cli.failures import FAILED, OK, USAGE, CommandFailed
from envmesh_cli.tables import open_console, plain_table
from envmesh_service.key_material import Item, KeyPlan, Store, ensure, rotate
from envmesh_service.key_stores import DirectoryStore, SecretStore
from envmesh_service.kubernetes_api import ApiRefused, ClusterApi
from envmesh_service.settings import parse_duration

__all__ = ["keys"]

_HERE = ("localhost", "127.0.0.1", "::1")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?")
_HOSTNAME = re.compile(r"[A-Za-z0-9*]([-A-Za-z0-9.:]{0,250}[A-Za-z0-9])?")


def keys(arguments: argparse.Namespace) -> int:
    """Make, renew or rotate, and say what was done; never what it is."""
    store = _store(arguments)
    try:
        if arguments.rotate:
            items = [rotate(store, item) for item in arguments.rotate]
        else:
            items = ensure(store, _plan(arguments), dt.datetime.now(dt.UTC))
    except ApiRefused as error:
        raise CommandFailed(str(error), FAILED) from None
    except ValueError as error:
        raise CommandFailed(str(error), USAGE) from None
    _tell(arguments, items)
    return OK


def _store(arguments: argparse.Namespace) -> Store:
    if bool(arguments.directory) == bool(arguments.secrets):
        raise CommandFailed("give a directory, or --secrets NAMESPACE, and not both", USAGE)
    if arguments.directory:
        return DirectoryStore(Path(arguments.directory))
    for option, value in (("--secrets", arguments.secrets), ("--prefix", arguments.prefix)):
        if not _LABEL.fullmatch(value):
            raise CommandFailed(f"{option} {value}: lower-case letters, digits and '-' are right", USAGE)
    labels = {}
    for label in arguments.label:
        key, equals, value = label.partition("=")
        if not key or not equals:
            raise CommandFailed(f"--label {label}: KEY=VALUE is right", USAGE)
        labels[key] = value
    try:
        api = ClusterApi.connect(arguments.kubeconfig or "")
    except ApiRefused as error:
        raise CommandFailed(str(error), FAILED) from None
    return SecretStore(api, arguments.secrets, arguments.prefix, labels)


def _plan(arguments: argparse.Namespace) -> KeyPlan:
    more = {
        "broker-tls": arguments.broker_name,
        "host-tls": arguments.host_name,
        "autoscaler-tls": arguments.autoscaler_name,
    }
    if arguments.gateway_name:
        more["gateway-tls"] = arguments.gateway_name
    for name in (name for names in more.values() for name in names):
        if not _HOSTNAME.fullmatch(name):
            raise CommandFailed(f"{name!r} is no host name or address", USAGE)
    try:
        renew = parse_duration(arguments.renew) / 86400 if arguments.renew else 0.0
    except ValueError as error:
        raise CommandFailed(f"--renew {arguments.renew}: {error}", USAGE) from None
    return KeyPlan(
        names={
            leaf: list(dict.fromkeys((f"envmesh-{leaf.removesuffix('-tls')}", *names, *_HERE)))
            for leaf, names in more.items()
        },
        days=arguments.days,
        renew_days=renew,
        tenant=arguments.tenant,
    )


def _tell(arguments: argparse.Namespace, items: list[Item]) -> None:
    where = arguments.directory or f"{arguments.secrets}/{arguments.prefix}-…"
    if arguments.json:
        told: dict[str, object] = {"where": where, "items": {item.name: item.done for item in items}}
        if why := {item.name: item.why for item in items if item.why}:
            told["why"] = why
        print(json.dumps(told))
        return
    console = open_console()
    table = plain_table("item", "")
    for item in items:
        table.add_row(item.name, f"{item.done}: {item.why}" if item.why else item.done)
    console.print(table)
    console.print(f"in {where}")
