"""What the files of Compose and the Dockerfile say, without an engine."""

import json
import re

import pytest

from services.settings import ROOT
from tests.compose.stack import compose, docker

GPU = ["--file", "compose.yaml", "--file", "compose.gpu.yaml", "--profile", "gpu"]
HOSTS = ["--file", "compose.yaml", "--file", "compose.hosts.yaml"]
WORKER = ["--file", "compose.worker.yaml"]
GIVEN = {
    "TILUS_ADDRESS": "192.0.2.1",
    "REDIS_URL": "redis://compiler@192.0.2.1:16379/0",
    "STORE_URL": "http://192.0.2.1:18081",
}

pytestmark = pytest.mark.compose


def config(*files: str) -> dict[str, dict]:
    done = docker("compose", *files, "config", "--format", "json", given=GIVEN)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def services(*files: str) -> dict[str, dict]:
    return config(*files)["services"]


@compose
def test_the_files_are_what_compose_accepts():
    assert set(services()) == {"redis", "api", "compiler", "plotter"}
    assert set(services(*GPU)) == {"redis", "api", "compiler", "plotter", "runner"}
    assert set(services(*WORKER)) == {"compiler"}


@pytest.mark.promise(18)
@compose
@pytest.mark.parametrize("files", [GPU, HOSTS, WORKER], ids=" ".join)
def test_every_container_is_closed(files):
    for name, service in services(*files).items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["init"], name
        assert not service.get("privileged") and not service.get("cap_add"), name
        assert service["logging"]["options"]["max-size"] == "10m", name
        assert all("nosuid" in one and "nodev" in one for one in service["tmpfs"]), name
        assert all(volume["type"] == "volume" for volume in service.get("volumes", [])), name


@compose
def test_only_this_machine_reaches_the_fleet_unless_it_is_opened():
    assert [port["host_ip"] for port in services()["api"]["ports"]] == ["127.0.0.1"]
    assert [name for name, service in services(*GPU).items() if "ports" in service] == ["api"]
    opened = services(*HOSTS)
    published = {name: s["ports"] for name, s in opened.items() if "ports" in s}
    assert set(published) == {"redis", "api"}
    assert {port["host_ip"] for port in published["redis"]} == {"192.0.2.1"}
    assert {port["host_ip"] for port in published["api"]} == {"127.0.0.1", "192.0.2.1"}


@pytest.mark.promise(19)
@compose
def test_only_the_api_has_a_network_with_a_way_out():
    networks = config(*GPU)["networks"]
    assert [name for name, network in networks.items() if network.get("internal")] == ["back"]
    ways = {name: set(service["networks"]) for name, service in services(*GPU).items()}
    assert {name for name, found in ways.items() if found != {"back"}} == {"api"}


@compose
def test_a_worker_elsewhere_is_the_compiler_with_other_addresses():
    here, there = services()["compiler"], services(*WORKER)["compiler"]
    differ = {name for name in {*here, *there} if here.get(name) != there.get(name)}
    assert differ == {"environment", "networks", "depends_on"}
    assert there["environment"]["STORE_URL"] == GIVEN["STORE_URL"]
    assert set(there["environment"]) == set(here["environment"])


@compose
def test_only_the_compiler_and_the_runner_may_write_kernels_and_only_the_api_begins_runs():
    has = {
        name: {each["source"] for each in service["secrets"]}
        for name, service in services(*GPU).items()
    }
    assert {name for name in has if "tilus_token" in has[name]} == {"api"}
    assert {name for name in has if "tilus_store_token" in has[name]} == {
        "api", "compiler", "runner"
    }  # fmt: skip
    assert has["redis"] == {"tilus_redis_users"}
    for name in set(has) - {"redis"}:
        passwords = {each for each in has[name] if each.startswith("redis_")}
        assert passwords == {f"redis_{name}"}


@compose
def test_no_secret_is_in_an_environment():
    for service in services(*GPU).values():
        names = " ".join(service.get("environment", {}))
        assert not re.search("TOKEN|PASSWORD|KEY|SECRET", names), names


def test_every_image_ends_as_a_user_that_is_not_root():
    stages = (ROOT / "services" / "Dockerfile").read_text().split("\nFROM ")[1:]
    named = {stage.split()[2]: stage for stage in stages}
    assert set(named) == {"redis", "common", "api", "compiler", "plotter", "runner"}
    for name in set(named) - {"common"}:
        users = re.findall(r"^USER (\d+):(\d+)$", named[name], re.MULTILINE)
        assert len(users) == 1 and all(int(number) > 0 for number in users[0]), name
        assert named[name].index("USER") > named[name].rindex("RUN"), name
