-- Courses and students, the example of dcb.events: a course has a capacity, and
-- a student takes at most two courses.  Neither rule belongs to one stream.
--
--   psql -X -q -v ON_ERROR_STOP=1 -f examples/psql/course.sql

-- what a subscription depends on, and what is made of it
CREATE FUNCTION course_query(course text, student text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('items', jsonb_build_array(
        jsonb_build_object('event_types', ARRAY['CourseDefined', 'CapacityChanged', 'StudentSubscribed'],
                           'tags', ARRAY['course:' || course]),
        jsonb_build_object('event_types', ARRAY['StudentSubscribed'], 'tags', ARRAY['student:' || student])))
$$;

CREATE FUNCTION course_reduce(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE event.event_type
        WHEN 'StudentSubscribed' THEN jsonb_set(state, '{subscribed}', state -> 'subscribed' || event.data)
        ELSE state || event.data END
$$;

-- one attempt; VE007 when somebody was faster: decide anew
CREATE PROCEDURE subscribe(course text, student text) LANGUAGE plpgsql AS $$
DECLARE
    decision record;
    subscribed jsonb;
BEGIN
    SELECT * INTO decision
      FROM es_decide(course_query(course, student), 'course_reduce(jsonb, es_event)', '{"subscribed": []}');
    subscribed := decision.state -> 'subscribed';
    IF NOT decision.state ? 'capacity' THEN
        RAISE EXCEPTION 'there is no course %', course;
    ELSIF subscribed @> jsonb_build_array(jsonb_build_object('course', course, 'student', student)) THEN
        RAISE EXCEPTION '% is subscribed to % already', student, course;
    ELSIF jsonb_array_length(jsonb_path_query_array(subscribed, '$[*] ? (@.course == $c)', jsonb_build_object('c', course)))
          >= (decision.state ->> 'capacity')::int THEN
        RAISE EXCEPTION 'course % is full', course;
    ELSIF jsonb_array_length(jsonb_path_query_array(subscribed, '$[*] ? (@.student == $s)', jsonb_build_object('s', student))) >= 2 THEN
        RAISE EXCEPTION '% takes two courses already', student;
    END IF;
    PERFORM es_append_if(
        jsonb_build_array(jsonb_build_object('event_type', 'StudentSubscribed',
            'data', jsonb_build_object('course', course, 'student', student),
            'tags', ARRAY['course:' || course, 'student:' || student])),
        course_query(course, student), decision.after_position);
    RAISE NOTICE '% subscribed to %', student, course;
END
$$;

SELECT es_append_if(jsonb_build_array(jsonb_build_object('event_type', 'CourseDefined', 'data', '{"capacity": 2}'::jsonb,
                                                         'tags', ARRAY['course:' || c])),
                    jsonb_build_object('items', jsonb_build_array(jsonb_build_object('event_types', ARRAY['CourseDefined'],
                                                                                     'tags', ARRAY['course:' || c]))))
  FROM unnest(ARRAY['c1', 'c2', 'c3']) AS c;
CALL subscribe('c1', 'anna');
CALL subscribe('c2', 'anna');
CALL subscribe('c1', 'ben');
\set ON_ERROR_STOP off
CALL subscribe('c3', 'anna');
CALL subscribe('c1', 'carl');
CALL subscribe('c1', 'ben');
CALL subscribe('c9', 'carl');
\set ON_ERROR_STOP on
SELECT event_type, data, es_tags(e) AS tags FROM es_read_query('{"items": [{"tags": ["course:c1"]}]}') AS e;
