"""Pure functions: a frame in, a plotly figure and one sentence that says how to read it out."""
