"""The fleet for Kubernetes, from what compose.yaml, compose.gpu.yaml and the Dockerfile say of it.

python scripts/manifests.py > kubernetes.yaml
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = ("compose.yaml", "compose.gpu.yaml")
NAME = "tilus-fleet"
# Volumes that outlive a pod, and their sizes; what the others hold can be made again.
CLAIMS = {"queue": "2Gi", "store": "50Gi", "state": "2Gi", "results": "2Gi"}
HEADER = """\
# The fleet for Kubernetes, made of the files of Compose: python scripts/manifests.py
# Images and secrets come first: docs/deploy.md says how.
"""

Data = dict[str, object]


class User(NamedTuple):
    """Who a container runs as."""

    uid: int
    gid: int


class Service(NamedTuple):
    """One service: what Compose says of it, as whom it runs, whom it calls and at which port."""

    name: str
    said: Mapping
    user: User
    calls: tuple[tuple[str, int], ...]

    @property
    def claims(self) -> frozenset[str]:
        """The volumes it mounts that outlive it."""
        return frozenset(volume for volume, _ in mounts(self)) & CLAIMS.keys()


def main() -> None:
    """Print the manifest."""
    sys.stdout.write(manifest())


def manifest() -> str:
    """Every object, as YAML, in an order in which they can be made."""
    made = objects(services())
    return HEADER + yaml.safe_dump_all(made, sort_keys=False, explicit_start=True, width=100)


def services() -> list[Service]:
    """The services of Compose, with the default wherever a variable may decide."""
    texts = [(ROOT / name).read_text() for name in FILES]
    files = [yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)) for text in texts]
    secrets = {name: one["file"] for file in files for name, one in file["secrets"].items()}
    users = users_of((ROOT / "services" / "Dockerfile").read_text())
    return [
        Service(
            name,
            said | {"secrets": dict(opened(said["secrets"], secrets))},
            users[said["build"]["target"]],
            tuple(called(said)),
        )
        for file in files
        for name, said in file["services"].items()
    ]


def users_of(dockerfile: str) -> dict[str, User]:
    """Whose the processes of each target are."""
    stages = re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", dockerfile, re.M | re.S)
    found = {name: re.search(r"^USER (\d+):(\d+)$", text, re.M) for name, text in stages}
    return {name: User(*map(int, user.groups())) for name, user in found.items() if user}


def opened(
    secrets: Sequence[str | Mapping[str, str]], files: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Which file of secrets/ a service sees under which name in /run/secrets."""
    for one in secrets:
        source, target = (one, one) if isinstance(one, str) else (one["source"], one["target"])
        yield Path(files[source]).name, target


def called(said: Mapping) -> Iterator[tuple[str, int]]:
    """The services that this one calls, and at which port."""
    for value in said.get("environment", {}).values():
        url = urlsplit(str(value))
        if url.hostname is not None and url.port is not None:
            yield url.hostname, url.port


def objects(fleet: Sequence[Service]) -> Iterator[Data]:
    """The namespace, its claims and its closed door, then what every service needs."""
    restricted = {f"pod-security.kubernetes.io/{how}": "restricted" for how in ("enforce", "warn")}
    yield {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAME, "labels": restricted},
    }
    for volume, size in CLAIMS.items():
        asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        yield made("v1", "PersistentVolumeClaim", volume, asked)
    for service in fleet:
        yield deployment(service, fleet)
        ports = sorted({port for one in fleet for host, port in one.calls if host == service.name})
        if ports:
            yield made("v1", "Service", service.name, door(service, ports))
        yield made("networking.k8s.io/v1", "NetworkPolicy", service.name, policy(service, fleet))


def made(version: str, kind: str, name: str, spec: Data) -> Data:
    """An object of the fleet's namespace."""
    metadata: Data = {"name": name, "namespace": NAME, "labels": labels(name)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def labels(name: str) -> Data:
    """What an object is known by."""
    return {"app.kubernetes.io/part-of": NAME, "app.kubernetes.io/name": name}


def chosen(name: str) -> Data:
    """The pods of one service."""
    return {"matchLabels": labels(name)}


def deployment(service: Service, fleet: Sequence[Service]) -> Data:
    """The pods of a service. Where there may be no GPU, none is asked for until it is scaled."""
    said = service.said
    spec: Data = {
        "replicas": 0 if "profiles" in said else int(said["deploy"].get("replicas", 1)),
        "selector": chosen(service.name),
        "strategy": {"type": "Recreate" if service.claims else "RollingUpdate"},
        "template": {"metadata": {"labels": labels(service.name)}, "spec": pod(service, fleet)},
    }
    return made("apps/v1", "Deployment", service.name, spec)


def pod(service: Service, fleet: Sequence[Service]) -> Data:
    """One pod: nobody's account, no rights, and on the node of those it shares claims with."""
    uid, gid = service.user
    security = {
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": gid,
        "fsGroup": gid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    spec: Data = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security,
        "terminationGracePeriodSeconds": seconds(service.said.get("stop_grace_period", "30s")),
        "containers": [container(service)],
        "volumes": [
            {"name": "secrets", "secret": secret(service)},
            *({"name": volume, **source(volume)} for volume, _ in mounts(service)),
            *({"name": name, "emptyDir": memory(size)} for name, _, size in in_memory(service)),
        ],
    }
    first = next(one for one in fleet if one.claims & service.claims or one is service)
    if first is not service:
        beside = {"labelSelector": chosen(first.name), "topologyKey": "kubernetes.io/hostname"}
        spec["affinity"] = {
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [beside]}
        }
    return spec


