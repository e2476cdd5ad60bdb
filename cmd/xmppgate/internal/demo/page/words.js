// What XMPP and WebSocket say in names and numbers, in words.

const login = { // SASL, RFC 6120, section 6.5
  'aborted': 'The login was cancelled',
  'account-disabled': 'This account is disabled',
  'credentials-expired': 'The password has expired',
  'encryption-required': 'The server wants an encrypted connection for this login',
  'incorrect-encoding': 'The server could not read the login',
  'invalid-authzid': 'This account may not be used with this login',
  'invalid-mechanism': 'The server does not know this way to log in',
  'malformed-request': 'The server could not read the login',
  'mechanism-too-weak': 'The server asks for a stronger way to log in',
  'not-authorized': 'The address or the password is wrong',
  'temporary-auth-failure': 'The server cannot check passwords at the moment; try again later',
};

const stream = { // stream errors, RFC 6120, section 4.9.3
  'bad-format': 'The server could not read what this page sent',
  'bad-namespace-prefix': 'The server could not read what this page sent',
  'conflict': 'The same session was opened somewhere else',
  'connection-timeout': 'The server heard nothing for too long',
  'host-gone': 'The server no longer serves this domain',
  'host-unknown': 'The server does not serve the domain of this address',
  'improper-addressing': 'The server could not read the address',
  'internal-server-error': 'Something went wrong in the server',
  'invalid-from': 'The server did not accept the sender address',
  'invalid-namespace': 'The server could not read what this page sent',
  'invalid-xml': 'The server could not read what this page sent',
  'not-authorized': 'The server wants a login first',
  'not-well-formed': 'The server could not read what this page sent',
  'policy-violation': 'It was against the rules of the server',
  'remote-connection-failed': 'The gateway cannot reach the XMPP server',
  'reset': 'The server closed the session; log in again',
  'resource-constraint': 'The server is overloaded',
  'restricted-xml': 'The server could not read what this page sent',
  'see-other-host': 'Another server serves this account',
  'system-shutdown': 'The server is being shut down',
  'undefined-condition': 'The server gave no reason',
  'unsupported-encoding': 'The server could not read what this page sent',
  'unsupported-feature': 'The server lacks something that this page needs',
  'unsupported-stanza-type': 'The server could not read what this page sent',
  'unsupported-version': 'The server speaks another version of XMPP',
};

const stanza = { // stanza errors, RFC 6120, section 8.3.3
  'bad-request': 'the server could not read it',
  'conflict': 'the server has something by that name already',
  'feature-not-implemented': 'the other side cannot do this',
  'forbidden': 'you may not write there',
  'gone': 'the address is no longer in use',
  'internal-server-error': 'something went wrong in the server',
  'item-not-found': 'there is nobody by that address',
  'jid-malformed': 'the address is not valid',
  'not-acceptable': 'it was not accepted',
  'not-allowed': 'nobody may write there',
  'not-authorized': 'a login is needed first',
  'policy-violation': 'it was against the rules of the server',
  'recipient-unavailable': 'the recipient is not there',
  'redirect': 'the recipient has another address',
  'registration-required': 'one has to register there first',
  'remote-server-not-found': 'the server of that address was not found',
  'remote-server-timeout': 'the server of that address does not answer',
  'resource-constraint': 'the server is overloaded',
  'service-unavailable': 'there is nobody by that address, or nobody who receives messages',
  'subscription-required': 'the recipient takes messages from contacts only',
  'undefined-condition': 'the server gave no reason',
  'unexpected-request': 'the server did not expect it now',
};

const closing = { // RFC 6455, section 7.4.1
  1000: 'closed normally',
  1001: 'the other side goes away',
  1002: 'broken WebSocket protocol',
  1003: 'data of a kind that is not accepted',
  1005: 'closed without a code',
  1006: 'lost without a goodbye',
  1007: 'text that is not valid',
  1008: 'against the rules of the gateway',
  1009: 'a message was too large',
  1011: 'something went wrong in the gateway',
  1012: 'the gateway restarts',
  1013: 'the gateway is overloaded; try again later',
  4000: 'cut by this page',
};

// plain are the conditions to which the server's own text adds nothing but
// details of the protocol.
const plain = ['not-authorized', 'service-unavailable'];

// say finds the words for an error element and adds what the server wrote
// itself. A condition that the table lacks is at least made of words.
function say(table, error) {
  const parts = [...error?.children ?? []];
  const condition = parts.find((c) => c.localName !== 'text')?.localName ?? 'undefined-condition';
  const own = parts.find((c) => c.localName === 'text')?.textContent.trim();
  const words = Object.hasOwn(table, condition) ? table[condition] : condition.replaceAll('-', ' ');
  return own && !plain.includes(condition) ? `${words} (“${own}”)` : words;
}

export const loginWords = (error) => say(login, error);
export const streamWords = (error) => say(stream, error);
export const stanzaWords = (error) => say(stanza, error);
export const closeWords = (code, reason) => [closing[code] ?? 'closed', reason && `(“${reason}”)`].filter(Boolean).join(' ');
