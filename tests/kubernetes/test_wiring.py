"""The objects of the chart against each other: selectors, ports, policies, monitors, routes."""

import json
from typing import Any

import pytest
import yaml
from charts import (
    NAMESPACE,
    RENDERINGS,
    Object,
    environment_of,
    named,
    of_kind,
    pod,
    pods,
    ports_of,
    rendering,
)
from stack import REPOSITORY

from gateway.app import create_app
from gateway.fetching.addresses import NOT_PUBLIC_IPV4, NOT_PUBLIC_IPV6
from gateway.fetching.network import PUBLIC_PORTS
from gateway.settings import Settings

LABELS = {
    *(f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "version", "part-of", "managed-by")),
    "helm.sh/chart",
}


@pytest.fixture(params=RENDERINGS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return rendering(request.param)


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def selected(objects: list[Object], selector: dict[str, str]) -> set[str]:
    """The owners of the pods that a selector matches."""
    return {found.owner for found in pods(objects) if selects(selector, found.labels)}


def test_every_object_has_the_usual_labels(objects: list[Object]) -> None:
    for rendered in objects:
        assert rendered["metadata"]["labels"].keys() >= LABELS, rendered["kind"]


def test_every_selector_finds_the_pods_of_its_component(objects: list[Object]) -> None:
    for rendered in objects:
        spec, component = rendered.get("spec", {}), rendered["metadata"]["labels"]["app.kubernetes.io/component"]
        if rendered["kind"] == "Service":
            selector = spec["selector"]
        elif rendered["kind"] in ("Deployment", "PodDisruptionBudget", "PodMonitor", "ServiceMonitor"):
            selector = spec["selector"]["matchLabels"]
        elif rendered["kind"] == "NetworkPolicy":
            selector = spec["podSelector"]["matchLabels"]
        else:
            continue
        if component != "weights":  # only a claim has a Job
            assert selected(objects, selector) == {f"Deployment {component}"}
        assert "app.kubernetes.io/version" not in selector, "it changes, and a Deployment's selector may not"


def test_services_lead_to_ports_of_their_pods(objects: list[Object]) -> None:
    for service in of_kind(objects, "Service"):
        ports = ports_of(pod(objects, service["metadata"]["labels"]["app.kubernetes.io/component"]).main)
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports


def test_the_gateway_calls_triton_by_its_headless_service(objects: list[Object]) -> None:
    environment = environment_of(pod(objects, "gateway").main)
    service = named(objects, "Service", "paligemma-triton-headless")
    assert service["spec"]["clusterIP"] == "None"
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert environment["TRITON_GRPC_URL"] == f"dns:///paligemma-triton-headless:{ports['grpc']}"
    assert environment["TRITON_METRICS_URL"] == f"http://paligemma-triton-headless:{ports['metrics']}/metrics"
    triton = ports_of(pod(objects, "triton").main)
    assert ports.items() <= triton.items(), "a headless name has the pods' addresses, so the ports are the pods', too"


def test_everything_that_is_named_exists(objects: list[Object]) -> None:
    names = {(rendered["kind"], rendered["metadata"]["name"]) for rendered in objects}
    for found in pods(objects):
        assert ("ServiceAccount", found.spec["serviceAccountName"]) in names
        for volume in found.spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "mine")
            assert claim == "mine" or ("PersistentVolumeClaim", claim) in names
    for scaler in [*of_kind(objects, "ScaledObject"), *of_kind(objects, "HorizontalPodAutoscaler")]:
        target = scaler["spec"]["scaleTargetRef"]
        assert ("Deployment", target["name"]) in names
        scaled = named(objects, "Deployment", target["name"])
        assert "replicas" not in scaled["spec"], "an upgrade would undo the autoscaler's number"


def test_pods_of_a_component_are_spread(objects: list[Object]) -> None:
    for found in pods(objects):
        for spread in found.spec.get("topologySpreadConstraints", []):
            assert selected(objects, spread["labelSelector"]["matchLabels"]) == {found.owner}


def rules_to(policy: Object, port: str | int) -> list[Any]:
    """The peers that may reach a port."""
    return [
        peer
        for rule in policy["spec"]["ingress"]
        if any(allowed["port"] == port for allowed in rule["ports"])
        for peer in rule["from"]
    ]


def test_triton_is_reached_by_gateways_and_prometheus_alone() -> None:
    objects = rendering("values")
    policy = named(objects, "NetworkPolicy", "paligemma-triton")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert rules_to(policy, "http") == []
    (caller,) = rules_to(policy, "grpc")
    assert selected(objects, caller["podSelector"]["matchLabels"]) == {"Deployment gateway"}
    assert rules_to(policy, "metrics") == [caller, prometheus]
    assert rules_to(policy, "supervisor") == [prometheus]


def egress(objects: list[Object], component: str) -> list[Object]:
    return list(named(objects, "NetworkPolicy", f"paligemma-{component}")["spec"]["egress"])


def opened_blocks(rules: list[Object]) -> dict[str, Object]:
    """The address blocks that rules open, with the ports; all ports if None."""
    return {
        peer["ipBlock"]["cidr"]: {
            "except": peer["ipBlock"].get("except"),
            "ports": {port["port"] for port in rule["ports"]} if "ports" in rule else None,
        }
        for rule in rules
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    }


