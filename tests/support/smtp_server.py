"""An SMTP server for tests: it keeps nothing, and prints what it receives.

The one argument is a JSON object:
  tls            "none" (default), "starttls" (required before anything else) or "wrapper" (TLS from the start)
  certificate    the file with the certificate and its key, for TLS
  user, password those that must be given; none are asked for without them

The first line on stdout is {"port": ...}; each message that is received is one more. It ends when stdin does.

Recipients are treated by their local part: "unknown", "later", "relay", "hangs", "closes" (the connection); the sender
"banned" is refused; a recipient "silent" gets the message, but no answer to QUIT; and the first message to "busy" is
received, but refused for now.
"""

import asyncio
import email
import email.policy
import json
import logging
import ssl
import sys
import warnings

from aiosmtpd.smtp import SMTP, AuthResult

REFUSALS = {
    "unknown": "550 5.1.1 no such user",
    "later": "451 4.3.0 try again later",
    "relay": "554 5.7.1 relay access denied",
}


def tell(what):
    print(json.dumps(what), flush=True)


def part(message, kind):
    found = message.get_body(preferencelist=(kind,))
    return found.get_content() if found else None


busy = set()


class Handler:
    silent = False

    async def handle_MAIL(self, server, session, envelope, address, options):
        if address.startswith("banned@"):
            return "550 5.1.8 sender refused"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        name = address.split("@")[0]
        if name == "hangs":
            await asyncio.Event().wait()
        if name == "closes":
            server.transport.abort()
        self.silent = self.silent or name == "silent"
        if name in REFUSALS:
            return REFUSALS[name]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        tell({
            "hello": session.host_name,
            "encrypted": session.ssl is not None or server.transport.get_extra_info("ssl_object") is not None,
            "authenticated": bool(session.authenticated),
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "headers": [[name, str(value)] for name, value in message.items()],
            "type": message.get_content_type(),
            "text": part(message, "plain"),
            "html": part(message, "html"),
            "raw": envelope.content.decode("utf-8"),
        })
        again = [to for to in envelope.rcpt_tos if to.startswith("busy@") and to not in busy]
        busy.update(again)
        return "451 4.3.2 busy" if again else "250 2.0.0 accepted"

    async def handle_QUIT(self, server, session, envelope):
        if self.silent:
            await asyncio.Event().wait()
        return "221 bye"


def authenticator(options):
    def check(server, session, envelope, mechanism, given):
        expected = (options["user"].encode(), options["password"].encode())
        return AuthResult(success=(given.login, given.password) == expected, handled=False)

    return check


async def main(options):
    mode = options.get("tls", "none")
    context = None
    if mode != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options["certificate"])
    loop = asyncio.get_running_loop()
    arguments = {"hostname": "smtp.test", "loop": loop}
    if mode == "starttls":
        arguments.update(tls_context=context, require_starttls=True)
    if "user" in options:
        arguments.update(auth_required=True, auth_require_tls=mode == "starttls", authenticator=authenticator(options))
    server = await loop.create_server(
        lambda: SMTP(Handler(), **arguments), "127.0.0.1", 0, ssl=context if mode == "wrapper" else None
    )
    tell({"port": server.sockets[0].getsockname()[1]})
    # Whoever started this holds the other end.
    await loop.run_in_executor(None, sys.stdin.buffer.read)


# Clients that go away are a part of the tests.
logging.disable()
warnings.simplefilter("ignore")
asyncio.run(main(json.loads(sys.argv[1])))
