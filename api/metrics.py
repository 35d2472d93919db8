"""`GET /metrics`: figures of this gateway and of every host that it knows, as Prometheus reads them.

Hosts have no HTTP: the gateway asks them over the call that Ray carries anyway, all at once and with one time limit, so
a dead host costs a scrape no more than that and shows as `perdure_host_up 0`. Whoever asks needs the right `read` of
all types (`*:read`). `?hosts=false`: the gateway's own figures only. Where there are several gateways, scrape each of
them so, and the hosts through any one.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute

from ..entities.errors import NotConnected
from ..entities.metrics import CATALOGUE, HOST_UP, Metric, MetricKind, Reading, Spread
from .answering import answering
from .archive_openapi import asked, described
from .exchange import caller_of
from .metered import RequestMeter
from .principal import Principal, Right
from .requests import read_flag
from .settings import Settings

HOSTS_TIMEOUT_S = 3.0
"""For the answers of all hosts together: well below the 10 s that Prometheus waits."""
GATEWAY = "gateway"
"""The label `host` of what the gateway's own router counts."""

_BY_NAME = {metric.name: metric for metric in CATALOGUE}


@runtime_checkable
class KnowsHosts(Protocol):
    """A caller that can ask hosts for their metrics."""

    async def readings(self, *, timeout_s: float) -> dict[str, Reading | None]:
        """By host; None: no answer in time."""
        ...

    def add_to(self, reading: Reading) -> None:
        """Its own."""
        ...


def metrics_routes(settings: Settings, meter: RequestMeter) -> list[BaseRoute]:
    """The route, for an application that is guarded elsewhere."""
    router = APIRouter(redirect_slashes=False)

    async def metrics(request: Request, _: Principal) -> Response:
        readings: dict[str, Reading | None] = {"": meter.reading()}
        try:
            caller: object = caller_of(request)
        except NotConnected:
            caller = None
        if isinstance(caller, KnowsHosts):
            readings[GATEWAY] = own = Reading()
            caller.add_to(own)
            if "hosts" not in request.query_params or read_flag(request, "hosts"):
                hosts = await caller.readings(timeout_s=HOSTS_TIMEOUT_S)
                for host, reading in hosts.items():
                    shown = readings[host] = reading or Reading()
                    shown.add(HOST_UP, reading is not None)
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(_registry(readings)), headers={"Cache-Control": "no-store", "Content-Type": media_type})

    router.add_api_route(
        "/metrics",
        answering(metrics, Right.READ, settings),
        methods=["GET"],
        summary="Metrics for Prometheus",
        tags=["health"],
        response_class=PlainTextResponse,
        **described([asked("hosts", "boolean", "Those of all hosts, too (default: true).")]),
    )
    return list(router.routes)


class _Collector(Collector):
    """What was gathered for one scrape."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _registry(readings: Mapping[str, Reading | None]) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(list(families_of(readings))))
    return registry


def families_of(readings: Mapping[str, Reading | None]) -> Iterator[Family]:
    """Every metric of the catalogue that somebody reports, by host (empty: the gateway)."""
    levels: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    spreads: dict[str, HistogramMetricFamily] = {}
    for one in CATALOGUE:
        if one.kind is MetricKind.COUNTER:
            levels[one.name] = CounterMetricFamily(one.name, one.help, labels=one.all_labels)
        elif one.kind is MetricKind.GAUGE:
            levels[one.name] = GaugeMetricFamily(one.name, one.help, labels=one.all_labels)
        else:
            spreads[one.name] = HistogramMetricFamily(one.name, one.help, labels=one.all_labels)
    for host, reading in readings.items():
        if reading is None:
            continue
        for level in reading.levels:
            if level.name in levels:  # else of another release, during an upgrade
                levels[level.name].add_metric(_labels(_BY_NAME[level.name], host, level.labels), level.value)
        for spread in reading.spreads:
            metric = _BY_NAME.get(spread.name)
            if metric is not None and len(spread.counts) == len(metric.bounds) + 1 and metric.bounds:
                labels = _labels(metric, host, spread.labels)
                spreads[spread.name].add_metric(labels, _buckets(metric, spread), spread.sum)
    yield from levels.values()
    yield from spreads.values()


def _labels(metric: Metric, host: str, labels: tuple[str, ...]) -> list[str]:
    return list(labels) if metric.is_of_gateway else [host, *labels]


def _buckets(metric: Metric, spread: Spread) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(float, metric.bounds), float("inf")), spread.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    return buckets