def test_the_gateway_reaches_the_addresses_that_it_fetches_from() -> None:
    """The same networks and ports as the gateway's own check, so that neither hides a hole in the other."""
    blocks = opened_blocks(egress(rendering("values"), "gateway"))
    assert blocks.keys() == {"0.0.0.0/0", "2000::/3"}
    assert blocks["0.0.0.0/0"] == {"except": [str(network) for network in NOT_PUBLIC_IPV4], "ports": PUBLIC_PORTS}
    assert blocks["2000::/3"] == {"except": [str(network) for network in NOT_PUBLIC_IPV6], "ports": PUBLIC_PORTS}


def test_networks_that_are_allowed_are_opened() -> None:
    objects = rendering("networks")
    public = {"0.0.0.0/0", "2000::/3"}
    gateway = opened_blocks(egress(objects, "gateway"))
    assert gateway.keys() - public == {"10.1.0.0/16", "10.2.0.0/16", "10.4.0.0/16"}
    assert all(gateway[network]["ports"] is None for network in gateway.keys() - public)
    for component in ("triton", "weights"):
        assert opened_blocks(egress(objects, component)).keys() - public == {"10.3.0.0/16"}
    (rule,) = named(objects, "NetworkPolicy", "paligemma-gateway")["spec"]["ingress"]
    assert rule["from"][0] == {"podSelector": {"matchLabels": {"app": "proxy"}}}


def test_without_fetching_nothing_outside_is_reached() -> None:
    objects = rendering("no-fetching")
    assert opened_blocks(egress(objects, "gateway")) == {}


@pytest.mark.parametrize("component", ["triton", "weights", "gateway"])
def test_name_servers_are_reached(component: str) -> None:
    (rule,) = [rule for rule in egress(rendering("values"), component) if "to" not in rule]
    assert {(port["port"], port["protocol"]) for port in rule["ports"]} == {(53, "UDP"), (53, "TCP")}


def test_the_alerts_are_those_of_compose() -> None:
    (rule,) = of_kind(rendering("values-multi-gpu"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((REPOSITORY / "deploy" / "prometheus" / "rules.yml").read_text())


def test_the_dashboard_is_that_of_compose() -> None:
    (found,) = of_kind(rendering("values-multi-gpu"), "ConfigMap")
    dashboard = REPOSITORY / "deploy" / "grafana" / "dashboards" / "paligemma.json"
    assert json.loads(found["data"]["paligemma.json"]) == json.loads(dashboard.read_text())


def test_monitors_scrape_what_compose_scrapes_under_the_same_jobs() -> None:
    """The alerts know the jobs by name."""
    objects = rendering("values-multi-gpu")
    (engines,), (gateways,) = of_kind(objects, "PodMonitor"), of_kind(objects, "ServiceMonitor")
    jobs = {}
    for monitor in (engines, gateways):
        component = monitor["metadata"]["labels"]["app.kubernetes.io/component"]
        assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/component"
        assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
        ports = ports_of(pod(objects, component).main)
        for endpoint in monitor["spec"].get("podMetricsEndpoints") or monitor["spec"]["endpoints"]:
            (job,) = [rule["replacement"] for rule in endpoint.get("relabelings", [])] or [component]
            jobs[job] = ports[endpoint["port"]]
    scrapes = yaml.safe_load((REPOSITORY / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert jobs == {
        scrape["job_name"]: int(scrape["static_configs"][0]["targets"][0].split(":")[1]) for scrape in scrapes
    }


def published(rendered: Object) -> set[str]:
    if rendered["kind"] == "HTTPRoute":
        (rule,) = rendered["spec"]["rules"]
        return {match["path"]["value"] for match in rule["matches"]}
    (rule,) = rendered["spec"]["rules"]
    return {path["path"] for path in rule["http"]["paths"]}


def paths_of(router: Any) -> set[str]:
    """The paths of an application, those of the routers that it includes among them."""
    paths: set[str] = set()
    for route in router.routes:
        included = getattr(route, "original_router", None)
        paths |= {route.path} if included is None else paths_of(included)
    return paths


@pytest.mark.parametrize(("name", "kind"), [("values-multi-gpu", "HTTPRoute"), ("ingress", "Ingress")])
def test_routes_publish_everything_but_the_metrics(name: str, kind: str) -> None:
    (route,) = of_kind(rendering(name), kind)
    settings = Settings(label_studio_url="http://label-studio:8080")
    served = {f"/{path.split('/')[1]}" for path in paths_of(create_app(settings))}
    assert published(route) == served - {"/metrics"}


def test_routes_wait_longer_than_the_gateway() -> None:
    (route,) = of_kind(rendering("values-multi-gpu"), "HTTPRoute")
    timeout_s = float(environment_of(pod(rendering("values-multi-gpu"), "gateway").main)["REQUEST_TIMEOUT_S"])
    (rule,) = route["spec"]["rules"]
    assert all(float(value.removesuffix("s")) > timeout_s for value in rule["timeouts"].values())
    (ingress,) = of_kind(rendering("ingress"), "Ingress")
    annotations = ingress["metadata"]["annotations"]
    assert float(annotations["nginx.org/proxy-read-timeout"].removesuffix("s")) > timeout_s
    largest = Settings().max_image_bytes * 4 / 3  # as base64
    assert int(annotations["nginx.org/client-max-body-size"].removesuffix("m")) * 1e6 > largest


def test_scaling_counts_the_engines_of_this_release() -> None:
    (scaler,) = of_kind(rendering("values-multi-gpu"), "ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    engines = f'{{namespace="{NAMESPACE}", pod=~"paligemma-triton-.*"}}'
    expected = f"sum(paligemma_pending_requests{engines}) + sum(paligemma_active_slots{engines})"
    assert trigger["metadata"]["query"] == expected
