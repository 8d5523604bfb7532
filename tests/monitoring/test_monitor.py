"""``make monitor``: a mesh and a Prometheus beside it, and everything ends."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest
import yaml

from tests.monitoring.rule_files import CHART, ROOT, needs_prometheus
from tools.monitor import grafana_files

HOST_AND_TRAINER = 'sum(envmesh_pool_hosts{state="ready"}) == 1 and sum(envmesh_client_episodes_total) > 0'


@needs_prometheus
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_says_which_page_to_open_and_prometheus_has_the_mesh():
    arguments = ["cartpole=gymnasium:CartPole-v1", "--hosts", "1", "--seconds", "20"]
    command = [sys.executable, "-m", "tools.monitor", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            found = re.search(r"Prometheus +(http://127\.0\.0\.1:\d+)/alerts", line)
            url = found.group(1) if found else url
            if "Ctrl-C ends everything" in line:
                break
        assert url
        question = urllib.parse.urlencode({"query": HOST_AND_TRAINER})
        answered = None
        while process.poll() is None and not answered:
            with urllib.request.urlopen(f"{url}/api/v1/query?{question}", timeout=5) as response:
                answered = json.load(response)["data"]["result"]
        assert answered, "Prometheus did not see a host and a trainer that plays within 20 s"
        assert "everything has ended" in process.stdout.read()
        assert process.wait(timeout=60) == 0


def test_grafana_is_told_the_data_source_and_the_dashboards(tmp_path):
    """Grafana itself is not started here: these are the files that it reads."""
    settings = configparser.ConfigParser()
    settings.read(grafana_files(tmp_path / "grafana", "http://127.0.0.1:9090", 3000))
    provisioning = tmp_path / "grafana" / "provisioning"
    assert settings["paths"]["provisioning"] == str(provisioning)
    assert settings["server"]["http_addr"] == "127.0.0.1"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://127.0.0.1:9090"
    provider = yaml.safe_load((provisioning / "dashboards" / "envmesh.yaml").read_text())["providers"][0]
    assert provider["options"]["path"] == str(CHART / "dashboards")
