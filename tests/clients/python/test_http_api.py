"""The `pusher` package against the HTTP API, watched by pysher clients."""

import base64
import hashlib
import json

import nacl.secret
import pusher
import pytest
from pusher.errors import PusherBadAuth, PusherBadRequest, PusherBadStatus, PusherForbidden

from conftest import MASTER_KEY
from fanfare import APP, DISABLED
from listener import DEADLINE


def test_trigger(api, listen):
    listener = listen(["news"], ["flash"]).subscribed()
    assert api.trigger("news", "flash", {"text": "hello"}) == {}
    assert listener.next_json("flash") == {"text": "hello"}


def test_trigger_on_a_hundred_channels(api, listen):
    names = [f"many-{n}" for n in range(100)]
    listener = listen(names, ["tick"]).subscribed()
    assert api.trigger(names, "tick", "1") == {}
    received = sorted(listener.inbox.get(timeout=DEADLINE)[0] for _ in names)
    assert received == sorted(names)
    listener.heard_nothing()


def test_more_than_a_hundred_channels_are_refused(api):
    with pytest.raises(ValueError):
        api.trigger([f"many-{n}" for n in range(101)], "tick", "1")


def test_trigger_without_channels_is_refused(api):
    with pytest.raises(PusherBadRequest):
        api.trigger_batch([{"name": "tick", "data": "1"}], already_encoded=True)


def test_socket_id_keeps_an_event_from_its_sender(api, listen):
    sender = listen(["others"], ["said", "end"]).subscribed()
    other = listen(["others"], ["said", "end"]).subscribed()
    api.trigger("others", "said", "hi", sender.socket_id)
    api.trigger("others", "end", "")
    sender.next("end")
    other.next("said")
    other.next("end")


def test_a_malformed_socket_id_is_refused(api):
    with pytest.raises(ValueError):
        api.trigger("others", "said", "hi", "12")
    with pytest.raises(PusherBadRequest):
        api.trigger_batch(
            [{"channel": "others", "name": "said", "data": "hi", "socket_id": "12"}], already_encoded=True
        )


@pytest.mark.parametrize(
    "data",
    ["plain text", "déjà vu, 日本語", "🎺🎺 fanfare 👩‍👩‍👧‍👦", "nul \0 and \"quotes\" \\", "", "123", "x" * 10_240],
    ids=["plain", "letters", "emoji", "control", "empty", "number", "longest"],
)
def test_text_arrives_as_it_was_published(api, listen, data):
    listener = listen(["forms"], ["form"]).subscribed()
    api.trigger("forms", "form", data)
    assert listener.next("form") == data


def test_structures_arrive_as_json(api, listen):
    data = {"ключ": ["значение", None, True, 1.5], "🎺": {}}
    listener = listen(["forms"], ["form"]).subscribed()
    api.trigger("forms", "form", data)
    assert listener.next_json("form") == data


def test_too_much_data_is_413(api):
    # This SDK lets three times the limit through, so the server has to say it.
    with pytest.raises(PusherBadStatus, match="413: .*content of this event"):
        api.trigger("forms", "form", "x" * 10_241)


def test_trigger_batch(api, listen):
    listener = listen(["batch-a", "batch-b"], ["one", "two"]).subscribed()
    batch = [
        {"channel": "batch-a", "name": "one", "data": {"n": 1}},
        {"channel": "batch-b", "name": "two", "data": "für 🎺"},
    ]
    assert api.trigger_batch(batch) == {}
    assert listener.inbox.get(timeout=DEADLINE) == ("batch-a", "one", '{"n": 1}')
    assert listener.inbox.get(timeout=DEADLINE) == ("batch-b", "two", "für 🎺")


def test_trigger_batch_with_info(api, listen):
    listen(["counted"]).subscribed()
    answer = api.trigger_batch(
        [
            {"channel": "counted", "name": "tick", "data": "1", "info": "subscription_count"},
            {"channel": "counted", "name": "tick", "data": "2"},
        ]
    )
    assert answer == {"batch": [{"subscription_count": 1}, {}]}


def test_a_batch_of_eleven_is_refused(api):
    with pytest.raises(PusherBadRequest, match="Batch too large"):
        api.trigger_batch([{"channel": "c", "name": "n", "data": "d"}] * 11)


def test_channels_info(api, listen):
    assert api.channels_info("info-nobody-") == {"channels": {}}
    listen(["info-open", "private-info"]).subscribed()
    for _ in range(2):
        listen(["presence-info"], user_data={"user_id": "one"}).subscribed()
    assert api.channels_info("info-") == {"channels": {"info-open": {}}}
    assert api.channels_info("presence-info", ["user_count"]) == {"channels": {"presence-info": {"user_count": 1}}}
    assert {"info-open", "private-info", "presence-info"} <= set(api.channels_info()["channels"])


def test_channels_info_with_user_count_needs_a_presence_prefix(api):
    with pytest.raises(PusherBadRequest, match="presence"):
        api.channels_info("private-", ["user_count"])


