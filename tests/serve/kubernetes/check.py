"""Holds contrib/kubernetes against the schemas of Kubernetes, against the configuration that is served, and against itself.

Its argument is the folder contrib. Each mistake is a line of what it prints, and then it ends with 1.
"""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

# The oldest and the newest that the manifests are for. Schemas are strict: what they don't know is a mistake.
VERSIONS = ("1.30", "1.37")

# How long the engine may take to give back what it has, after `patience_seconds`.
FAREWELL = 10


def strict(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    properties = {**required, **optional}
    return {"type": "object", "required": [*required], "properties": properties, "additionalProperties": False}


def some(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT = {"type": "string", "minLength": 1}
LABELS = {"type": "object", "additionalProperties": TEXT, "minProperties": 1}

# What isn't of Kubernetes itself has no schema there. These have what the manifests need, and nothing else.
OTHERS = {
    "ServiceMonitor": strict(
        {
            "apiVersion": {"const": "monitoring.coreos.com/v1"},
            "kind": TEXT,
            "metadata": strict({"name": TEXT, "labels": LABELS}),
            "spec": strict(
                {
                    "selector": strict({"matchLabels": LABELS}),
                    "endpoints": some(
                        strict({"port": TEXT, "path": TEXT, "interval": {"type": "string", "pattern": "^[0-9]+s$"}})
                    ),
                }
            ),
        }
    ),
    "Kustomization": strict(
        {
            "apiVersion": {"const": "kustomize.config.k8s.io/v1beta1"},
            "kind": TEXT,
            "resources": some(TEXT),
            "configMapGenerator": some(strict({"name": TEXT, "files": some(TEXT)})),
            "images": some(strict({"name": TEXT, "newTag": TEXT}, newName=TEXT)),
        }
    ),
}


def fit(resource: dict[str, Any]) -> Iterator[str]:
    """What its schema says against a resource."""
    try:
        if schema := OTHERS.get(resource["kind"]):
            jsonschema.Draft202012Validator(schema).validate(resource)
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(resource, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield error.message


def holds(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def secrets(value: Any) -> Iterator[str]:
    """The variables that a configuration refers to."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from secrets(one)
    elif isinstance(value, str) and value.startswith("env:"):
        yield value.removeprefix("env:")


def port(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


class Manifests:
    def __init__(self, folder: Path) -> None:
        self.files = {path.name: [*yaml.safe_load_all(path.read_text())] for path in sorted(folder.glob("*.yaml"))}
        self.config = tomllib.loads((folder / "quota.toml").read_text())
        self.all = [resource for resources in self.files.values() for resource in resources]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [resource for resource in self.all if resource["kind"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        [only] = self.of(kind)
        return only

    @property
    def pod(self) -> dict[str, Any]:
        template: dict[str, Any] = self.one("Deployment")["spec"]["template"]
        return template

    @property
    def container(self) -> dict[str, Any]:
        [only] = self.pod["spec"]["containers"]
        container: dict[str, Any] = only
        return container

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    def selectors(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Those that are to find the pods."""
        yield "the Deployment", self.one("Deployment")["spec"]["selector"]["matchLabels"]
        yield "the PodDisruptionBudget", self.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
        yield "the NetworkPolicy", self.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
        for spread in self.pod["spec"]["topologySpreadConstraints"]:
            yield f"the spread by {spread['topologyKey']}", spread["labelSelector"]["matchLabels"]
        for service in self.of("Service"):
            yield f"the Service {service['metadata']['name']}", service["spec"]["selector"]

    def finding(self) -> Iterator[str]:
        labels = self.pod["metadata"]["labels"]
        for who, selector in self.selectors():
            if not holds(labels, selector):
                yield f"{who} selects {selector}, and pods have {labels}"
        monitor = self.one("ServiceMonitor")["spec"]
        wanted = monitor["selector"]["matchLabels"]
        found = [service for service in self.of("Service") if holds(service["metadata"]["labels"], wanted)]
        if len(found) != 1:
            yield f"the ServiceMonitor selects {wanted}, which {len(found)} Services have, not one"
        named = {port["name"] for service in found for port in service["spec"]["ports"]}
        for endpoint in monitor["endpoints"]:
            if endpoint["port"] not in named:
                yield f"the ServiceMonitor asks at the port {endpoint['port']}, and its Service has {sorted(named)}"
            if endpoint["path"] != self.config.get("metrics", {}).get("path", "/metrics"):
                yield f"the ServiceMonitor asks for {endpoint['path']}, where no metrics are"

    def serving(self) -> Iterator[str]:
        config = self.config
        listens = {"http": config["listen"]}
        if gateway := config.get("gateway"):
            listens["gateway"] = gateway["listen"]
        for name, address in listens.items():
            if not address.startswith("0.0.0.0:"):
                yield f"quota.toml listens on {address}, where no other pod can reach it"
        listened = {name: port(address) for name, address in listens.items()}
        if self.ports != listened:
            yield f"the container has the ports {self.ports}, and quota.toml listens on {listened}"
        served: set[str] = set()
        for service in self.of("Service"):
            for one in service["spec"]["ports"]:
                served.add(one["targetPort"])
                if self.ports.get(one["targetPort"]) != one["port"] or one["name"] != one["targetPort"]:
                    yield f"the Service {service['metadata']['name']} has the port {one}, and the pods {self.ports}"
        policy = self.one("NetworkPolicy")["spec"]
        let_in = {one["port"] for rule in policy["ingress"] for one in rule["ports"]}
        for what, names in (("Services lead to", served), ("the NetworkPolicy lets in at", let_in)):
            if names != self.ports.keys():
                yield f"{what} {sorted(names)}, and the pods have {sorted(self.ports)}"
        let_out = {one["port"] for rule in policy["egress"] for one in rule["ports"]}
        if gateway and port(gateway["upstream"]) not in let_out:
            yield f"the NetworkPolicy doesn't let the gateway reach {gateway['upstream']}"
        if "webhooks" in config and 443 not in let_out:
            yield "the NetworkPolicy doesn't let webhooks out"
        for probe, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
            get = self.container[f"{probe}Probe"]["httpGet"]
            if (get["path"], get["port"], get.get("scheme", "HTTP")) != (path, "http", "HTTP"):
                yield f"the {probe} probe asks for {get}, not for {path} at the port http"

    def running(self) -> Iterator[str]:
        names = {variable["name"] for variable in self.container["env"]}
        missing = {"DATABASE_URL", *secrets(self.config)} - names
        if missing:
            yield f"quota.toml needs {sorted(missing)} in the environment"
        [volume] = self.pod["spec"]["volumes"]
        [mount] = self.container["volumeMounts"]
        [generated] = self.one("Kustomization")["configMapGenerator"]
        if (volume["configMap"]["name"], volume["name"]) != (generated["name"], mount["name"]):
            yield f"the volume {volume} is not what is mounted, {mount}, or generated, {generated['name']}"
        [configured] = generated["files"]
        if self.container["args"] != ["serve", "--config", f"{mount['mountPath']}/{configured}"]:
            yield f"the container runs {self.container['args']}, and its configuration is in {mount['mountPath']}"
        shutdown = self.config["shutdown"]
        drain, patience = shutdown["drain_seconds"], shutdown["patience_seconds"]
        grace = self.pod["spec"]["terminationGracePeriodSeconds"]
        if grace < drain + patience + FAREWELL:
            yield f"a pod is killed after {grace} s, and its end may take {drain} + {patience} + {FAREWELL} s"
        ready = self.container["readinessProbe"]
        if drain < ready["periodSeconds"] * ready["failureThreshold"]:
            yield f"it ends {drain} s after it was told to, before all know that it is not ready any more"

    def hardened(self, user: int) -> Iterator[str]:
        spec, container = self.pod["spec"], self.container
        pod, own = spec["securityContext"], container["securityContext"]
        if (pod["runAsNonRoot"], pod["runAsUser"]) != (True, user):
            yield f"pods run as {pod['runAsUser']}, and the image as {user}"
        if pod["seccompProfile"] != {"type": "RuntimeDefault"}:
            yield "system calls are not filtered"
        if (own["allowPrivilegeEscalation"], own["capabilities"]) != (False, {"drop": ["ALL"]}):
            yield "the container can gain privileges"
        if not own["readOnlyRootFilesystem"]:
            yield "the root file system can be written"
        if spec["automountServiceAccountToken"]:
            yield "pods have a token for the API of Kubernetes, which they don't need"
        if not container["resources"]["limits"].keys() >= {"memory"}:
            yield "the container may take all memory"
        deployment, budget = self.one("Deployment")["spec"], self.one("PodDisruptionBudget")["spec"]
        if deployment["replicas"] - budget["maxUnavailable"] < 2:
            yield "one replica alone may be left"

    def bundled(self) -> Iterator[str]:
        bundle = self.one("Kustomization")
        there = self.files.keys() - {"kustomization.yaml"}
        if set(bundle["resources"]) != there:
            yield f"kustomization.yaml has {sorted(bundle['resources'])}, and there are {sorted(there)}"
        images = [image["name"] for image in bundle["images"]]
        if [self.container["image"]] != images:
            yield f"kustomization.yaml names the images {images}, and the container has {self.container['image']}"


def mistakes(contrib: Path) -> Iterator[str]:
    manifests = Manifests(contrib / "kubernetes")
    unfit = False
    for name, resources in manifests.files.items():
        for resource in resources:
            for mistake in fit(resource):
                unfit = True
                yield f"{name}: {resource['kind']}: {mistake}"
    # What has another shape can't be looked at any further.
    if unfit:
        return
    [user] = [line.split()[1] for line in (contrib / "Dockerfile").read_text().splitlines() if line.startswith("USER ")]
    yield from manifests.finding()
    yield from manifests.serving()
    yield from manifests.running()
    yield from manifests.hardened(int(user))
    yield from manifests.bundled()


if __name__ == "__main__":
    found = [*mistakes(Path(sys.argv[1]))]
    print(*found, sep="\n")
    sys.exit(1 if found else 0)
