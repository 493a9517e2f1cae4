"""Container files, manifests and units, checked with the tools that are available here.

No container engine is needed: the test executes the steps of the Dockerfile itself.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import attrs
import kubernetes_validate
import pytest
import yaml

from firelock import Settings
from firelock.cli.program import read_command
from firelock.testing import eventually
from firelock_dashboard.api import ROUTES
from tests.ports import free_port
from tests.repository.sources import ROOT

DEPLOY = ROOT / "deploy"
MANIFESTS = [DEPLOY / "kubernetes" / name for name in ("server.yaml", "dashboard.yaml")]
COMPOSE = sorted((DEPLOY / "docker").glob("compose*.yaml"))
UNIT = DEPLOY / "systemd" / "firelock.service"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
MARGIN = 20.0  # seconds after the grace time until a supervisor kills its worker processes
DEADLINE = 120.0


def documents(path):
    """Return every document of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def named(kind, name):
    """Return the manifest with this kind and name."""
    (found,) = [
        one
        for path in [*MANIFESTS, DEPLOY / "kubernetes" / "keda.yaml"]
        for one in documents(path)
        if (one["kind"], one["metadata"]["name"]) == (kind, name)
    ]
    return found


def container(deployment):
    """Return the one container of a deployment."""
    (found,) = named("Deployment", deployment)["spec"]["template"]["spec"]["containers"]
    return found


# ---- Kubernetes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest_follows_the_schema(path, version):
    """The schemas are those of Kubernetes. They are applied strictly, so an unknown field is refused."""
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("deployment", ["firelock-server", "firelock-dashboard"])
def test_deployment_selects_its_own_pods_and_probes_its_own_ports(deployment):
    """A deployment also runs as an unprivileged user with a read-only root file system."""
    spec, its = named("Deployment", deployment)["spec"], container(deployment)
    ports = {port["name"] for port in its["ports"]}

    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert its[probe]["httpGet"]["port"] in ports
    assert spec["template"]["spec"]["securityContext"]["runAsNonRoot"]
    assert its["securityContext"]["readOnlyRootFilesystem"]
    assert callable(read_command(its["args"]).run)


def test_pod_of_a_server_waits_for_its_jobs():
    """The pod waits at least as long as the grace time plus the supervisor's margin.

    Its port is that of the server.
    """
    pod, its = (
        named("Deployment", "firelock-server")["spec"]["template"]["spec"],
        container("firelock-server"),
    )
    environment = {one["name"]: one.get("value") for one in its["env"]}

    settings = Settings.from_environment({}, {k: v for k, v in environment.items() if v is not None})

    assert pod["terminationGracePeriodSeconds"] >= settings.grace + MARGIN
    assert settings.probe_port == its["ports"][0]["containerPort"]
    assert [its[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")] == [
        "/startupz", "/livez", "/readyz",
    ]  # fmt: skip


def test_references_between_manifests_are_valid():
    """The budget finds its pods, and the service finds its dashboard.

    The autoscaler finds its deployment and secret.
    """
    budget, service = named("PodDisruptionBudget", "firelock-server"), named("Service", "firelock-dashboard")
    scaled = named("ScaledObject", "firelock-server")
    (trigger,) = scaled["spec"]["triggers"]
    url = urlsplit(trigger["metadata"]["url"])
    server, dashboard = container("firelock-server"), container("firelock-dashboard")
    secret = named("TriggerAuthentication", "firelock-scale")["spec"]["secretTargetRef"][0]
    token = next(one for one in dashboard["env"] if one["name"] == "FIRELOCK_DASHBOARD_TOKEN")

    def labels(deployment):
        return named("Deployment", deployment)["spec"]["template"]["metadata"]["labels"]

    assert budget["spec"]["selector"]["matchLabels"] == labels("firelock-server")
    assert service["spec"]["selector"] == labels("firelock-dashboard")
    assert scaled["spec"]["scaleTargetRef"]["name"] == "firelock-server"
    assert trigger["authenticationRef"]["name"] == "firelock-scale"
    assert token["valueFrom"]["secretKeyRef"] == {"name": secret["name"], "key": secret["key"]}
    assert (url.hostname, url.port) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    assert trigger["metadata"]["targetValue"] == server["args"][server["args"].index("--workers") + 1]


def test_autoscaler_reads_the_dashboard_api():
    """The autoscaler uses the path, the parameters and the field name of the API."""
    (trigger,) = named("ScaledObject", "firelock-server")["spec"]["triggers"]
    url = urlsplit(trigger["metadata"]["url"])
    (route,) = [route for route in ROUTES if route.path == url.path]

    from firelock_dashboard.stats.scale import Demand

    assert {name for name, _ in parse_qsl(url.query)} <= {one.name for one in route.parameters}
    assert trigger["metadata"]["valueLocation"] in {field.name for field in attrs.fields(Demand)}


# ---- compose ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_file_is_consistent(path):
    """All commands exist, each awaited service has a health check, and all volumes are declared."""
    (file,) = documents(path)
    services = file["services"]

    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert services[other]["healthcheck"]["test"], (name, other)
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in file["volumes"]
    for name in ("server", "dashboard"):
        assert callable(read_command(services[name]["command"]).run)
        build = services[name]["build"]
        assert (path.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
        assert "FIRELOCK_STORAGE" in services[name]["environment"]
    assert int(services["server"]["stop_grace_period"].removesuffix("s")) >= Settings().grace + MARGIN
    assert "/-/readyz" in services["dashboard"]["healthcheck"]["test"][-1]
    assert all(port.startswith("127.0.0.1:") for port in services["dashboard"]["ports"])


# ---- systemd ---------------------------------------------------------------------------------------------


def unit():
    """Return the unit's sections."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def test_unit_uses_notifications_of_the_server():
    """The unit uses notify, a watchdog slower than the server's notifications, and a sufficient stop timeout.

    A stop therefore waits for the jobs.
    """
    service = unit()["Service"]
    program, *words = shlex.split(service["ExecStart"])

    assert Path(program).name == "firelock"
    assert callable(read_command(words).run)
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert float(service["TimeoutStopSec"]) >= Settings().grace + MARGIN
    assert float(service["WatchdogSec"]) >= 60


@pytest.mark.heavy("systemd-analyze")
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    """For the check, the program in the unit is replaced with one that exists."""
    program = unit()["Service"]["ExecStart"].split()[0]
    here = f'"{sys.executable}"'  # the path is quoted, because its folder might have a space in its name
    (tmp_path / UNIT.name).write_text(UNIT.read_text(encoding="utf-8").replace(program, here))

    ran = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / UNIT.name], capture_output=True, text=True, check=False
    )

    assert (0, "") == (ran.returncode, ran.stderr)


# ---- the image -------------------------------------------------------------------------------------------


def instructions():
    """Return the Dockerfile's instructions: the name of each and the rest of its line."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def instruction(name, *, of=""):
    """Return the one instruction with this name that contains these words."""
    (found,) = [rest for each, rest in instructions() if each == name and of in rest]
    return found


def test_image_has_an_entry_point_and_a_health_check():
    """The entry point and the health check are commands of firelock, and the user is not root."""
    health = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])

    assert json.loads(instruction("ENTRYPOINT")) == ["firelock"] == health[:1]
    assert callable(read_command(json.loads(instruction("CMD"))).run)
    assert callable(read_command(health[1:]).run)
    assert instruction("USER") not in {"0", "root"}


