-- The journal's first schema. Never edited once released: what changes later is v2.sql, run over this one.

CREATE TABLE session (
  only   INTEGER PRIMARY KEY CHECK (only = 1),
  number INTEGER NOT NULL
) STRICT;
INSERT INTO session VALUES (1, 0);

CREATE TABLE runs (
  run      TEXT PRIMARY KEY,
  settings TEXT NOT NULL,                    -- messages.RunSettings as JSON
  opened   TEXT NOT NULL,                    -- wall clock, ISO 8601, for people
  finished TEXT                              -- NULL while the run goes on
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_open_run ON runs (finished IS NULL) WHERE finished IS NULL;

CREATE TABLE models (
  run      TEXT NOT NULL REFERENCES runs,
  version  INTEGER NOT NULL CHECK (version >= 0),
  digest   TEXT NOT NULL CHECK (length(digest) = 64),
  previous TEXT,                             -- the digest of version - 1
  saved    TEXT NOT NULL,                    -- wall clock
  PRIMARY KEY (run, version),
  CHECK ((version = 0) = (previous IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER models_chain BEFORE INSERT ON models
WHEN NEW.version > 0 AND NOT EXISTS (
  SELECT 1 FROM models WHERE run = NEW.run AND version = NEW.version - 1 AND digest = NEW.previous
)
BEGIN SELECT RAISE(ABORT, 'a model version that does not follow the one before it'); END;

CREATE TRIGGER models_stay BEFORE UPDATE ON models
BEGIN SELECT RAISE(ABORT, 'a model version is never changed'); END;

-- One row for each attempt at a round's task. At most one of all is open: phase 'collecting'.
CREATE TABLE rounds (
  nonce         TEXT PRIMARY KEY,
  run           TEXT NOT NULL REFERENCES runs,
  round         INTEGER NOT NULL,
  task          TEXT NOT NULL CHECK (task IN ('train', 'evaluate')),
  attempt       INTEGER NOT NULL,
  phase         TEXT NOT NULL CHECK (phase IN ('collecting', 'committed', 'abandoned')),
  opened        TEXT NOT NULL,               -- wall clock
  deadline_s    REAL NOT NULL,               -- from the opening
  model_version INTEGER NOT NULL,            -- to start from, or to evaluate
  model_digest  TEXT NOT NULL,
  announcement  TEXT NOT NULL,               -- messages.RoundAnnouncement as JSON
  reason        TEXT,                        -- why it was abandoned
  summary       TEXT,                        -- messages.RoundSummary as JSON, of committed training
  UNIQUE (run, round, task, attempt),
  FOREIGN KEY (run, model_version) REFERENCES models (run, version),
  CHECK ((phase = 'abandoned') = (reason IS NOT NULL)),
  CHECK ((phase = 'committed' AND task = 'train') = (summary IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX one_open_round ON rounds (phase) WHERE phase = 'collecting';
CREATE UNIQUE INDEX committed_once ON rounds (run, round, task) WHERE phase = 'committed';

-- The updates a round has accepted. The blob is last, so that reading the other columns never reads its pages.
CREATE TABLE updates (
  received   INTEGER PRIMARY KEY,            -- rises in the order they came
  run        TEXT NOT NULL,
  round      INTEGER NOT NULL,
  task       TEXT NOT NULL,
  device     TEXT NOT NULL,
  nonce      TEXT NOT NULL REFERENCES rounds,
  examples   INTEGER NOT NULL CHECK (examples > 0),
  train_loss REAL,
  counts     TEXT,                           -- messages.Counts as JSON
  digest     TEXT NOT NULL,                  -- SHA-256 of the blob
  blob       BLOB NOT NULL,                  -- the update as it came
  UNIQUE (run, round, task, device)
) STRICT;
CREATE INDEX updates_by_nonce ON updates (nonce);

CREATE TRIGGER updates_of_open_rounds BEFORE INSERT ON updates
WHEN NOT EXISTS (
  SELECT 1 FROM rounds
  WHERE nonce = NEW.nonce AND run = NEW.run AND round = NEW.round AND task = NEW.task AND phase = 'collecting'
)
BEGIN SELECT RAISE(ABORT, 'an update for a round that is not open'); END;

CREATE TABLE metrics (
  run      TEXT NOT NULL,
  version  INTEGER NOT NULL,
  round    INTEGER NOT NULL,
  examples INTEGER NOT NULL,
  loss     REAL NOT NULL,
  accuracy REAL NOT NULL,
  macro_f1 REAL,
  metrics  TEXT NOT NULL,                    -- messages.Metrics as JSON
  PRIMARY KEY (run, version),
  FOREIGN KEY (run, version) REFERENCES models (run, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
  device     TEXT PRIMARY KEY,
  first_seen TEXT NOT NULL,                  -- wall clock
  last_seen  TEXT NOT NULL,
  status     TEXT NOT NULL                   -- messages.DeviceStatus as JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE rejections (
  run    TEXT NOT NULL,
  round  INTEGER NOT NULL,
  reason TEXT NOT NULL,                      -- errors.Reject
  count  INTEGER NOT NULL,
  PRIMARY KEY (run, round, reason)
) STRICT, WITHOUT ROWID;
