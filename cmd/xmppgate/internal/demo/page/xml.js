// XML out and in. Out is text, so that the panel shows exactly what was sent;
// every interpolated value is escaped.

const forbidden = /[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu; // by XML 1.0, section 2.2

export const escape = (value) => String(value)
  .replace(forbidden, '\uFFFD')
  .replace(/[&<>"'\r]/g, (c) => `&#${c.charCodeAt(0)};`);

// xml`<a b="${value}"/>` is that text with the values escaped.
export const xml = (strings, ...values) => String.raw({ raw: strings }, ...values.map(escape));

// parse returns the element of one message, or null when it is not well-formed.
export function parse(text) {
  const document = new DOMParser().parseFromString(text, 'text/xml');
  return document.getElementsByTagName('parsererror').length ? null : document.documentElement;
}

// child returns the first child element by that name, and namespace if given.
export const child = (element, name, namespace) => [...element?.children ?? []].find((c) =>
  c.localName === name && (!namespace || c.namespaceURI === namespace));
