"""Real processes, a thousand episodes and a schedule of accidents: nothing is lost, nothing is done twice."""
