from hypothesis import given
from hypothesis import strategies as st

from schemas import cohort

NONCE = "0" * 16
DEVICES = [f"device-{number}" for number in range(2000)]


def test_a_draw_is_the_same_on_every_machine() -> None:
    """Both ends compute it, whatever their software: the figure is what ``sha256sum`` says of nonce/device."""
    assert cohort.draw(NONCE, "pi-1") == 0x0D40CE5D6127 / 2**48
    assert cohort.draw("f" * 16, "pi-1") != cohort.draw(NONCE, "pi-1")


def test_draws_are_uniform_over_devices() -> None:
    draws = sorted(cohort.draw(NONCE, device) for device in DEVICES)
    assert 0 <= draws[0] <= draws[-1] < 1
    largest_gap = max(abs(draw - rank / len(draws)) for rank, draw in enumerate(draws))
    assert largest_gap < 1.95 / len(draws) ** 0.5  # Kolmogorov and Smirnov at 0.1 %


def test_each_nonce_picks_others() -> None:
    def picked(nonce: str) -> set[str]:
        limit = cohort.bound(nonce, DEVICES, 200)
        return {device for device in DEVICES if cohort.draw(nonce, device) < limit}

    assert len(picked(NONCE) & picked("1" * 16)) < 50  # 20 by chance


@given(st.lists(st.integers(0, 10_000).map(lambda n: f"dev-{n}"), unique=True, max_size=40), st.integers(0, 50))
def test_the_bound_lets_in_exactly_as_many_as_wanted(devices: list[str], wanted: int) -> None:
    limit = cohort.bound(NONCE, devices, wanted)
    assert sum(cohort.draw(NONCE, device) < limit for device in devices) == min(wanted, len(devices))


def test_where_all_are_wanted_newcomers_are_let_in_too() -> None:
    assert cohort.bound(NONCE, DEVICES[:10], 10) == 1.0
    assert cohort.bound(NONCE, [], 0) == 1.0


@given(st.sampled_from(DEVICES), st.floats(0, 1))
def test_a_device_is_in_the_cohort_where_its_draw_is_below_the_bound(device: str, bound: float) -> None:
    assert cohort.has(NONCE, device, bound) == (cohort.draw(NONCE, device) < bound)
    assert cohort.has(NONCE, device, 1.0)
