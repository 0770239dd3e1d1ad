"""Logs: one JSON object a line, or readable columns where a terminal is attached."""

import logging
import sys

import structlog
from structlog.typing import FilteringBoundLogger, Processor


def configure() -> None:
    """Send structured logs to stderr."""
    terminal = sys.stderr.isatty()
    renderer: Processor = structlog.processors.JSONRenderer()
    if terminal:
        renderer = structlog.dev.ConsoleRenderer(pad_event_to=24)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def get() -> FilteringBoundLogger:
    """Give a logger; events are short and lower-case, facts are keyword arguments."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger
