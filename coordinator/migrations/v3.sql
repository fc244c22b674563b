-- A large update in pieces: SQLite copies a row whole, more than once, to write it.

-- What follows of ``updates.blob``, whose own length is one piece at most; the update's ``received`` * 65536 + 1, 2, ...
CREATE TABLE pieces (
  place INTEGER PRIMARY KEY,
  bytes BLOB NOT NULL
) STRICT;

CREATE TRIGGER pieces_go_with_their_update AFTER DELETE ON updates
BEGIN DELETE FROM pieces WHERE place BETWEEN OLD.received * 65536 AND OLD.received * 65536 + 65535; END;
