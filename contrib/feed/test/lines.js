// A file of lines.
'use strict';
const { folder } = require('./lib');
const fs = require('node:fs');
const path = require('node:path');

class Lines {
  constructor() {
    this.name = 'lines';
    this.suppresses = true;
    this.file = path.join(folder, 'events.jsonl');
  }

  async start() {}

  async stop() {}

  args() {
    return ['--sink=lines', `--target=${this.file}`];
  }

  async read() {
    if (!fs.existsSync(this.file)) return [];
    return fs.readFileSync(this.file).toString().split('\n').slice(0, -1).map((line) => JSON.parse(line));
  }

  async count() {
    return (await this.read()).length;
  }
}

module.exports = { Lines };
