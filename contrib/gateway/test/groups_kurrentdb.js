#!/usr/bin/env node
require('./groups')('kurrentdb');
