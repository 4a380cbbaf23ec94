"""No test of this room reports its use to anyone."""

from pipelines.environment import silence_telemetry

silence_telemetry()
