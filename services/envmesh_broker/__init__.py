"""The broker: places leases on hosts, admits and queues."""
