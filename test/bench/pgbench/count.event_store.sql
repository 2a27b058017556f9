SELECT count(stream_id) FROM es_read_all(NULL, NULL);
