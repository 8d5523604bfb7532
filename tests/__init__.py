"""The tests: unit, compliance, integration, simulation, engineering, chart and cluster."""
