"""What a model says of beats that nobody has labelled, of files and as they come, and how good it is."""
