"""Metrics of the replicas. A gateway with a single Triton has none of these series."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class ReplicaMetrics:
    """Collectors with the label `replica`, which is a replica's address."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, description: str) -> Gauge:
            return Gauge(f"gateway_replica_{name}", description, ["replica"], registry=registry)

        def counter(name: str, description: str) -> Counter:
            return Counter(f"gateway_replica_{name}", description, ["replica"], registry=registry)

        self.in_rotation = gauge("in_rotation", "1 while requests are sent to the replica, else 0.")
        self.outstanding = gauge("outstanding", "Requests that the replica has not answered yet.")
        self.picked = counter("picked", "Requests sent to the replica, those that are asked again included.")
        self.failed = counter("failed", "Requests that the replica refused as overloaded, failed on or lost.")
        self.ejected = counter("ejected", "Times that the replica left the rotation.")
        self._families = (self.in_rotation, self.outstanding, self.picked, self.failed, self.ejected)

    def add(self, replica: str) -> None:
        """Adds a replica: its series begin at 0."""
        for family in self._families:
            family.labels(replica)

    def forget(self, replica: str) -> None:
        """Removes the series of a replica that is gone."""
        for family in self._families:
            family.remove(replica)
