"""The protocol as tests, held against a host in any language."""
