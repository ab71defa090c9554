"""Stats of containers, their health, and the session with the telemetry backend."""
