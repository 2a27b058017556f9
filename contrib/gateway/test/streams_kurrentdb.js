#!/usr/bin/env node
require('./streams')('kurrentdb');
