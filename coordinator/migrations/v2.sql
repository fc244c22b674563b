-- How long an attempt has been open, on the round's own clock: a restart goes on with the same deadline.

ALTER TABLE rounds ADD COLUMN elapsed_s REAL NOT NULL DEFAULT 0.0;