def test_files_copied_into_the_image_exist():
    """The wheels are an exception, because `make wheels` builds them."""
    sources = [rest.split()[0] for name, rest in instructions() if name == "COPY"]

    assert "dist/" in sources
    assert [source for source in sources if source != "dist/" and not (ROOT / source).is_file()] == []


def test_image_installs_the_built_packages():
    """pip gets the paths of the files. With names, it would install any newer version from an index."""
    assert "/wheels/*.whl" in shlex.split(instruction("RUN", of="pip install"))


@pytest.mark.heavy("builds four wheels, and installs them into an empty environment")
def test_steps_of_the_image_result_in_a_healthy_server(tmp_path):
    """The steps run one by one: wheels, an empty environment, RUN, files and ENV, then CMD and HEALTHCHECK.

    Only the steps that need a container engine are omitted: the base image, the user and the layers.
    """
    wheels, environment, app = tmp_path / "wheels", tmp_path / "venv", tmp_path / "app"
    _run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--wheel-dir", wheels, *sorted((ROOT / "packages").iterdir()),
    )  # fmt: skip
    _run(sys.executable, "-m", "venv", environment)
    install = instruction("RUN", of="pip install").replace("/wheels", str(wheels))
    python = environment / "bin" / "python"
    installed = subprocess.run(
        ["sh", "-c", f"{shlex.quote(str(python))} -m {install}"], capture_output=True, text=True, check=False
    )
    if "No matching distribution found for attrs" in installed.stderr:
        pytest.skip("pip takes packages from nowhere here")
    assert installed.returncode == 0, installed.stderr
    app.mkdir()
    shutil.copy(ROOT / instruction("COPY", of="shop.py").split()[0], app)
    given = dict(part.split("=") for part in shlex.split(instruction("ENV")))
    settings = {
        "PATH": f"{environment / 'bin'}:/usr/bin:/bin", **given,
        "FIRELOCK_PROBE_PORT": str(free_port()), "FIRELOCK_STORAGE": f"sqlite:///{app / 'jobs.db'}",
    }  # fmt: skip
    server = subprocess.Popen(
        [*json.loads(instruction("ENTRYPOINT")), *json.loads(instruction("CMD"))],
        cwd=app, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        executable=environment / "bin" / "firelock",
    )  # fmt: skip
    try:
        health = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
        health[0] = str(environment / "bin" / health[0])
        eventually(
            lambda: subprocess.run(health, env=settings, capture_output=True, check=False).returncode == 0,
            within=DEADLINE,
        )
        # the server is alive before its worker process has imported the app
        banner = server.stdout.readline()
        server.send_signal(getattr(signal, instruction("STOPSIGNAL")))
        log, _ = server.communicate(timeout=DEADLINE)
    finally:
        server.kill()
        server.communicate()

    assert server.returncode == 0, log
    assert "2 tasks" in banner, banner + log


def _run(*words):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, env=clean)
    assert ran.returncode == 0, ran.stdout + ran.stderr
