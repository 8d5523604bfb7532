"""``envmesh report``: a run's recording and metrics as one page that people can send around."""
