"""The arguments of each command."""

from __future__ import annotations

import argparse
from typing import Any

from envmesh_autoscaler.demand import PoolPolicy

DEFAULT_MESH = "127.0.0.1:7070"
LOCAL_POLICY = PoolPolicy(max_hosts=4)
"""How ``envmesh up --autoscale`` scales, where the command line does not say."""

LONGEST_INTERVAL = 3600.0

# ---- arguments that several commands have


def _json(parser: Any, what: str = "print one JSON object") -> None:
    parser.add_argument("--json", action="store_true", help=what)


def _client(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which mesh")
    group.add_argument(
        "--mesh", metavar="HOST:PORT", help=f"a broker or a lone host (default: $ENVMESH_MESH, or {DEFAULT_MESH})"
    )  # fmt: skip
    group.add_argument(
        "--token", help="bearer token (default: $ENVMESH_TOKEN, or what $ENVMESH_TOKEN_FILE holds)"
    )
    group.add_argument(
        "--token-file", metavar="FILE", help="file of the bearer token; may be renewed meanwhile"
    )
    group.add_argument("--tls", action="store_true", help="connect with TLS")
    group.add_argument(
        "--ca", "--tls-roots", metavar="FILE", help="PEM file of the roots to trust, implies --tls ($ENVMESH_CA)"
    )  # fmt: skip
    group.add_argument("--certificate", metavar="FILE", help="PEM file of a certificate of one's own")
    group.add_argument("--private-key", metavar="FILE", help="PEM file of its key")
    group.add_argument("--plaintext", action="store_true", help="send even a token without TLS")


def _keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keys", metavar="DIRECTORY", help="TLS and credentials with what `envmesh keys DIRECTORY` made"
    )


def _declarations(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "declarations", "What the environments' own code declares is used where nothing is said here."
    )
    group.add_argument("--isolation", choices=("inline", "thread", "process"), help="where their code runs")
    group.add_argument(
        "--recovery", choices=("none", "replay", "state"), help="what a lost host does to their episodes"
    )
    group.add_argument("--slots", type=_count, metavar="N", help="episodes of each at once on one host")
    group.add_argument("--version", metavar="V", help="their version, where no name says one")
    group.add_argument(
        "--episodes-per-worker", type=_count, metavar="N", help="episodes that share a worker process"
    )
    group.add_argument("--step-limit", metavar="T", help="bound on the time of a step, such as 500ms or 10s")


def _playing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy", default="random", metavar="P",
        help="random (samples the action space), or module:function or file.py:function (observation → action)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=_whole, help="begins the sequence of the episodes' seeds, and of random actions"
    )
    parser.add_argument("--max-steps", type=_count, metavar="N", help="close longer episodes as truncated")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds, such as 5 or 0.5")
    return value


def _interval(text: str) -> float:
    value = _seconds(text)
    if value > LONGEST_INTERVAL:
        raise argparse.ArgumentTypeError(f"{text!r} is over an hour; a broker tells at least as often")
    return value


# ---- the commands