def container(service: Service) -> Data:
    """The container of a pod."""
    said = service.said
    spec: Data = {
        "name": service.name,
        "image": said["image"],
        "env": [
            {"name": name, "value": str(value)}
            for name, value in said.get("environment", {}).items()
            if value
        ],
        "securityContext": {
            "allowPrivilegeEscalation": "no-new-privileges:true" not in said["security_opt"],
            "capabilities": {"drop": list(said["cap_drop"])},
            "readOnlyRootFilesystem": said["read_only"],
        },
        "resources": {"limits": limits(said["deploy"]["resources"])},
        "volumeMounts": [
            {"name": "secrets", "mountPath": "/run/secrets", "readOnly": True},
            *({"name": name, "mountPath": path} for name, path in mounts(service)),
            *({"name": name, "mountPath": path} for name, path, _ in in_memory(service)),
        ],
    }
    if "healthcheck" in said:
        spec["readinessProbe"] = probe(said["healthcheck"])
    return spec


def limits(resources: Mapping) -> Data:
    """What a container may take; how many processes is for the node to say."""
    asked = resources.get("limits", {})
    gpus = len(resources.get("reservations", {}).get("devices", []))
    found: Data = {}
    if "cpus" in asked:
        found["cpu"] = asked["cpus"].removesuffix(".0")
    if "memory" in asked:
        found["memory"] = quantity(asked["memory"])
    if gpus:
        found["nvidia.com/gpu"] = str(gpus)
    return found


def probe(check: Mapping) -> Data:
    """A health check of Compose as a probe."""
    how, *command = check["test"]
    return {
        "exec": {"command": ["sh", "-c", *command] if how == "CMD-SHELL" else command},
        "periodSeconds": max(5, seconds(check["interval"])),
        "timeoutSeconds": seconds(check["timeout"]),
    }


def secret(service: Service) -> Data:
    """The files of the one secret that a service sees."""
    items = [{"key": file, "path": name} for file, name in service.said["secrets"].items()]
    return {"secretName": NAME, "defaultMode": 0o440, "items": items}


def mounts(service: Service) -> list[tuple[str, str]]:
    """The volumes of a service, and where they are."""
    pairs = (each.split(":") for each in service.said.get("volumes", []))
    return [(volume, path) for volume, path in pairs]


def source(volume: str) -> Data:
    """Where a volume comes from: a claim, or the node for as long as the pod is there."""
    if volume in CLAIMS:
        return {"persistentVolumeClaim": {"claimName": volume}}
    return {"emptyDir": {}}


def in_memory(service: Service) -> Iterator[tuple[str, str, str]]:
    """The folders of a service that are in memory: name, path and size."""
    for each in service.said["tmpfs"]:
        path, _, options = each.partition(":")
        size = next(one for one in options.split(",") if one.startswith("size="))
        yield path.strip("/"), path, quantity(size.removeprefix("size="))
    if "shm_size" in service.said:
        yield "shm", "/dev/shm", quantity(service.said["shm_size"])


def memory(size: str) -> Data:
    """A folder in memory."""
    return {"medium": "Memory", "sizeLimit": size}


def door(service: Service, ports: Sequence[int]) -> Data:
    """The address under which the others call a service."""
    return {
        "selector": labels(service.name),
        "ports": [{"name": f"port-{port}", "port": port, "targetPort": port} for port in ports],
    }


def policy(service: Service, fleet: Sequence[Service]) -> Data:
    """Whom a service hears and whom it calls: those of the fleet, and who knows their names."""
    heard = [
        {"from": [{"podSelector": chosen(one.name)}], "ports": [wire(port)]}
        for one in fleet
        for host, port in one.calls
        if host == service.name
    ]
    called = [
        {"to": [{"podSelector": chosen(host)}], "ports": [wire(port)]}
        for host, port in service.calls
    ]
    names = {
        "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
        "ports": [wire(53, "UDP"), wire(53)],
    }
    return {
        "podSelector": chosen(service.name),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": heard,
        "egress": [*called, names] if called else [],
    }


def wire(port: int, protocol: str = "TCP") -> Data:
    """A port of a policy."""
    return {"port": port, "protocol": protocol}


def quantity(size: str) -> str:
    """A size of Compose, as 512M or 2g, as Kubernetes writes it."""
    return f"{size[:-1]}{size[-1].upper()}i"


def seconds(duration: str) -> int:
    """A duration of Compose in seconds."""
    return int(duration.removesuffix("s"))


if __name__ == "__main__":
    main()
