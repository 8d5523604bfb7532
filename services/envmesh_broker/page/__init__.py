"""The live page: the fleet at a glance, in a browser, from the broker itself."""
