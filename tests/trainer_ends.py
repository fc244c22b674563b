"""The two ends between an agent and its trainer child, for tests that have no process in between."""

from socket import socketpair

from edge.trainer.frames import Frames


def ends() -> tuple[Frames, Frames]:
    """The agent's and the child's."""
    agent, child = socketpair()
    return Frames(agent), Frames(child)


def unheard() -> Frames:
    """A child's whose agent has hung up."""
    return ends()[1]
