#!/usr/bin/python3
"""A client of nbxmpp, Gajim's library, that does what it is told; README.md has the commands."""

import base64
import sys
import threading

import gi

gi.require_version("Soup", "3.0")
import nbxmpp
from gi.repository import GLib
from nbxmpp.client import Client
from nbxmpp.const import ConnectionProtocol, ConnectionType
from nbxmpp.protocol import Message, Presence
from nbxmpp.structs import StanzaHandler

url, domain, user, password = sys.argv[1:]


def tell(event, *args):
    print(">", event, *args, flush=True)


class Driven:
    def __init__(self):
        self.leaving = False
        self.client = Client(log_context="e2e")
        self.client.set_domain(domain)
        self.client.set_username(user)
        self.client.set_password(password)
        self.client.set_resource("nbxmpp")
        secure = ConnectionType.DIRECT_TLS if url.startswith("wss:") else ConnectionType.PLAIN
        self.client.set_custom_host(url, ConnectionProtocol.WEBSOCKET, secure)
        self.client.subscribe("connected", self.connected)
        self.client.subscribe("resume-successful", self.resumed)
        self.client.subscribe("disconnected", self.disconnected)
        self.client.subscribe("connection-failed", lambda *_: tell("failed", self.client.get_error()))
        self.client.register_handler(StanzaHandler(name="message", callback=self.received, priority=50))

    def connected(self, *_):
        self.client.send_stanza(Presence())
        tell("online", self.client.get_bound_jid(), "new")

    def resumed(self, *_):
        tell("online", self.client.get_bound_jid(), "resumed")

    def disconnected(self, *_):
        tell("closed" if self.leaving else "lost")

    def received(self, _client, stanza, _properties):
        body = stanza.getBody()
        if body:
            tell("message", base64.b64encode(body.encode()).decode())

    def connect(self):
        self.client.connect()

    def say(self, to, body):
        self.client.send_stanza(Message(to=to, body=base64.b64decode(body).decode(), typ="chat"))

    def close(self):
        self.leaving = True
        self.client.disconnect()


loop = GLib.MainLoop()
driven = Driven()


def do(line):
    name, *args = line.split()
    try:
        getattr(driven, name)(*args)
    except Exception as error:  # told, like all that goes wrong
        tell("failed", repr(error))


def read():  # in a thread of its own: the loop must not wait for a line
    for line in sys.stdin:
        GLib.idle_add(do, line)
    GLib.idle_add(loop.quit)


tell("version", nbxmpp.__version__)
threading.Thread(target=read, daemon=True).start()
loop.run()
