"""What both ends must agree on to talk, and nothing else."""

from schemas.late_modules import put_off

put_off("urllib.request")  # paho's, for a proxy: 0.6 MB with HTTP's client
put_off("google.protobuf.internal.python_message")  # protobuf's, for where it has no compiled half: 0.8 MB
