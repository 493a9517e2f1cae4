"""The receiver in `docs/webhooks.md`, tested with forged requests."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import time
from contextlib import closing, contextmanager
from http.server import HTTPServer
from threading import Thread

import pytest

from firelock.integrations.webhooks import verify
from tests.repository.docs.pages import ROOT, python_blocks

SECRET = "from-your-settings-not-from-code"
BODY = b'{"event": "failed"}'
FORGED = [
    pytest.param({"Firelock-Timestamp": "²"}, id="superscript"),
    pytest.param({"Firelock-Timestamp": "٣" * 10}, id="other-digits"),
    pytest.param({"Firelock-Timestamp": "9" * 5_000}, id="five-thousand-digits"),
    pytest.param({"Firelock-Timestamp": "-1"}, id="negative"),
    pytest.param({"Firelock-Timestamp": ""}, id="empty"),
    pytest.param({"Firelock-Signature": "v1=é"}, id="no-ascii"),
    pytest.param({"Firelock-Signature": "\udce9"}, id="surrogate"),
    pytest.param({"Firelock-Signature": ""}, id="no-signature"),
]


def printed(name):
    """Return the object with this name in the page's blocks, after the blocks before it have run."""
    names = {"SECRET": SECRET}
    for block in python_blocks((ROOT / "docs/webhooks.md").read_text(encoding="utf-8")):
        if "def is_genuine" in block.code:
            exec(block.code, names)
        elif "class Receiver" in block.code and name == "Receiver":
            exec(block.code.partition("receiver = ")[0], names)
    return names[name]


@contextmanager
def listening(handler):
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def connected(server):
    return closing(http.client.HTTPConnection(*server.server_address, timeout=10))


def signed(**changes):
    now = str(int(time.time()))
    signature = hmac.new(SECRET.encode(), now.encode() + b"." + BODY, hashlib.sha256).hexdigest()
    return {"Firelock-Timestamp": now, "Firelock-Signature": f"v1={signature}"} | changes


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("check", [printed("is_genuine"), verify], ids=["printed", "library"])
def test_forged_headers_are_not_genuine(check, forged):
    assert check(signed(), BODY, SECRET) is True
    assert check(signed(**forged), BODY, SECRET) is False


@pytest.mark.parametrize("length", ["²", "-1", "9" * 5_000, "x", None])
def test_printed_receiver_answers_a_request_whose_length_is_forged(length, capfd):
    with listening(printed("Receiver")) as server, connected(server) as connection:
        connection.putrequest("POST", "/")
        for name, value in (signed() | ({} if length is None else {"Content-Length": length})).items():
            connection.putheader(name, value.encode())
        connection.endheaders()
        status = connection.getresponse().status

    assert status in {400, 411}
    assert "Traceback" not in capfd.readouterr().err


def test_printed_receiver_refuses_an_unsigned_request():
    with listening(printed("Receiver")) as server, connected(server) as connection:
        connection.request("POST", "/", BODY, signed() | {"Firelock-Signature": "v1=0"})
        status = connection.getresponse().status

    assert status == 403
