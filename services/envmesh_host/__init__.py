"""The host: runs environments and speaks EnvironmentService."""
