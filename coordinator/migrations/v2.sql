-- A round's deadline over restarts, and updates that count in a later round than the one they answer.

-- How long the attempt has been open, on the round's own clock.
ALTER TABLE rounds ADD COLUMN elapsed_s REAL NOT NULL DEFAULT 0.0;

-- The attempt in which an update counts; ``nonce`` is of the one that it answers.
ALTER TABLE updates ADD COLUMN counted TEXT REFERENCES rounds;
UPDATE updates SET counted = nonce;
DROP INDEX updates_by_nonce;
CREATE INDEX updates_by_counted ON updates (counted);

DROP TRIGGER updates_of_open_rounds;
CREATE TRIGGER updates_of_open_rounds BEFORE INSERT ON updates
WHEN NOT EXISTS (
  SELECT 1 FROM rounds
  WHERE nonce = NEW.counted AND run = NEW.run AND round >= NEW.round AND task = NEW.task AND phase = 'collecting'
)
BEGIN SELECT RAISE(ABORT, 'an update for a round that is not open'); END;
