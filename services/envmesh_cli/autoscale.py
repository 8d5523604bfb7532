"""``envmesh autoscale``: the autoscaler of a mesh on Kubernetes."""

from __future__ import annotations

import argparse
import json
import os

from envmesh import event_loop
from envmesh_autoscaler.service import run
from envmesh_autoscaler.settings import AutoscalerSettings
from envmesh_cli.failures import INTERRUPTED
from envmesh_service.logs import configure
from envmesh_service.settings import load

__all__ = ["autoscale"]


def autoscale(arguments: argparse.Namespace) -> int:
    """Scale until told to end."""
    overrides = {
        "broker": arguments.broker,
        "pools_file": arguments.pools,
        "namespace": arguments.namespace,
        "kubeconfig": arguments.kubeconfig,
        "listen": arguments.listen,
        "dry_run": arguments.dry_run or None,
    }
    settings = load(AutoscalerSettings, os.environ, overrides)
    configure(
        "debug" if arguments.verbose else settings.log_level, service="autoscaler", form=settings.log_form
    )

    def ready(address: str, metrics: int) -> None:
        if arguments.json:
            print(json.dumps({"address": address, "metrics": settings.metrics_url(metrics)}), flush=True)

    return INTERRUPTED if event_loop.run(run(settings, ready)).forced else 0
