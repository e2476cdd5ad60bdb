// The client side of SCRAM (RFC 5802, RFC 7677). WebCrypto exists in secure
// contexts only: https, and http on localhost and 127.0.0.1.

// The hash functions by mechanism, the strongest first; [name, bits].
const hashes = {
  'SCRAM-SHA-512': ['SHA-512', 512],
  'SCRAM-SHA-256': ['SHA-256', 256],
  'SCRAM-SHA-1': ['SHA-1', 160],
};

const utf8 = (text) => new TextEncoder().encode(text);
const text = (bytes) => new TextDecoder().decode(bytes);
export const encode = (value) => btoa(String.fromCharCode(...(typeof value === 'string' ? utf8(value) : value)));
const decode = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

// attributes reads "r=…,s=…,i=…".
const attributes = (message) => Object.fromEntries(message.split(',').map((part) => [part[0], part.slice(2)]));

async function hmac(hash, key, data) {
  const imported = await crypto.subtle.importKey('raw', key, { name: 'HMAC', hash }, false, ['sign']);
  return new Uint8Array(await crypto.subtle.sign('HMAC', imported, data));
}

// choose returns the best mechanism that both sides know, if any.
export const choose = (offered) => globalThis.crypto?.subtle && Object.keys(hashes).find((name) => offered.includes(name));

export class Scram {
  #mechanism;
  #first;
  #nonce;
  #password;
  #signature; // what a server that knows the password answers

  constructor(mechanism, user, password) {
    this.#mechanism = mechanism;
    this.#nonce = encode(crypto.getRandomValues(new Uint8Array(18)));
    this.#first = `n=${user.replaceAll('=', '=3D').replaceAll(',', '=2C')},r=${this.#nonce}`;
    this.#password = password.normalize('NFKC'); // the part of SASLprep that matters here
  }

  // start returns the initial response; "n" is: no channel binding.
  start() { return encode('n,,' + this.#first); }

  async answer(challenge) {
    const message = text(decode(challenge));
    const { r, s, i } = attributes(message);
    const rounds = Number(i);
    if (!r?.startsWith(this.#nonce) || !s || !(rounds >= 4096 && rounds <= 1e6)) throw new Error('bad SCRAM challenge');

    const [hash, bits] = hashes[this.#mechanism];
    const withoutProof = `c=biws,r=${r}`; // biws: base64 of "n,,"
    const signed = utf8(`${this.#first},${message},${withoutProof}`);
    const password = await crypto.subtle.importKey('raw', utf8(this.#password), 'PBKDF2', false, ['deriveBits']);
    const salted = new Uint8Array(await crypto.subtle.deriveBits(
      { name: 'PBKDF2', hash, salt: decode(s), iterations: rounds }, password, bits));
    const clientKey = await hmac(hash, salted, utf8('Client Key'));
    const storedKey = new Uint8Array(await crypto.subtle.digest(hash, clientKey));
    const mask = await hmac(hash, storedKey, signed);
    this.#signature = encode(await hmac(hash, await hmac(hash, salted, utf8('Server Key')), signed));
    return encode(`${withoutProof},p=${encode(clientKey.map((byte, n) => byte ^ mask[n]))}`);
  }

  // verify tells whether the server knows the password too.
  verify(success) {
    return Boolean(this.#signature) && attributes(text(decode(success))).v === this.#signature;
  }
}
