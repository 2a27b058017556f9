#!/usr/bin/env node
require('./streams')('eventstore');
