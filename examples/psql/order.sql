-- An order, from psql.
--
--     psql -f examples/orders.sql             once
--     psql -f examples/psql/order.sql

SELECT 'Order-' || gen_random_uuid() AS order, gen_random_uuid() AS item_id \gset
\pset footer off

\echo A new stream: expected version 0 means that it must not exist yet.
SELECT version, is_duplicate
  FROM es_append(:'order', 0, 'OrderPlaced', '{"total": 10, "currency": "EUR"}', schema_version => 2);

\echo Always SELECT * FROM es_append(...): "SELECT (es_append(...)).*" would append once for each column.
\echo The next event, by somebody who has seen version 1.
SELECT version, global_position AS position
  FROM es_append(:'order', 1, 'ItemAdded', '{"price": 2.5}', metadata => '{"user_id": "u7"}') \gset
\echo version :version

\echo Read your writes: wait until the projection has it, then ask the read model.
SELECT es_wait_projection('order_summary', :position, '10 s') AS there;
SELECT status, items FROM shop.order_summary WHERE order_id = :'order';

\echo The answer got lost, and the same append is sent once more, with the same event id and the same expected version.
SELECT version, is_duplicate FROM es_append(:'order', 2, 'ItemAdded', '{"price": 1}', event_id => :'item_id');
SELECT version, is_duplicate FROM es_append(:'order', 2, 'ItemAdded', '{"price": 1}', event_id => :'item_id');

\echo Somebody who has not seen it: an error (VE001), and nothing is written.  Load, decide anew, append.
\set ON_ERROR_STOP off
SELECT * FROM es_append(:'order', 2, 'OrderCancelled', '{}');
\set ON_ERROR_STOP on

\echo A command handler in SQL: the decision and the append see the same version, or the append refuses.
SELECT a.version
  FROM es_state(:'order') AS s,
       es_append(:'order', s.version, 'ItemAdded', jsonb_build_object('price', (s.state->>'items')::int * 10)) AS a;

\echo A consumer group: fetch, handle, acknowledge.  Here psql is the member; any number can share the work.
SELECT max(global_position) AS last, bool_or(stream_id = :'order') AS mine
  FROM es_fetch('shipping', 100, '1 s', member => 'psql-1') \gset
\echo the order is among them: :mine
SELECT version FROM es_append(:'order', es_exists(), 'OrderShipped', '{}');
SELECT es_ack('shipping', :last, member => 'psql-1');
SELECT es_leave('shipping', 'psql-1');

\echo The state: all events folded by shop.fold_order, from the newest snapshot on.
SELECT version, state FROM es_state(:'order');
\echo As it was at version 2.
SELECT version, state FROM es_state(:'order', at_version => 2);

\echo An event in the shape of long ago is read in the shape of today.
SELECT 'Order-' || gen_random_uuid() AS old \gset
SELECT version FROM es_append(:'old', 0, 'OrderPlaced', '{"cents": 1250}', schema_version => 1);
SELECT event_type, schema_version, data FROM es_read_stream(:'old');
