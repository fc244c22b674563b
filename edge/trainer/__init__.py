"""The child process that trains, from both ends: the agent's pool of it, the frames between them, and its jobs."""
