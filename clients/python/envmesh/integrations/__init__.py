"""envmesh as other libraries know environments. Each module needs the library it is named after."""
