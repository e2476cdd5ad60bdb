// The client side of SCRAM-SHA-256 (RFC 5802, RFC 7677). WebCrypto exists in
// secure contexts only: https, and http on localhost and 127.0.0.1.

const utf8 = (text) => new TextEncoder().encode(text);
const text = (bytes) => new TextDecoder().decode(bytes);
export const encode = (value) => btoa(String.fromCharCode(...(typeof value === 'string' ? utf8(value) : value)));
const decode = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

// attributes reads "r=…,s=…,i=…".
const attributes = (message) => Object.fromEntries(message.split(',').map((part) => [part[0], part.slice(2)]));

async function hmac(key, data) {
  const imported = await crypto.subtle.importKey('raw', key, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  return new Uint8Array(await crypto.subtle.sign('HMAC', imported, data));
}

export const available = () => Boolean(globalThis.crypto?.subtle);

export class Scram {
  #first;
  #nonce;
  #password;
  #signature; // what a server that knows the password answers

  constructor(user, password) {
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

    const withoutProof = `c=biws,r=${r}`; // biws: base64 of "n,,"
    const signed = utf8(`${this.#first},${message},${withoutProof}`);
    const password = await crypto.subtle.importKey('raw', utf8(this.#password), 'PBKDF2', false, ['deriveBits']);
    const salted = new Uint8Array(await crypto.subtle.deriveBits(
      { name: 'PBKDF2', hash: 'SHA-256', salt: decode(s), iterations: rounds }, password, 256));
    const clientKey = await hmac(salted, utf8('Client Key'));
    const storedKey = new Uint8Array(await crypto.subtle.digest('SHA-256', clientKey));
    const mask = await hmac(storedKey, signed);
    this.#signature = encode(await hmac(await hmac(salted, utf8('Server Key')), signed));
    return encode(`${withoutProof},p=${encode(clientKey.map((byte, n) => byte ^ mask[n]))}`);
  }

  // verify tells whether the server knows the password too.
  verify(success) {
    return Boolean(this.#signature) && attributes(text(decode(success))).v === this.#signature;
  }
}
