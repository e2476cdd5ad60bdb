// Logs in as Jitsi's web client does, without a password and with room and token in the URL, and joins a room with strophe.js:
//
//	node jitsi.mjs URL DOMAIN ROOM
import { $pres, Strophe } from 'strophe.js';
import { WebSocket } from 'ws';
import { Inbox } from './lib.mjs';

globalThis.WebSocket ??= WebSocket; // Node has one of its own from version 22 on

const [, , url, domain, room] = process.argv;
const { Status } = Strophe;
const statuses = new Inbox();
const presences = new Inbox();
const connection = new Strophe.Connection(url);
connection.connect(domain, null, (status, reason) => statuses.push({ status, reason }));
const { status, reason } = await statuses.until(
  (s) => [Status.CONNECTED, Status.AUTHFAIL, Status.CONNFAIL, Status.ERROR, Status.DISCONNECTED].includes(s.status), 'connection');
if (status !== Status.CONNECTED) throw new Error(`status ${status}, ${reason}`);
connection.addHandler((p) => { presences.push(p.getAttribute('from')); return true; }, null, 'presence');
connection.send($pres({ to: `${room}/me` }).c('x', { xmlns: 'http://jabber.org/protocol/muc' }));
await presences.until((from) => from === `${room}/me`, 'own presence in the room');
console.log('joined');
process.exit(0);
