"""What every service shares: its lifecycle, the RPC server, metrics, logs, settings and the clock."""
