from coordinator.pause import LONGEST_RETRY_S, RETRY_S, Pause


def test_each_failure_waits_twice_as_long_up_to_a_bound() -> None:
    pause, waits = Pause.after(None, 100.0), []
    for _ in range(2000):
        waits.append(pause.retry_at - 100.0)
        pause = Pause.after(pause, 100.0)
    assert waits[:5] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S, 8 * RETRY_S, 16 * RETRY_S]
    assert set(waits[5:]) == {LONGEST_RETRY_S}
