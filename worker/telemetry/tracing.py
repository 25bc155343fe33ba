"""Tracing: spans of a job from POST to result, sent to an OpenTelemetry collector (OTLP over HTTP) where one is set."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import EventDict, WrappedLogger

_tracer = trace.get_tracer("udig-recon")
_PROPAGATOR = TraceContextTextMapPropagator()
_EXPORT_SECONDS = 3  # a collector that is away does not hold up the end of a process for longer


def configure(endpoint: str | None, service: str, instance: str) -> None:
    """Send the spans of this process to the collector at this URL, if there is one. Needs the extra `tracing`."""
    if endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SystemExit(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but what it needs is missing: pip install 'udig-recon[tracing]'"
        ) from None
    about = {"service.name": service, "service.instance.id": instance, "service.version": version("udig-recon")}
    provider = TracerProvider(resource=Resource.create(about))
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


@contextmanager
def span(
    name: str,
    traceparent: str | None = None,
    attributes: Mapping[str, str | int] | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Iterator[Span]:
    """A span of what happens within, below `traceparent` or the current one.

    An error is recorded by its class alone: its message may quote a scan.
    """
    with _tracer.start_as_current_span(
        name,
        _context(traceparent),
        kind,
        attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except BaseException as error:
            made.set_status(StatusCode.ERROR)
            made.set_attribute("error.type", type(error).__name__)
            raise


def record(name: str, traceparent: str | None, began: datetime, ended: datetime) -> None:
    """A span of what has happened already."""
    past = _tracer.start_span(name, _context(traceparent), start_time=_nanoseconds(began))
    past.end(_nanoseconds(ended))


def current() -> str | None:
    """The current span as a W3C `traceparent`, for another process to go on from."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def add_trace_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Name the current trace in a line of the log."""
    context = trace.get_current_span().get_span_context()
    return {**event, "trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else event


def _context(traceparent: str | None) -> Context | None:
    return None if traceparent is None else _PROPAGATOR.extract({"traceparent": traceparent})


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1e9)
