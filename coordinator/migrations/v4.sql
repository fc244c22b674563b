-- How many devices an attempt is waiting for, over restarts.

-- Those that were selected as it opened, and those that have joined since, as marked; the announcement has the former.
ALTER TABLE rounds ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
