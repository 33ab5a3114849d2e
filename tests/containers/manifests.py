"""The manifests and the Compose file, and the manifests' containers of the image, ready to be started."""

import itertools
import os
import pathlib
import tempfile

import yaml

from image import DEPLOY, NAME, WORK

MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = DEPLOY / "compose/compose.yaml"


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def of_kind(kind, paths=None):
    for path in paths or MANIFESTS:
        for document in documents(path):
            if document["kind"] == kind:
                yield path.stem, document


def compose():
    (document,) = documents(COMPOSE)
    return document


def folder(files, group=None):
    """A folder of root's with these files, which the group may read."""
    path = pathlib.Path(tempfile.mkdtemp(dir=WORK, prefix="volume."))
    path.chmod(0o755)
    for name, text in files.items():
        file = path / name
        file.write_text(text)
        file.chmod(0o440 if group else 0o444)
        if group:
            os.chown(file, 0, group)
    return path


class Start:
    """How a manifest starts a container of the image."""

    def __init__(self, name, arguments, mounts, groups, port, host_network=False):
        self.name = name
        self.arguments = arguments
        self.mounts = mounts
        self.groups = groups
        # Where it tells health.
        self.port = port
        self.host_network = host_network


def kubernetes(secrets):
    """Those of the Kubernetes manifests; `secrets` has the files of every secret, by name."""
    for path in MANIFESTS:
        configs = {name["metadata"]["name"]: name["data"] for _, name in of_kind("ConfigMap", [path])}
        for _, deployment in of_kind("Deployment", [path]):
            pod = deployment["spec"]["template"]["spec"]
            group = pod["securityContext"]["fsGroup"]
            volumes = {}
            for volume in pod["volumes"]:
                if "secret" in volume:
                    place = folder(secrets[volume["secret"]["secretName"]], group), "ro"
                elif "configMap" in volume:
                    place = folder(configs[volume["configMap"]["name"]]), "ro"
                else:
                    state = folder({})
                    state.chmod(0o2770)
                    os.chown(state, 0, group)
                    place = state, "rw"
                volumes[volume["name"]] = place
            for container in pod["containers"]:
                if container["image"] != NAME:
                    continue
                mounts = [
                    (volumes[mount["name"]][0], mount["mountPath"], volumes[mount["name"]][1])
                    for mount in container["volumeMounts"]
                ]
                ports = {port["name"]: port["containerPort"] for port in container["ports"]}
                probe = container["readinessProbe"]["httpGet"]["port"]
                host_network = pod.get("hostNetwork", False)
                yield Start(path.stem, container["args"], mounts, [group], ports[probe], host_network)


def published(name, address):
    """What makes Podman do what a service does: its ports at this address lead to those of the container."""
    (service,) = [service for stem, service in of_kind("Service") if stem == name]
    (pod,) = [pod for stem, pod in pods() if stem == name]
    ports = {port["name"]: port for container in pod["spec"]["containers"] for port in container["ports"]}
    for port in service["spec"]["ports"]:
        to = ports[port["targetPort"]]["containerPort"]
        yield f"--publish={address}:{port['port']}:{to}/{port.get('protocol', 'TCP').lower()}"


def pods():
    """Every pod of the manifests."""
    for name, deployment in of_kind("Deployment"):
        yield name, deployment["spec"]["template"]


def containers():
    return itertools.chain.from_iterable(
        ((name, pod["spec"], container) for container in pod["spec"]["containers"]) for name, pod in pods()
    )
