"""Who has ever been heard of, and what was turned away, in the journal: what helps its reader and decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from coordinator import rows
from coordinator.database import Database
from schemas.messages import MAX_DEVICES, DeviceStatus

_STATUS: Final = "SELECT status FROM devices WHERE device = ?"


class Roster:
    """The devices and the rejections of one journal. Every method raises ``StateError`` where the disk won't."""

    def __init__(self, database: Database) -> None:
        """``database`` is the journal's, which closes it."""
        self._database = database
        # No fewer than there are: a batch that is rolled back takes its devices back, and this number doesn't follow.
        self._count = rows.integer(self._database.execute("SELECT count(*) FROM devices")[0][0])

    def add(self, status: DeviceStatus, at: str) -> None:
        """Note a device's newest status. Those unheard for longest are forgotten where it would be one too many."""
        if not self._database.execute("SELECT 1 FROM devices WHERE device = ?", (status.device,)):
            self._make_room()
        self._database.execute(
            """INSERT INTO devices (device, first_seen, last_seen, status) VALUES (?1, ?2, ?2, ?3)
               ON CONFLICT DO UPDATE SET last_seen = excluded.last_seen, status = excluded.status""",
            (status.device, at, status.model_dump_json()),
        )

    def _make_room(self) -> None:
        """Forget a good number at once: to find the oldest, all have to be read."""
        if self._count >= MAX_DEVICES:
            self._count = rows.integer(self._database.execute("SELECT count(*) FROM devices")[0][0])
        if self._count >= MAX_DEVICES:
            self._database.execute(
                "DELETE FROM devices WHERE device IN (SELECT device FROM devices ORDER BY last_seen LIMIT ?)",
                (self._count - MAX_DEVICES + MAX_DEVICES // 20 + 1,),
            )
            self._count = rows.integer(self._database.execute("SELECT count(*) FROM devices")[0][0])
        self._count += 1

    def devices(self) -> tuple[DeviceStatus, ...]:
        """The newest status of each device ever seen, by name."""
        found = self._database.execute("SELECT status FROM devices ORDER BY device")
        return tuple(rows.message(DeviceStatus, row[0]) for row in found)

    def made_up(self, devices: Iterable[str]) -> frozenset[str]:
        """Those of ``devices`` whose newest status says that their people are made up."""
        found = ((device, self._database.execute(_STATUS, (device,))) for device in devices)
        return frozenset(device for device, row in found if row and rows.message(DeviceStatus, row[0][0]).synthetic)

    def add_rejections(self, run: str, number: int, counts: Mapping[str, int]) -> None:
        """Add to the counts of rejected messages; ``commit_round`` adds those of its summary itself."""
        with self._database.batch():
            for reason, count in counts.items():
                self._database.execute(
                    """INSERT INTO rejections (run, round, reason, count) VALUES (?, ?, ?, ?)
                       ON CONFLICT DO UPDATE SET count = count + excluded.count""",
                    (run, number, reason, count),
                )

    def rejections(self, run: str) -> dict[str, int]:
        """Rejected messages of a run by reason."""
        sql = "SELECT reason, sum(count) FROM rejections WHERE run = ? GROUP BY reason"
        return {rows.text(reason): rows.integer(count) for reason, count in self._database.execute(sql, (run,))}