def serve(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh serve``."""
    parser.add_argument("targets", nargs="+", metavar="[NAME=]TARGET", help="what to serve")
    parser.add_argument("--listen", metavar="HOST:PORT", help=f"default: {DEFAULT_MESH}; port 0 picks one")
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", help="where /metrics is (default: 127.0.0.1:0, any port)"
    )
    parser.add_argument("--workers", type=_count, metavar="N", help="worker processes an environment")
    parser.add_argument(
        "--drain-deadline", metavar="T", help="after Ctrl-C, how long episodes may take to end (30s)"
    )
    _json(parser, "print one JSON object when ready: address, metrics, environments")
    _keys(parser)
    parser.add_argument(
        "--health", metavar="HOST:PORT", help="an HTTP port for probes: /live, /ready, /accepting"
    )
    _declarations(parser)
    group = parser.add_argument_group("in a mesh")
    group.add_argument("--broker", metavar="HOST:PORT", help="register there; without it, this host is alone")
    group.add_argument("--pool", metavar="NAME", help="the pool it belongs to (default: default)")
    group.add_argument("--name", help="the host's name for people")


def build(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh build``."""
    parser.add_argument("targets", nargs="+", metavar="[NAME=]TARGET", help="what the image serves")
    parser.add_argument("--requirements", metavar="FILE", help="packages that pip shall install")
    parser.add_argument(
        "--copy", action="append", default=[], metavar="PATH", help="a file or directory to take along; may be repeated"
    )  # fmt: skip
    parser.add_argument("--base", metavar="IMAGE", help="the image below (envmesh/envmesh, of this version)")
    parser.add_argument(
        "--output", default="Dockerfile", metavar="FILE", help="where to; -: print it (Dockerfile)"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a file that envmesh build has not written"
    )
    _json(parser)


def keys(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh keys``."""
    parser.add_argument(
        "directory", nargs="?", metavar="DIRECTORY", help="where files go, for their owner only"
    )
    group = parser.add_argument_group("in a cluster")
    group.add_argument(
        "--secrets", metavar="NAMESPACE", help="keep Secrets there instead, through its API server"
    )
    group.add_argument(
        "--prefix", default="envmesh", metavar="P", help="their names are P-ca, P-host-tls, … (envmesh)"
    )
    group.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="a label for them")
    group.add_argument(
        "--kubeconfig", metavar="FILE", help="default: the pod's ServiceAccount, or $KUBECONFIG"
    )
    group = parser.add_argument_group("what is made")
    group.add_argument(
        "--broker-name", action="append", default=[], metavar="NAME",
        help="a name or address by which the broker is reached; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="the same for hosts, beside envmesh-host",
    )
    group.add_argument(
        "--autoscaler-name", action="append", default=[], metavar="NAME",
        help="the same for the autoscaler, as KEDA calls it",
    )  # fmt: skip
    group.add_argument(
        "--gateway-name", action="append", default=[], metavar="NAME",
        help="a name or address by which a gateway is reached: it gets a certificate of its own",
    )  # fmt: skip
    group.add_argument("--tenant", default="trainers", metavar="NAME", help="whose the token is (trainers)")
    group.add_argument(
        "--days", type=_count, default=1825, metavar="N", help="how long certificates last (1825)"
    )
    group.add_argument(
        "--renew", metavar="T", help="renew certificates that end sooner than in T, such as 90d"
    )
    group.add_argument(
        "--rotate", action="append", default=[], choices=("lease-keys", "seal-keys"),
        help="only put a new key before the old one, which still counts",
    )  # fmt: skip
    _json(parser)


def up(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh up``."""
    parser.add_argument("targets", nargs="*", metavar="[NAME=]TARGET", help="each becomes a pool of its own")
    parser.add_argument(
        "--pool", nargs="+", action="append", default=[], metavar=("NAME[:HOSTS]", "[NAME=]TARGET"),
        help="a pool with several environments, on HOSTS hosts; may be repeated",
    )  # fmt: skip
    _keys(parser)
    parser.add_argument("--hosts", type=_count, metavar="N", help="hosts of each pool that says none (1)")
    parser.add_argument(
        "--listen", default=DEFAULT_MESH, metavar="HOST:PORT", help=f"the broker's (default: {DEFAULT_MESH})"
    )
    parser.add_argument(
        "--page",
        metavar="HOST:PORT",
        help="the live page's (default: a free port of 127.0.0.1; empty: no page)",
    )
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="worker processes an environment and host"
    )
    parser.add_argument(
        "--drain-deadline", metavar="T", help="after Ctrl-C, how long episodes may take to end (30s)"
    )
    _json(parser, "print one JSON object when ready: address, metrics, pools")
    group = parser.add_argument_group("scaling", "Hosts come and go with demand, from none and to none.")
    group.add_argument("--autoscale", action="store_true", help="start and end hosts as demand says")
    policy = LOCAL_POLICY
    group.add_argument(
        "--min-hosts", type=_whole, metavar="N", help=f"at least so many of each pool ({policy.min_hosts})"
    )
    group.add_argument(
        "--max-hosts", type=_count, metavar="N", help=f"at most so many of each pool ({policy.max_hosts})"
    )
    group.add_argument(
        "--buffer", type=_whole, metavar="N",
        help=f"at least so many free slots while in use ({policy.buffer_min})",
    )  # fmt: skip
    group.add_argument(
        "--idle-after", metavar="T",
        help=f"a pool unused for so long goes to its minimum ({policy.idle_after:g}s)",
    )  # fmt: skip
    group.add_argument(
        "--look-back", metavar="T", help=f"what was wanted within so long is kept ({policy.look_back:g}s)"
    )
    _declarations(parser)


def autoscale(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh autoscale``."""
    parser.add_argument("--broker", metavar="HOST:PORT", help=f"default: {DEFAULT_MESH}")
    parser.add_argument("--pools", metavar="FILE", help="JSON file of the pools, and how each is scaled")
    parser.add_argument(
        "--namespace", metavar="NAME", help="where their Deployments are (default: this pod's own)"
    )
    parser.add_argument(
        "--kubeconfig", metavar="FILE", help="default: as a pod's ServiceAccount, or $KUBECONFIG"
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="where KEDA is answered")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    _json(parser, "print one JSON object when ready: address, metrics")


def envs(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh envs``."""
    _json(parser, "print one JSON object: environments")
    _client(parser)


def describe(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh describe``."""
    parser.add_argument(
        "environment", metavar="NAME", help="name, name@version, or the target it was loaded from"
    )
    parser.add_argument("--tasks", type=_whole, default=3, metavar="N", help="how many tasks to show (3)")
    _json(parser)
    _client(parser)


def run(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh run``."""
    parser.add_argument(
        "environment", metavar="NAME|TARGET", help="an environment of a mesh, or code to host meanwhile"
    )
    parser.add_argument(
        "--episodes", type=_count, metavar="N", help="how many (default: 100, or until --seconds is over)"
    )
    parser.add_argument("--seconds", type=_seconds, metavar="S", help="stop after so long")
    parser.add_argument("--concurrency", type=_count, default=64, metavar="N", help="episodes at once (64)")
    _playing(parser)
    parser.add_argument(
        "--retries", type=_whole, default=0, metavar="N", help="new episodes for one that fails (0)"
    )
    parser.add_argument("--grade", action="store_true", help="ask for the environment's reward() at each end")
    parser.add_argument(
        "--record", metavar="FILE", help="write every trajectory to a .jsonl or .parquet file"
    )
    parser.add_argument(
        "--journal",
        metavar="FILE",
        help="write down what episodes go through, so that --resume can go on with them",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run whose --journal this is, after a crash or Ctrl-C",
    )
    _json(parser, "print one JSON object instead of the table")
    _declarations(parser)
    _client(parser)


def bench(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh bench``."""
    parser.add_argument(
        "environment", nargs="?", metavar="NAME|TARGET", help="default: an echo environment on a local host"
    )
    parser.add_argument(
        "--concurrency", type=_count, nargs="+", default=[1, 64, 1024], metavar="N", help="1 64 1024"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=3.0, metavar="S", help="how long at each concurrency (3)"
    )
    _playing(parser)
    _json(parser)
    _declarations(parser)
    _client(parser)


def check(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh check``."""
    parser.add_argument("target", metavar="[NAME=]TARGET", help="what to judge")
    parser.add_argument(
        "--episodes", type=_count, default=20, metavar="N", help="how long to look for leaks (20)"
    )
    parser.add_argument("--seconds", type=_seconds, default=60.0, metavar="S", help="about how long (60)")
    parser.add_argument("--seed", type=_whole, default=0, help="begins the sequence of seeds (0)")
    _json(parser, "print one JSON object: the report")
    _declarations(parser)


def replay(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh replay``."""
    parser.add_argument("file", metavar="FILE", help="a recording, .jsonl or .parquet")
    parser.add_argument("--host", action="store_true", help="start a host for what the recording names")
    _json(parser)
    _client(parser)


def report(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh report``."""
    parser.add_argument("file", metavar="FILE", help="a recording, .jsonl or .parquet")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="URL|FILE",
        help="metrics of the processes that were at work",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="where to write it (default: the recording's name, .html)"
    )
    parser.add_argument("--title", help="its heading (default: the recording's name)")
    _json(parser)


def top(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh top``."""
    parser.add_argument("--once", action="store_true", help="print it once and end")
    parser.add_argument("--interval", type=_interval, default=1.0, metavar="S", help="how often to look (1)")
    _json(parser, "print one JSON object for each look")
    _client(parser)


def guard(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh guard``."""
    parser.add_argument("before", choices=("upgrade", "uninstall"), help="what is about to be done")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="POOL", help="a pool that stays; may be repeated"
    )
    parser.add_argument(
        "--serve", action="append", default=[], metavar="NAME@VERSION",
        help="an environment that some pool serves afterwards; may be repeated",
    )  # fmt: skip
    _json(parser)
    _client(parser)


def version(parser: argparse.ArgumentParser) -> None:
    """Of ``envmesh version``."""
    _json(parser)
