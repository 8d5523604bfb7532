"""What the chart renders and refuses: with Helm alone, and judged by a real API server."""
