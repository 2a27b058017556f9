-- raw has no categories: for the category pages a copy of it that has them, and
-- the index that such a query wants.  Outside the measured sizes.
CREATE TABLE bench.events_by_category AS
	SELECT split_part(stream_id, '-', 1) AS category, * FROM events ORDER BY global_position;
CREATE INDEX ON bench.events_by_category (category, global_position);
