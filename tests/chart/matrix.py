"""Values that the chart is tested with, by name. Each must render, and be taken by an API server."""

from __future__ import annotations

from typing import Any

WALK = {"name": "walk", "version": "1", "target": "walks:Walk"}
WALK_NEXT = {"name": "walk", "version": 2, "target": "walks:Walk"}
DIGEST = "sha256:" + "0123456789abcdef" * 4
TOKEN_HASH = "ab" * 32


def pool(**more: Any) -> dict[str, Any]:
    """Values with one pool more."""
    return {"pools": {"walk": {"environments": [WALK], **more}}}


_EVERYWHERE = {
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    "labels": {"team": "rl"},
    "annotations": {"note": "here"},
    "podLabels": {"tier": "batch"},
    "podAnnotations": {"sidecar": "no"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": "{{ .Release.Name }}"}},
        }
    ],
    "runtimeClassName": "gvisor",
    "priorityClassName": "high",
    "schedulerName": "other",
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
    "probes": {"readiness": {"periodSeconds": 3}, "startup": {"failureThreshold": 10}},
}  # fmt: skip

MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "two pools": pool(),
    "no pools": {"pools": {"cartpole": None}},
    "a pool set to null": {"pools": {"walk": None}},
    "names": {"nameOverride": "mesh", "fullnameOverride": "rl-mesh"},
    "common labels": {"commonLabels": {"team": "rl"}, "commonAnnotations": {"owner": "rl@example.org"}},
    "image by digest": {
        "image": {"repository": "registry.example.org/e", "digest": DIGEST, "pullSecrets": ["pull"]}
    },
    "images by component": {
        "broker": {"image": {"tag": "2"}},
        "autoscaler": {"image": {"digest": DIGEST}},
        **pool(image={"repository": "mine", "tag": "1", "pullSecrets": ["mine"]}),
    },
    "namespace scope": {"rbac": {"scope": "namespace"}},
    "no rbac": {"rbac": {"create": False}},
    "priority class": {"priorityClass": {"create": True, "value": 5}},
    "plain text": {"tls": {"mode": "off"}},
    "plain text, nobody asked": {"tls": {"mode": "off"}, "credentials": {"mode": "none"}},
    "existing secrets": {
        "tls": {"mode": "existing", "existingSecrets": {"broker": "b", "host": "h", "autoscaler": "a"}},
        "keys": {"generate": False, "existingLeaseSecret": "lease", "existingSealSecret": "seal"},
        "credentials": {"existingSecret": "tokens"},
    },
    "cert-manager": {
        "tls": {"mode": "certManager", "certManager": {"issuerRef": {"name": "ca", "kind": "Issuer"}}}
    },
    "extra names": {"tls": {"extraNames": {"broker": ["mesh.example.org"], "host": ["h.example.org"]}}},
    "gateway": {
        "gateway": {"enabled": True, "from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "replicas": 3},
        "tls": {"extraNames": {"gateway": ["mesh.example.org", "203.0.113.9"]}},
    },
    "gateway with a public certificate": {
        "gateway": {"enabled": True, "certificateSecret": "public", "replicas": 1}
    },
    "gateway of cert-manager": {
        "gateway": {"enabled": True, "service": {"type": "NodePort", "annotations": {"internal": "true"}}},
        "tls": {"mode": "certManager", "certManager": {"issuerRef": {"name": "ca", "kind": "Issuer"}}},
    },
    "gateway before plain text": {
        "gateway": {"enabled": True, "certificateSecret": "public"},
        "tls": {"mode": "off"},
    },
    "gateway with everything": {"gateway": {"enabled": True, **_EVERYWHERE}},
    "tenants": {
        "credentials": {"tenants": [{"name": "a", "weight": 2, "quota": 100, "tokens": [TOKEN_HASH]}]},
    },
    "service accounts": {
        "credentials": {
            "serviceAccounts": {"enabled": True},
            "tenants": [{"name": "a", "serviceAccounts": ["training/ppo", "sweeps/*"]}],
        }
    },
    "broker settings": {
        "broker": {"settings": {"leaseValidity": 20, "queueRequests": 1000000, "logLevel": "debug"}}
    },
    "host settings": pool(settings={"leaseIdle": "90s", "maxMessageBytes": 134217728, "workers": 4}),
    "load balancer": {"broker": {"service": {"type": "LoadBalancer", "annotations": {"internal": "true"}}}},
    "pool declarations": pool(isolation="process", recovery="state", stepLimit="10s", episodesPerWorker=4),
    "hpa": pool(scaling={"mode": "hpa", "min": 2, "hpa": {"behavior": {}}}),
    "keda": pool(scaling={"mode": "keda", "keda": {"pollingInterval": 2}}),
    "keda in plain text": {"tls": {"mode": "off"}, **pool(scaling={"mode": "keda"})},
    "manual": {"autoscaler": {"enabled": False}, "pools": {"cartpole": {"scaling": {"mode": "manual"}}}},
    "one autoscaler": {"autoscaler": {"replicas": 1, "maxHosts": 100}},
    "paused, dry run": pool(scaling={"paused": True}, rollout={"paused": True, "maxSurge": "25%"}),
    "from a floor": pool(scaling={"min": 3, "max": 3, "bufferFactor": 0.5, "targetFill": 0.8, "lookBack": 0}),
    "retiring": {
        "pools": {
            "walk": {"environments": [WALK], "retiring": True},
            "walk2": {"environments": [WALK_NEXT]},
        }
    },
    "long drain": pool(drain={"deadline": 600, "checkpoint": 60}),
    "disruption budget": pool(podDisruptionBudget={"maxUnavailable": "10%"}),
    "no disruption budget": pool(podDisruptionBudget={"enabled": False}),
    "egress": pool(
        egress=[
            {"cidr": "0.0.0.0/0", "ports": [{"port": 443}]},
            {"cidr": "::/0"},
            {"namespaceSelector": {"matchLabels": {"name": "models"}}, "ports": [{"port": "http"}]},
        ]
    ),
    "traces": {
        "broker": {
            "settings": {"traces": "http://collector.observability:4317"},
            "egress": [
                {"namespaceSelector": {"matchLabels": {"name": "observability"}}, "ports": [{"port": 4317}]}
            ],
        }
    },
    "no network policies": {"networkPolicy": {"enabled": False}},
    "closed network": {
        "networkPolicy": {
            "trainersFrom": [{"namespaceSelector": {"matchLabels": {"name": "training"}}, "podSelector": {}}],
            "metricsFrom": [],
            "apiServer": {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [6443]},
        }
    },
    "monitoring": {
        "metrics": {
            "tls": True,
            "serviceMonitor": {"enabled": True, "labels": {"release": "p"}},
            "podMonitor": {"enabled": True},
            "rules": {"enabled": True, "runbooks": "https://wiki.example.com/envmesh/runbooks"},
            "dashboards": {"enabled": True},
        }
    },
    "no hooks": {"hooks": {"upgradeCheck": False, "uninstallGuard": False}},
    "every knob": {"broker": _EVERYWHERE, "autoscaler": _EVERYWHERE, **pool(**_EVERYWHERE)},
    "pool defaults": {"poolDefaults": {"slots": 7, "runtimeClassName": "gvisor"}, **pool()},
    "extra objects": {
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "{{ .Release.Name }}-more"},
                "data": {},
            },
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: text\n",
        ]
    },
}
