-- What the examples share: how the state of an order is computed, how its old
-- events are read, and a read model that the server keeps up to date.  Load it
-- once, as a superuser or a role with es_grant(..., 'admin'), after
-- CREATE EXTENSION event_store.

CREATE SCHEMA shop;

-- Old events in today's shape.  The first orders had an amount in cents; today
-- they have a total, and a currency.  The stored events stay as they are.
CREATE FUNCTION shop.order_placed_1_to_2(data jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE AS $$
    SELECT data - 'cents' || jsonb_build_object('total', (data->>'cents')::numeric / 100, 'currency', 'EUR')
    $$;
SELECT es_define_upcaster('OrderPlaced', 1, 'shop.order_placed_1_to_2(jsonb)');

-- The state of an order: its events, folded one after the other.  es_state()
-- keeps a snapshot every 50 events, so the longest order loads in one call.
CREATE FUNCTION shop.fold_order(state jsonb, event es_event) RETURNS jsonb
    LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE (event).event_type
        WHEN 'OrderPlaced'  THEN state || (event).data || '{"status": "placed", "items": 0}'
        WHEN 'ItemAdded'    THEN state || jsonb_build_object('items', (state->>'items')::int + 1,
                                 'total', (state->>'total')::numeric + ((event).data->>'price')::numeric)
        WHEN 'OrderShipped' THEN state || '{"status": "shipped"}'
        ELSE state
    END
    $$;
SELECT es_define_aggregate('Order', 'shop.fold_order(jsonb,es_event)', snapshot_every => 50);

-- The read model: a table, and a handler that is called once for each event.
-- What it writes and how far it has come are committed together.
CREATE TABLE shop.order_summary (order_id text PRIMARY KEY, status text NOT NULL, items int NOT NULL);
CREATE FUNCTION shop.on_order(e es_event) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO shop.order_summary
        SELECT (e).stream_id, 'placed', 0 WHERE (e).event_type = 'OrderPlaced';
    UPDATE shop.order_summary
       SET items = items + ((e).event_type = 'ItemAdded')::int,
           status = CASE (e).event_type WHEN 'OrderShipped' THEN 'shipped' ELSE status END
     WHERE order_id = (e).stream_id AND (e).event_type <> 'OrderPlaced';
    $$;
-- what a rebuild begins with
CREATE FUNCTION shop.empty_order_summary() RETURNS void
    LANGUAGE sql AS 'TRUNCATE shop.order_summary';
SELECT es_create_projection('order_summary', 'shop.on_order(es_event)', categories => '{Order}',
                            reset_handler => 'shop.empty_order_summary()');

-- A consumer group: several processes share the work, the events of one order
-- stay in order, and the server keeps the place of each.
SELECT es_create_subscription('shipping', categories => '{Order}', event_types => '{OrderPlaced}', slots => 16);
