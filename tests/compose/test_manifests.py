"""The manifest for Kubernetes: what the files of Compose say, and valid."""

import importlib.util
from copy import deepcopy
from importlib.util import find_spec

import pytest

from services.settings import ROOT

if find_spec("kubernetes_validate") is None:
    pytest.skip("the validator of manifests is not installed here", allow_module_level=True)

import yaml
from kubernetes_validate import ValidationError, validate

VERSIONS = ("1.33", "1.37")
TEXT = (ROOT / "kubernetes.yaml").read_text()
OBJECTS = list(yaml.safe_load_all(TEXT))


def of(kind: str) -> dict[str, dict]:
    return {one["metadata"]["name"]: one["spec"] for one in OBJECTS if one["kind"] == kind}


PODS = {name: spec["template"]["spec"] for name, spec in of("Deployment").items()}


def script():
    spec = importlib.util.spec_from_file_location("manifests", ROOT / "scripts" / "manifests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_what_the_script_makes():
    assert script().manifest() == TEXT, "python scripts/manifests.py > kubernetes.yaml"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(version):
    for one in OBJECTS:
        validate(one, version, strict=True)
    assert len(OBJECTS) == 17


def test_an_object_that_is_not_valid_is_noticed():
    broken = deepcopy(next(one for one in OBJECTS if one["kind"] == "Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0]["readOnly"] = True
    with pytest.raises(ValidationError):
        validate(broken, VERSIONS[-1], strict=True)


def test_every_pod_is_closed():
    assert set(PODS) == {"redis", "api", "compiler", "plotter", "runner"}
    for name, pod in PODS.items():
        [container] = pod["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        user = pod["securityContext"]
        assert user["runAsNonRoot"] and user["runAsUser"] > 0 and user["runAsGroup"] > 0
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }


def test_services_speak_with_those_they_name_and_nobody_else():
    calls = {
        name: {
            to["podSelector"]["matchLabels"].get("app.kubernetes.io/name")
            for rule in spec["egress"]
            for to in rule["to"]
        }
        - {None}
        for name, spec in of("NetworkPolicy").items()
    }
    assert calls == {
        "redis": set(),
        "api": {"redis"},
        "compiler": {"redis", "api"},
        "plotter": {"redis"},
        "runner": {"redis", "api"},
    }
    assert {name: [p["port"] for p in spec["ports"]] for name, spec in of("Service").items()} == {
        "redis": [6379],
        "api": [8000],
    }


def test_a_pod_sees_its_own_secrets():
    seen = {
        name: {
            item["key"] for v in pod["volumes"] if "secret" in v for item in v["secret"]["items"]
        }
        for name, pod in PODS.items()
    }
    assert seen == {
        "redis": {"redis_users"},
        "api": {"redis_api", "queue_key", "token", "store_token"},
        "compiler": {"redis_compiler", "queue_key", "store_token"},
        "plotter": {"redis_plotter", "queue_key"},
        "runner": {"redis_runner", "queue_key", "store_token"},
    }


def test_pods_that_share_a_claim_are_on_one_node():
    claims = {
        name: {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]
               if "persistentVolumeClaim" in v}
        for name, pod in PODS.items()
    }  # fmt: skip
    assert claims["compiler"] == set() and "affinity" not in PODS["compiler"]
    assert {name for name in PODS if "affinity" in PODS[name]} == {"plotter", "runner"}
    for name in ("plotter", "runner"):
        assert claims[name] <= claims["api"]
    assert of("Deployment")["runner"]["replicas"] == 0
    assert PODS["runner"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
