"""What you look at. The only room that imports plotly.

A figure is a function of a result that returns a `plotly.graph_objects.Figure` and never shows it; it computes nothing. One figure
family a file, found by name: a result whose `figure` is "tracing" is drawn by `interp.figures.tracing.plot(result, **options)`.
Every family takes `theme="screen"` or `theme="paper"`, the same data in both.
"""
