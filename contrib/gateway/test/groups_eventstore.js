#!/usr/bin/env node
require('./groups')('eventstore');
