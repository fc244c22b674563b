"""The server: rounds, aggregation, journal, models. Needs no ML framework to average."""