def test_channel_info(api, listen):
    assert api.channel_info("presence-single", ["user_count", "subscription_count"]) == {
        "occupied": False,
        "user_count": 0,
        "subscription_count": 0,
    }
    for _ in range(2):
        listen(["presence-single"], user_data={"user_id": "one"}).subscribed()
    assert api.channel_info("presence-single", ["user_count", "subscription_count"]) == {
        "occupied": True,
        "user_count": 1,
        "subscription_count": 2,
    }
    assert api.channel_info("presence-single") == {"occupied": True}


def test_channel_info_refuses_what_it_cannot_count(api):
    with pytest.raises(PusherBadRequest, match="user count unless the channel is a presence channel"):
        api.channel_info("open", ["user_count"])
    with pytest.raises(PusherBadRequest):
        api.channel_info("open", ["shoe_size"])


def test_users_info(api, listen):
    assert api.users_info("presence-users") == {"users": []}
    listen(["presence-users"], user_data={"user_id": "one"}).subscribed()
    listen(["presence-users"], user_data={"user_id": 2}).subscribed()
    users = api.users_info("presence-users")["users"]
    assert sorted(users, key=lambda user: user["id"]) == [{"id": "2"}, {"id": "one"}]


def test_users_info_of_another_channel_is_refused(api):
    with pytest.raises(PusherBadRequest, match="presence"):
        api.users_info("private-room")


def test_a_wrong_secret_is_401(sdk):
    stranger = sdk(secret="guessed")
    for call in (
        lambda: stranger.trigger("a", "b", "c"),
        lambda: stranger.trigger_batch([{"channel": "a", "name": "b", "data": "c"}]),
        stranger.channels_info,
        lambda: stranger.channel_info("a"),
        lambda: stranger.users_info("presence-a"),
    ):
        with pytest.raises(PusherBadAuth, match="Invalid signature"):
            call()


def test_an_unknown_key_is_401(sdk):
    with pytest.raises(PusherBadAuth):
        sdk(key="nobody").channels_info()


def test_a_disabled_app_is_403(sdk):
    with pytest.raises(PusherForbidden):
        sdk(**DISABLED).channels_info()


def test_an_unknown_app_is_404(sdk):
    with pytest.raises(PusherBadStatus, match="404"):
        sdk(app_id="999").channels_info()


def test_a_client_made_from_a_url(server):
    url = f"http://{APP['key']}:{APP['secret']}@{server.host}/apps/{APP['app_id']}"
    assert pusher.Pusher.from_url(url, port=server.port).trigger("a", "b", "c") == {}


def subscribe_with(listener, channel, answer):
    """Sends what an authorisation route answered, channel_data included, through pysher."""
    listener.client.channels[channel] = pysher_channel(listener, channel)
    listener.client.connection.send_event("pusher:subscribe", {"channel": channel, **answer})


def pysher_channel(listener, name):
    from pysher.channel import Channel

    channel = Channel(name, listener.client.connection)
    listener.watch(channel, ["pusher:subscription_error", "hello"])
    return channel


@pytest.mark.parametrize(
    ("channel", "custom_data"),
    [
        ("private-signed", None),
        ("private-signed", {"user_id": "7", "user_info": {"name": "Jürgen 🎺"}}),
        ("presence-signed", {"user_id": "7", "user_info": {"name": "Jürgen 🎺"}}),
        ("presence-signed", {"user_id": 7}),
    ],
    ids=["private", "private-custom-data", "presence", "presence-number"],
)
def test_authenticate(api, listen, channel, custom_data):
    listener = listen().connected()
    subscribe_with(listener, channel, api.authenticate(channel, listener.socket_id, custom_data))
    greeting = listener.next_json("pusher_internal:subscription_succeeded")
    if custom_data is None or channel.startswith("private-"):
        assert greeting == {}
    else:
        expected = {"7": custom_data.get("user_info")}
        assert greeting == {"presence": {"count": 1, "ids": ["7"], "hash": expected}}
    api.trigger(channel, "hello", "you")
    assert listener.next("hello") == "you"


@pytest.mark.parametrize("channel", ["private-signed", "presence-signed"])
def test_authenticate_with_other_data_is_refused(api, listen, channel):
    listener = listen().connected()
    answer = api.authenticate(channel, listener.socket_id, {"user_id": "7"})
    subscribe_with(listener, channel, {**answer, "channel_data": '{"user_id": "8"}'})
    assert listener.errors.get(timeout=DEADLINE)["code"] is None
    assert listener.next_json("pusher:subscription_error")["type"] == "AuthError"


def test_an_encrypted_event_is_relayed_unread(api, listen):
    channel = "private-encrypted-bank"
    listener = listen([channel], ["paid"]).subscribed()
    api.trigger(channel, "paid", {"card": "4000 0000"})
    sealed = listener.next_json("paid")
    assert set(sealed) == {"nonce", "ciphertext"}
    secret = hashlib.sha256(channel.encode() + base64.b64decode(MASTER_KEY)).digest()
    opened = nacl.secret.SecretBox(secret).decrypt(
        base64.b64decode(sealed["ciphertext"]), base64.b64decode(sealed["nonce"])
    )
    assert json.loads(opened) == {"card": "4000 0000"}
