"""The chart on a real control plane: etcd, API server, controllers, scheduler, kube-proxy, CoreDNS and Helm are real;
only the kubelet is ours (``node.py``)."""
