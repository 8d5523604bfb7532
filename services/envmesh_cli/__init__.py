"""The command line: `envmesh --help` is its documentation."""
