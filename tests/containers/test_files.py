"""The files themselves: by schemas and linters, and what every one of them must have."""

import re
import subprocess
import tempfile
import unittest

import manifests
from image import CHECKS, DEPLOY, NAME, ROOT, WORK, user

# The newest one that the validator knows, and one that is still in use.
KUBERNETES = ("1.37.0", "1.33.0")


def check(program, *arguments):
    return subprocess.run([CHECKS / program, *arguments], capture_output=True, text=True, check=False)


class Schemas(unittest.TestCase):
    def assert_passes(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def altered(self, path, old, new):
        text = path.read_text()
        self.assertIn(old, text)
        file = tempfile.NamedTemporaryFile("w", dir=WORK, suffix=path.suffix)
        self.addCleanup(file.close)
        file.write(text.replace(old, new, 1))
        file.flush()
        return file.name

    def test_kubernetes_takes_the_manifests(self):
        self.assertGreater(len(manifests.MANIFESTS), 3)
        for version in KUBERNETES:
            command = ["--strict", "--kubernetes-version", version]
            self.assert_passes(check("kubernetes-validate", *command, *manifests.MANIFESTS))
        wrong = self.altered(manifests.MANIFESTS[0], "readOnlyRootFilesystem:", "readOnlyRootFilesytem:")
        self.assertNotEqual(check("kubernetes-validate", "--strict", wrong).returncode, 0)

    def test_compose_takes_its_file(self):
        schema = ["--builtin-schema", "vendor.compose-spec"]
        self.assert_passes(check("check-jsonschema", *schema, manifests.COMPOSE))
        wrong = self.altered(manifests.COMPOSE, "read_only:", "readonly:")
        self.assertNotEqual(check("check-jsonschema", *schema, wrong).returncode, 0)

    def test_github_takes_the_workflows(self):
        workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
        schema = ["--builtin-schema", "vendor.github-workflows"]
        self.assert_passes(check("check-jsonschema", *schema, *workflows))

    def test_the_dockerfile_has_no_fault_that_a_linter_knows(self):
        self.assert_passes(check("hadolint", DEPLOY / "Dockerfile"))
        wrong = self.altered(DEPLOY / "Dockerfile", "FROM scratch", "FROM debian")
        self.assertNotEqual(check("hadolint", wrong).returncode, 0)


class Kubernetes(unittest.TestCase):
    def test_no_pod_can_do_more_than_it_must(self):
        for name, pod in manifests.pods():
            spec = pod["spec"]
            with self.subTest(name):
                self.assertIs(spec["automountServiceAccountToken"], False)
                self.assertIs(spec["enableServiceLinks"], False)
                security = spec["securityContext"]
                self.assertIs(security["runAsNonRoot"], True)
                self.assertEqual([str(security["runAsUser"]), str(security["runAsGroup"])], user())
                self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"})
                for volume in spec["volumes"]:
                    self.assertEqual(volume.get("secret", {}).get("defaultMode", 0o440), 0o440)

    def test_no_container_can_do_more_than_it_must(self):
        found = list(manifests.containers())
        self.assertGreater(len(found), 3)
        for name, _, container in found:
            with self.subTest(name, container=container["name"]):
                security = container["securityContext"]
                self.assertIs(security["readOnlyRootFilesystem"], True)
                self.assertIs(security["allowPrivilegeEscalation"], False)
                self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
                self.assertLessEqual({"cpu", "memory"}, set(container["resources"]["limits"]))
                self.assertNotIn("env", container, "secrets are files")
                if container["image"] == NAME:
                    self.assertEqual(container["livenessProbe"]["httpGet"]["path"], "/livez")
                    self.assertEqual(container["readinessProbe"]["httpGet"]["path"], "/readyz")

    def test_a_pod_has_longer_than_its_server_drains(self):
        seen = 0
        for path in manifests.MANIFESTS:
            drains = [int(time) for time in re.findall(r"drain[-_]timeout ?= ?(\d+)", path.read_text())]
            for _, deployment in manifests.of_kind("Deployment", [path]):
                for drain in drains:
                    seen += 1
                    self.assertGreater(deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], drain)
        self.assertGreater(seen, 2)

    def test_policies_and_services_select_pods_and_ports_that_there_are(self):
        pods = dict(manifests.pods())
        policies = dict(manifests.of_kind("NetworkPolicy"))
        in_the_network = {name for name, pod in pods.items() if not pod["spec"].get("hostNetwork")}
        self.assertEqual(set(policies), in_the_network, "a policy holds for no pod of the host's network")
        for name, policy in policies.items():
            self.assertEqual(policy["spec"]["podSelector"]["matchLabels"], pods[name]["metadata"]["labels"])
            self.assertEqual(policy["spec"]["policyTypes"], ["Ingress", "Egress"])
        for name, service in manifests.of_kind("Service"):
            self.assertEqual(service["spec"]["selector"], pods[name]["metadata"]["labels"])
            ports = {port["name"]: port for c in pods[name]["spec"]["containers"] for port in c["ports"]}
            for port in service["spec"]["ports"]:
                self.assertEqual(ports[port["targetPort"]].get("protocol", "TCP"), port.get("protocol", "TCP"))


class Compose(unittest.TestCase):
    def test_no_service_publishes_a_port_and_the_tunnel_reaches_two(self):
        document = manifests.compose()
        services = document["services"]
        for name, service in services.items():
            self.assertFalse({"ports", "network_mode", "privileged"} & set(service), name)
            self.assertIn("no-new-privileges:true", service["security_opt"], name)
        self.assertIs(document["networks"]["services"]["internal"], True)
        reached = [services[name]["networks"]["services"]["ipv4_address"] for name in ("web", "db")]
        for name in ("web", "db"):
            self.assertEqual(set(services[name]["networks"]), {"services"})
        allowed = ",".join(f"{address}/32" for address in reached)
        self.assertIn(f"--allowed-tcp={allowed}", services["tunnel"]["command"])

    def test_the_tunnel_can_do_no_more_than_it_must(self):
        tunnel = manifests.compose()["services"]["tunnel"]
        self.assertEqual((tunnel["read_only"], tunnel["cap_drop"]), (True, ["ALL"]))
        self.assertEqual(tunnel["user"].split(":"), user())
        self.assertEqual(tunnel["image"], NAME)
        self.assertNotIn("environment", tunnel)
        drains = next(word for word in tunnel["command"] if word.startswith("--drain-timeout="))
        self.assertGreater(int(tunnel["stop_grace_period"].rstrip("s")), int(drains.split("=")[1]))
